"""A picture of how the run learned: loss, accuracy, learning rate."""

import time
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.history import History
from simplecnn.callbacks.images import ImageCallback, Picture, looks
from simplecnn.figures.curves import curves_figure
from simplecnn.models.classifier import steps_in_batch, steps_per_epoch

PER_EPOCH = 50  # steps looked at


class Curves(ImageCallback):
    """Metrics after every epoch, and the loss and the learning rate at some steps in between.

    `curves_epochs.npz` and `curves_steps.npz` hold the numbers.
    """

    history = True

    def __init__(self, dirpath: str, every_n_epochs: int = 10) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.epochs = History(self.dirpath / "curves_epochs.npz")
        self.steps = History(self.dirpath / "curves_steps.npz")
        self._every = 1
        self._seen: list[tuple[int, Any, Any]] = []  # step, loss, rate: not waited for yet
        self._began = 0.0
        self._validated = False  # in this epoch

    def state_dict(self) -> dict[str, Any]:
        seen = [[step, _number(loss), _number(rate)] for step, loss, rate in self._seen]
        return super().state_dict() | {"seen": seen}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._seen = [tuple(values) for values in state_dict.get("seen", [])]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._every = max(1, steps_per_epoch(trainer) // PER_EPOCH)
        if looks(trainer):
            for history in (self.epochs, self.steps):
                history.resume(trainer.global_step)
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.perf_counter()
        self._validated = False

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any
    ) -> None:
        step = trainer.global_step
        # A batch may hold several steps: its loss is that of the last.
        if step % self._every < steps_in_batch(trainer) and looks(trainer):
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            self._seen.append((step, *(_kept(value) for value in (loss, rate))))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if looks(trainer):
            with self.timed():
                seconds = time.perf_counter() - self._began
                for step, loss, rate in self._seen:
                    self.steps.add(step, loss=_number(loss), lr=_number(rate))
                self._seen = []
                metrics = {
                    name: _number(value)
                    for name, value in trainer.callback_metrics.items()
                    if self._validated or name.startswith("train/")
                }
                self.epochs.add(
                    trainer.global_step,
                    epoch=trainer.current_epoch + 1,
                    seconds=seconds,
                    **metrics,
                )
                self.epochs.save()
                self.steps.save()
        super().on_train_epoch_end(trainer, pl_module)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        if not self.epochs.rows:
            return {}
        epochs, steps = self.epochs.arrays(), self.steps.arrays()
        title = f"Curves, {when}; {np.median(epochs['seconds']):.3g} s an epoch"
        accuracy = epochs.get("val/acc", np.zeros(0))
        if np.isfinite(accuracy).any():
            best = int(np.nanargmax(accuracy))
            title += (
                f"; best validation accuracy {100 * accuracy[best]:.2f} % after epoch "
                f"{int(epochs['epoch'][best])}"
            )
        figure = curves_figure(epochs, steps, steps_per_epoch=steps_per_epoch(trainer), title=title)
        return {"curves": Picture(figure, epochs | steps)}


def _kept(value: Any) -> Any:
    """A copy that the next step does not overwrite, still on its device."""
    return value.detach().clone() if isinstance(value, Tensor) else value


def _number(value: Any) -> float:
    return np.nan if value is None else float(value)
