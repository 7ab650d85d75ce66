"""Figures of the feature maps of the probe images."""

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.image_callback import Figures, LayerCallback
from simplecnn.callbacks.probes import class_names, probes
from simplecnn.figures.feature_maps import feature_maps_figure
from simplecnn.models.activations import feature_maps, network_of


class FeatureMaps(LayerCallback):
    """Draw every channel after each convolution's ReLU, for one probe image per class."""

    def __init__(
        self, dirpath: str, layers: str | list[str] = "all", every_n_epochs: int = 10
    ) -> None:
        super().__init__(dirpath, layers, every_n_epochs)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> Figures:
        layers = self.selected(module)
        probe_images = probes(trainer, module) if layers else None
        if probe_images is None:
            return
        images, labels = probe_images
        try:
            maps, logits = feature_maps(network_of(module), images)
        except NotImplementedError:  # a LightningModule without forward
            return
        if not (isinstance(logits, Tensor) and logits.ndim == 2):  # but several outputs
            return
        names = class_names(trainer, logits.shape[1])
        predictions = logits.argmax(1).cpu()
        inputs = images.float().cpu().numpy()
        for layer in (name for name in maps if name in layers):
            channels = maps[layer].float().cpu().numpy()
            figure = feature_maps_figure(
                inputs,
                channels,
                labels=[names[i] for i in labels.tolist()],
                predictions=[names[i] for i in predictions.tolist()],
                title=f"Feature maps of {layer}, {when}",
            )
            arrays = {"images": inputs, "maps": channels, "labels": labels.cpu().numpy(),
                      "predictions": predictions.numpy()}  # fmt: skip
            yield f"maps_{layer}", figure, arrays
