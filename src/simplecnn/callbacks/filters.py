"""Pictures of the filters at one moment."""

from pytorch_lightning import LightningModule, Trainer

from simplecnn.callbacks.image_callback import ImageCallback, Picture, network_of, select_layers
from simplecnn.figures.filters import filters_figure
from simplecnn.models.activations import convolutions


class Filters(ImageCallback):
    """Every filter of the first convolution, or of the `layers` named (`all` for every one)."""

    def __init__(
        self, dirpath: str, layers: str | list[str] = "first", every_n_epochs: int = 10
    ) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.layers = layers

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        select_layers(list(convolutions(network_of(pl_module))), self.layers)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        layers = convolutions(network_of(module))
        pictures = {}
        for name in select_layers(list(layers), self.layers):
            weights = layers[name].weight.detach().float().cpu().numpy()
            in_color = name == next(iter(layers)) and weights.shape[1] == 3
            figure = filters_figure(weights, title=f"Filters of {name}, {when}", in_color=in_color)
            pictures[f"filters_{name}"] = Picture(figure, {"weights": weights})
        return pictures
