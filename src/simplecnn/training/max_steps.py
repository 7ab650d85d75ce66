"""Ends the training after so many steps, validated and with its metrics logged."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer


class MaxSteps(Callback):
    """Asks the Trainer to stop after `max_steps` optimizer steps.

    The Trainer's own `max_steps` validates nothing in the middle of an epoch, and with it a resumed
    run is another one. It stays set until the schedulers have been made, which may need it, and
    not until a checkpoint is restored, which would begin with an epoch without steps.
    """

    def __init__(self, max_steps: int) -> None:
        self.max_steps = max_steps
        self.why_stopped = ""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.fit_loop.epoch_loop.max_steps = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if trainer.global_step >= self.max_steps:
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None
            trainer.should_stop = True  # which waits for those two, and max_steps does not
            self.why_stopped = f"max_steps={self.max_steps}"
