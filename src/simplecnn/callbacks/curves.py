"""A picture of how the run learned: loss, accuracy, learning rate."""

import time
from typing import Any

import numpy as np
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.history import History
from simplecnn.callbacks.image_callback import ImageCallback, Picture, draws, steps_per_epoch
from simplecnn.figures.curves import curves_figure

STEPS_PER_EPOCH = 50  # measured


class Curves(ImageCallback):
    """Metrics after every epoch, and the loss and the learning rate at some steps in between.

    An epoch's row is written when the next one begins, or at the end: only then has the module
    logged its training metrics. `curves_epochs.npz` and `curves_steps.npz` hold the numbers.
    """

    cumulative = True

    def __init__(self, dirpath: str, every_n_epochs: int = 10) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.epochs = History(self.dirpath / "curves_epochs.npz")
        self.steps = History(self.dirpath / "curves_steps.npz")
        self._every = 1
        self._measured: list[tuple[int, Any, float]] = []  # step, loss (on the device), rate
        self._start = 0.0
        self._seconds: float | None = None  # of an epoch whose row is not written yet
        self._validated = False  # in this epoch

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._every = max(1, steps_per_epoch(trainer) // STEPS_PER_EPOCH)
        if draws(trainer):
            for history in (self.epochs, self.steps):
                history.resume(trainer.global_step)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add_epoch(trainer)
        if trainer.current_epoch and trainer.current_epoch % self.every_n_epochs == 0:
            self.save_pictures(trainer, pl_module, epoch=trainer.current_epoch)
        self._start, self._validated = time.perf_counter(), False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        step = trainer.global_step
        if step % self._every == 0 and draws(trainer):
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            if isinstance(loss, Tensor):  # Lightning has divided it
                loss = loss * trainer.accumulate_grad_batches
            rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else np.nan
            self._measured.append((step, loss, float(rate)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seconds = time.perf_counter() - self._start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._add_epoch(trainer)
        self.save_pictures(trainer, pl_module, epoch=trainer.current_epoch)

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

    def _add_epoch(self, trainer: Trainer) -> None:
        if self._seconds is None or not draws(trainer):
            return
        with self.timed():
            for step, loss, rate in self._measured:
                number = float(loss) if isinstance(loss, Tensor) else np.nan
                self.steps.add(step, loss=number, lr=rate)
            self._measured = []
            metrics = {
                name: float(value)
                for name, value in trainer.callback_metrics.items()
                if self._validated or name.startswith("train/")
            }
            self.epochs.add(
                trainer.global_step,
                epoch=trainer.current_epoch,
                seconds=self._seconds,
                **metrics,
            )
            self.epochs.save()
            self.steps.save()
            self._seconds = None
