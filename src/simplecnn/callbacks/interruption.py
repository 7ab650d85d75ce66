"""A run of several processes ends with the one that started it, and by its signal handlers."""

import os
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from simplecnn.training.signals import Stop


class Interruption(Callback):
    """Puts our signal handlers back in front of Lightning's, and watches the parent process.

    Lightning's handler of SIGTERM lets the epoch end, and talks to the other processes of the run,
    who may not listen. A process that Lightning started ends when its parent was killed: else it
    would train on beside the run that is resumed.
    """

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._parent = os.getppid() if trainer.world_size > 1 and self.stop.is_child else None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.stop.restore()

    def on_train_batch_start(self, *_: Any) -> None:
        if self._parent is not None and os.getppid() != self._parent:
            raise SystemExit("The process that started this one has ended.")
