"""Where the time of a fit goes."""

import time

from pytorch_lightning import Callback, LightningModule, Trainer

from simplecnn.callbacks.image_callback import ImageCallback


class Phases(Callback):
    """The seconds of a fit by part, each counted once. Comes before all other callbacks.

    `start` is what comes before the first step (data, optimizer), `validation` is without the
    pictures and `pictures` are those of both, `checkpoints` are the writing of the files. `steps`
    are the rest: the training itself.
    """

    def __init__(self) -> None:
        self.start = self.validation = 0.0
        self._began = 0.0
        self._since = 0.0  # of the validation pass, without its pictures

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            self._began = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.perf_counter() - self._began

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter() - seconds_drawing(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validation += time.perf_counter() - seconds_drawing(trainer) - self._since

    def seconds(self, trainer: Trainer, fit: float) -> dict[str, float]:
        """The parts of a fit that took `fit` seconds so far; they add up to it.

        None are known where it happened in processes of its own.
        """
        if not self.start:
            return {}
        parts = {
            "start": self.start,
            "validation": self.validation,
            "pictures": seconds_drawing(trainer),
            "checkpoints": getattr(trainer.strategy.checkpoint_io, "seconds", 0.0),
        }
        parts = {name: round(value, 3) for name, value in parts.items()}
        return {"steps": round(fit - sum(parts.values()), 3), **parts}


def seconds_drawing(trainer: Trainer) -> float:
    """Seconds that all pictures took so far."""
    return sum(c.seconds for c in trainer.callbacks if isinstance(c, ImageCallback))
