"""Figures of the current filters."""

from pytorch_lightning import LightningModule, Trainer

from simplecnn.callbacks.image_callback import LayerCallback, Picture, Pictures
from simplecnn.figures.filters import filters_figure
from simplecnn.models.activations import convolutions, network_of


class Filters(LayerCallback):
    """Draw every filter of each convolution."""

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> Pictures:
        first = next(iter(convolutions(network_of(module))), None)
        for name, layer in self.selected(module).items():
            weights = layer.weight.detach().float().cpu().numpy()
            in_color = name == first and weights.shape[1] == 3
            figure = filters_figure(weights, title=f"Filters of {name}, {when}", in_color=in_color)
            yield f"filters_{name}", Picture(figure, {"weights": weights})
