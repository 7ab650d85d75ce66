"""How long each part of `Trainer.fit` takes."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from simplecnn.callbacks.image_callback import ImageCallback


class Phases(Callback):
    """Split the seconds of a fit into parts; must precede the callbacks whose time it measures.

    `start`: before the first step (data, optimizer); `validation`; `pictures`: drawing and writing
    them; `checkpoints`: writing them; `steps`: everything else, the training itself.
    """

    def __init__(self) -> None:
        self.start = self.validation = 0.0
        self._fit_began = 0.0
        self._validation_began = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._fit_began = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.perf_counter() - self._fit_began

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validation_began = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation += time.perf_counter() - self._validation_began

    def update_record(self, record: dict[str, Any], trainer: Trainer) -> None:
        """Write the parts to `seconds_of_fit`; for a resumed run, add them to those recorded."""
        if not self.start:  # spawned processes ran the fit
            return
        parts = {
            "start": self.start,
            "validation": self.validation,
            "pictures": sum(c.seconds for c in trainer.callbacks if isinstance(c, ImageCallback)),
            "checkpoints": getattr(trainer.strategy.checkpoint_io, "seconds", 0.0),
        }
        recorded = record.get("seconds_of_fit") or {}
        parts = {name: round(recorded.get(name, 0.0) + value, 3) for name, value in parts.items()}
        steps = round(record["seconds"]["fit"] - sum(parts.values()), 3)
        record["seconds_of_fit"] = {"steps": steps, **parts}
