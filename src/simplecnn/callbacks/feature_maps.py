"""Pictures of what every channel makes of the probe digits."""

from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer

from simplecnn.activations import feature_maps
from simplecnn.callbacks.images import ImageCallback, select_layers
from simplecnn.figures.feature_maps import feature_maps_figure


class FeatureMaps(ImageCallback):
    """Every channel after each convolution's ReLU, for one probe digit of each class.

    `layers` is `all`, `first`, or a list of names.
    """

    def __init__(
        self, dirpath: str, layers: str | list[str] = "all", every_n_epochs: int = 5
    ) -> None:
        super().__init__(dirpath, layers, every_n_epochs)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Figure]:
        images, labels = trainer.datamodule.probes()
        maps, logits = feature_maps(module.network, images.to(module.device))
        names = trainer.datamodule.class_names
        return {
            f"maps_{layer}": feature_maps_figure(
                images.cpu().numpy(),
                maps[layer].float().cpu().numpy(),
                labels=[names[i] for i in labels.tolist()],
                predictions=[names[i] for i in logits.argmax(1).tolist()],
                title=f"Feature maps of {layer}, {when}",
            )
            for layer in select_layers(list(maps), self.layers)
        }
