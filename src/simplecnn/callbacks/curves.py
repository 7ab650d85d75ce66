"""Figure of the training curves: loss, accuracy, learning rate."""

from typing import Any

import numpy as np
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.image_callback import (
    Figures,
    History,
    ImageCallback,
    should_draw,
    steps_per_epoch,
)
from simplecnn.callbacks.progress import value_text
from simplecnn.figures.curves import curves_figure

POINTS_PER_EPOCH = 50


class Curves(ImageCallback):
    """Draw the metrics of every epoch, and the loss and learning rate of about 50 steps per epoch.

    The values are saved in `curves_epochs.npz` and `curves_steps.npz`.
    """

    cumulative = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.epochs = History(self.dirpath / "curves_epochs.npz", trainer.global_step)
        self.steps = History(self.dirpath / "curves_steps.npz", trainer.global_step)
        self._every = max(1, steps_per_epoch(trainer) // POINTS_PER_EPOCH)
        self._measured: list[tuple[int, Any, float]] = []  # step, loss (on device), learning rate

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        # After the step, the scheduler has already set the rate of the next one.
        self._step = trainer.global_step
        optimizers = trainer.optimizers
        self._rate = float(optimizers[0].param_groups[0]["lr"]) if optimizers else np.nan

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any
    ) -> None:
        step = trainer.global_step
        if step != self._step and step % self._every == 0:  # equal while gradients accumulate
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            if isinstance(loss, Tensor):  # Lightning divided it by accumulate_grad_batches
                loss = loss * trainer.accumulate_grad_batches
            self._measured.append((step, loss, self._rate))

    def epoch_done(self, trainer: Trainer, module: LightningModule, *, is_last: bool) -> None:
        if should_draw(trainer):
            self._add_epoch(trainer)
        self._measured = []
        super().epoch_done(trainer, module, is_last=is_last)

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> Figures:
        epochs, steps = self.epochs.arrays(), self.steps.arrays()
        title = f"Curves, {when}; median of {np.median(epochs['seconds']):.3g} s per epoch"
        accuracy = epochs.get("val/acc", np.zeros(0))
        if np.isfinite(accuracy).any():
            best = int(np.nanargmax(accuracy))
            title += (
                f"; best validation accuracy {value_text('val/acc', accuracy[best])} after epoch "
                f"{int(epochs['epoch'][best])}"
            )
        figure = curves_figure(epochs, steps, steps_per_epoch=steps_per_epoch(trainer), title=title)
        yield "curves", figure, {}

    def _add_epoch(self, trainer: Trainer) -> None:
        for step, loss, rate in self._measured:
            self.steps.add(step, loss=float(loss) if isinstance(loss, Tensor) else np.nan, lr=rate)
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if self.validated or name.startswith("train/")
        }
        epoch, seconds = trainer.current_epoch, self.epoch_seconds
        self.epochs.add(trainer.global_step, epoch=epoch, seconds=seconds, **metrics)
        self.epochs.save()
        self.steps.save()
