"""What the picture callbacks share: when they draw, and where a picture goes."""

import time
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer

from simplecnn.activations import convolutions
from simplecnn.errors import InputError
from simplecnn.figures.png import encode_png
from simplecnn.loggers import TensorBoard
from simplecnn.whole_files import write_whole


class ImageCallback(Callback):
    """Draws at the start, after every n-th epoch and at the end, on rank zero.

    A picture goes to `<dirpath>/<name>_epoch=…_step=….png` and to TensorBoard. `layers` names
    convolutions: `first`, `all`, or a list. Subclasses give `draw`. `seconds` adds up what all of
    it cost.
    """

    def __init__(self, dirpath: str, layers: str | list[str], every_n_epochs: int) -> None:
        self.dirpath = Path(dirpath)
        self.layers = layers
        self.every_n_epochs = every_n_epochs
        self.seconds = 0.0
        self._drawn_at_step = -1

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        select_layers(list(convolutions(pl_module.network)), self.layers)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Figure]:
        """The pictures of this moment by name; `when` belongs in their titles."""
        raise TypeError(f"{type(self).__name__} has to define draw")

    def state_dict(self) -> dict[str, Any]:
        return {"drawn_at_step": self._drawn_at_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._drawn_at_step = state_dict["drawn_at_step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:  # a run that goes on has drawn what was due
            self._look(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self._look(trainer, pl_module, after_epoch=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._look(trainer, pl_module)

    def _look(self, trainer: Trainer, module: LightningModule, after_epoch: bool = False) -> None:
        step = trainer.global_step
        if not trainer.is_global_zero or trainer.fast_dev_run or step == self._drawn_at_step:
            return
        self._drawn_at_step = step
        start = time.perf_counter()
        epoch = trainer.fit_loop.epoch_progress.current.completed + after_epoch
        self.dirpath.mkdir(parents=True, exist_ok=True)
        for name, figure in self.draw(trainer, module, f"epoch {epoch}, step {step}").items():
            png, width, height = encode_png(figure)
            path = self.dirpath / f"{name}_epoch={epoch:03d}_step={step:06d}.png"
            write_whole(path, png)
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoard):
                    logger.add_png(name.replace("_", "/", 1), png, width, height, step)
        self.seconds += time.perf_counter() - start


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
