"""Figures of the current filters."""

from pytorch_lightning import LightningModule, Trainer

from simplecnn.callbacks.image_callback import Figures, LayerCallback, reads_color
from simplecnn.figures.filters import filters_figure


class Filters(LayerCallback):
    """Draw every filter of each convolution."""

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> Figures:
        for name, layer in self.selected(module).items():
            weights = layer.weight.detach().float().cpu().numpy()
            title, in_color = f"Filters of {name}, {when}", reads_color(module, layer)
            figure = filters_figure(weights, title=title, in_color=in_color)
            yield f"filters_{name}", figure, {"weights": weights}
