"""Stop after `max_steps` optimizer steps, with a final validation and logged metrics."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class MaxSteps(Callback):
    """Set `trainer.should_stop` after `max_steps` optimizer steps.

    The Trainer's own `max_steps` skips the validation if it is reached in the middle of an epoch,
    and then a resumed run differs from an uninterrupted one. It is kept while the schedulers are
    created, which may read it, and reset before a checkpoint is restored: otherwise Lightning
    would begin the resumed run with an empty epoch.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.stop_reason = ""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.fit_loop.epoch_loop.max_steps = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step >= self.max_steps:
            # Unlike max_steps, should_stop waits for min_epochs and min_steps.
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
            trainer.should_stop = True
            self.stop_reason = f"max_steps={self.max_steps}"
