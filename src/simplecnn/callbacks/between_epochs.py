"""The moment between two epochs, which Lightning has no hook for."""

import time

from pytorch_lightning import Callback, LightningModule, Trainer


class BetweenEpochs(Callback):
    """Calls `epoch_done` when the next epoch is about to begin, and when the training has ended.

    Only there is everything of an epoch done (training metrics logged, schedulers stepped) and
    nothing of the next one begun. `trainer.current_epoch` then counts the epochs that are done.
    """

    epoch_seconds = 0.0  # of the epoch that is done
    _start = 0.0
    _is_done = False

    def epoch_done(self, trainer: Trainer, module: LightningModule, *, is_last: bool) -> None:
        raise NotImplementedError

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_done:  # else the training has just begun, or was resumed
            self._is_done = False
            self.epoch_done(trainer, pl_module, is_last=False)
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_done = True
        self.epoch_seconds = time.perf_counter() - self._start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_done:
            self._is_done = False
            self.epoch_done(trainer, pl_module, is_last=True)
