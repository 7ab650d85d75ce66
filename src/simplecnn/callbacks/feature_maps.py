"""Pictures of what every channel makes of the probe digits."""

from pytorch_lightning import LightningModule, Trainer

from simplecnn.callbacks.images import ImageCallback, Picture, select_layers
from simplecnn.figures.feature_maps import feature_maps_figure
from simplecnn.models.activations import convolutions, feature_maps


class FeatureMaps(ImageCallback):
    """Every channel after each convolution's ReLU, for one probe digit of each class.

    `layers` is `all`, `first`, or a list of names.
    """

    def __init__(
        self, dirpath: str, layers: str | list[str] = "all", every_n_epochs: int = 10
    ) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.layers = layers

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        select_layers(list(convolutions(pl_module.network)), self.layers)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        images, labels = trainer.datamodule.probes()
        found, logits = feature_maps(module.network, images.to(module.device))
        names = trainer.datamodule.class_names
        predictions = logits.argmax(1).cpu()
        shown = images.float().cpu().numpy()
        pictures = {}
        for layer in select_layers(list(found), self.layers):
            maps = found[layer].float().cpu().numpy()
            figure = feature_maps_figure(
                shown,
                maps,
                labels=[names[i] for i in labels.tolist()],
                predictions=[names[i] for i in predictions.tolist()],
                title=f"Feature maps of {layer}, {when}",
            )
            arrays = {"images": shown, "maps": maps, "labels": labels.cpu().numpy(),
                      "predictions": predictions.numpy()}  # fmt: skip
            pictures[f"maps_{layer}"] = Picture(figure, arrays)
        return pictures
