"""Where the time of a fit goes."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from simplecnn.callbacks.image_callback import ImageCallback


class Phases(Callback):
    """The seconds of a fit by part, each counted once. Comes before all other callbacks.

    `start` is what comes before the first step (data, optimizer), `pictures` are drawn and
    `checkpoints` written. `steps` are the rest: the training itself.
    """

    def __init__(self) -> None:
        self.start = self.validation = 0.0
        self._began = 0.0
        self._since = 0.0  # of the validation pass

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._began = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.perf_counter() - self._began

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation += time.perf_counter() - self._since

    def add_to(self, record: dict[str, Any], trainer: Trainer) -> None:
        """Note the parts in a run's record; with those before an interruption they are its fit."""
        if not self.start:  # it happened in processes of its own
            return
        parts = {
            "start": self.start,
            "validation": self.validation,
            "pictures": sum(c.seconds for c in trainer.callbacks if isinstance(c, ImageCallback)),
            "checkpoints": getattr(trainer.strategy.checkpoint_io, "seconds", 0.0),
        }
        past = record.get("seconds_of_fit") or {}
        parts = {name: round(past.get(name, 0.0) + value, 3) for name, value in parts.items()}
        steps = round(record["seconds"]["fit"] - sum(parts.values()), 3)
        record["seconds_of_fit"] = {"steps": steps, **parts}
