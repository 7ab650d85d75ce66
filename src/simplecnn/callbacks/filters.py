"""Pictures of the filters while they are learned."""

from matplotlib.figure import Figure
from pytorch_lightning import LightningModule, Trainer

from simplecnn.activations import convolutions
from simplecnn.callbacks.images import ImageCallback
from simplecnn.errors import InputError
from simplecnn.figures.filters import filters_figure


class Filters(ImageCallback):
    """Every filter of the first convolution, or of the `layers` named (`all` for every one)."""

    def __init__(
        self, dirpath: str, layers: str | list[str] = "first", every_n_epochs: int = 1
    ) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.layers = layers

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        select_layers(list(convolutions(pl_module.network)), self.layers)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Figure]:
        found = convolutions(module.network)
        return {
            f"filters_{name}": filters_figure(
                found[name].weight.detach().float().cpu().numpy(),
                title=f"Filters of {name}, {when}",
            )
            for name in select_layers(list(found), self.layers)
        }


def select_layers(names: list[str], wanted: str | list[str]) -> list[str]:
    """The convolutions asked for: `first`, `all`, or a list of names. Raises InputError."""
    if wanted == "all":
        return names
    if wanted == "first":
        return names[:1]
    chosen = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in chosen:
        if name not in names:
            raise InputError(
                f"layers: {name!r} is not a convolution of this network. "
                f"Allowed: first, all, or a list of {', '.join(names)}."
            )
    return chosen
