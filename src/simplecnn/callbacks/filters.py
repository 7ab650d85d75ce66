"""Figures of the current filters."""

from pytorch_lightning import LightningModule, Trainer

from simplecnn.callbacks.image_callback import Figures, LayerCallback
from simplecnn.figures.filters import filters_figure
from simplecnn.models.activations import network_of, reads_color


class Filters(LayerCallback):
    """Draw every filter of each convolution."""

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> Figures:
        for name, layer in self.selected(module).items():
            weights = layer.weight.detach().float().cpu().numpy()
            in_color = reads_color(network_of(module), layer)
            figure = filters_figure(weights, title=f"Filters of {name}, {when}", in_color=in_color)
            yield f"filters_{name}", figure, {"weights": weights}
