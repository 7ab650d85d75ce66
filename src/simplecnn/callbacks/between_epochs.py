"""A hook between two epochs, which Lightning does not have."""

import time

from pytorch_lightning import Callback, LightningModule, Trainer


class BetweenEpochs(Callback):
    """Call `epoch_done` right before the next epoch starts, and when training ends.

    Only then is an epoch complete (training metrics logged, schedulers stepped) and the next one
    not started. `trainer.current_epoch` is then the number of finished epochs.
    """

    epoch_seconds = 0.0  # duration of the last finished epoch
    validated = False  # in the last finished epoch: else the validation metrics are older
    _start = 0.0
    _is_done = False

    def epoch_done(self, trainer: Trainer, module: LightningModule, *, is_last: bool) -> None:
        raise NotImplementedError

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # From a checkpoint within an epoch, Lightning continues it without on_train_epoch_start.
        self._start = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_done:  # False in the first epoch, and in the first one after a resume
            self._is_done = False
            self.epoch_done(trainer, pl_module, is_last=False)
        self.validated = False
        self._start = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._is_done = True
        self.epoch_seconds = time.perf_counter() - self._start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._is_done:
            self._is_done = False
            self.epoch_done(trainer, pl_module, is_last=True)
