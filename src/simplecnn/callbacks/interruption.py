"""Ends a run that was told to stop, where its state can be saved."""

import signal
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from simplecnn.callbacks.checkpoint import LastCheckpoint, is_between_batches
from simplecnn.callbacks.non_finite import is_finite
from simplecnn.training.signals import Stop


class StopOnSignal(Callback):
    """Saves and raises Interrupted after the step, or the epoch, in which a signal came.

    Comes after all other callbacks. All processes of a run stop together.
    """

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.take_back()  # Lightning's own handler ends the run before it is saved
        self.stop.deferred = True

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._obey(trainer)  # it has been saved just now

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (self.stop or trainer.world_size > 1) and is_between_batches(trainer):
            self._obey(trainer, save=True)

    def _obey(self, trainer: Trainer, *, save: bool = False) -> None:
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(
            bool(self.stop), all=False
        ):
            self.stop.signum = self.stop.signum or signal.SIGTERM  # another process got it
        if self.stop and save and is_finite(trainer.lightning_module):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, LastCheckpoint):
                    callback.save(trainer)
        self.stop.obey()
