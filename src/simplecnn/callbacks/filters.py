"""Figures of the current filters."""

from pytorch_lightning import LightningModule, Trainer

from simplecnn.callbacks.image_callback import (
    LayerCallback,
    Picture,
    Pictures,
    reads_color,
)
from simplecnn.figures.filters import filters_figure


class Filters(LayerCallback):
    """Draw every filter of each convolution."""

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> Pictures:
        for name, layer in self.selected(module).items():
            weights = layer.weight.detach().float().cpu().numpy()
            figure = filters_figure(
                weights, title=f"Filters of {name}, {when}", in_color=reads_color(module, layer)
            )
            yield f"filters_{name}", Picture(figure, {"weights": weights})
