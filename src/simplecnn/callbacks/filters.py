"""Pictures of the filters while they are learned."""

from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer

from simplecnn.activations import convolutions
from simplecnn.callbacks.images import ImageCallback, select_layers
from simplecnn.figures.filters import filters_figure


class Filters(ImageCallback):
    """Every filter of the first convolution, or of the `layers` named (`all` for every one)."""

    def __init__(
        self, dirpath: str, layers: str | list[str] = "first", every_n_epochs: int = 1
    ) -> None:
        super().__init__(dirpath, layers, every_n_epochs)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Figure]:
        found = convolutions(module.network)
        return {
            f"filters_{name}": filters_figure(
                found[name].weight.detach().float().cpu().numpy(),
                title=f"Filters of {name}, {when}",
            )
            for name in select_layers(list(found), self.layers)
        }
