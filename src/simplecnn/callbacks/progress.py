"""How far the run is: a bar on a terminal, a line an epoch in the log."""

import logging
import sys
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

from simplecnn.console import log_in_spawned_process

log = logging.getLogger(__name__)
STAGES = ("train", "val", "test")


def split_metric(key: str) -> tuple[str, str]:
    """`val/acc` and `val_acc` as ("val", "acc"); what belongs to no stage as ("", key)."""
    stage, separator, name = key.partition("/" if "/" in key else "_")
    return (stage, name) if separator and stage in STAGES else ("", key)


def metric_text(key: str, value: float) -> str:
    """`val/acc 98.76 %`, `val/loss 0.0412`."""
    return f"{key} {value:.2%}".replace("%", " %") if "acc" in key else f"{key} {value:.4f}"


class ProgressBar(TQDMProgressBar):
    """Lightning's bar, drawn a few times a second, on a terminal only."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5, leave=False)
        if not sys.stderr.isatty():
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}


class EpochLines(Callback):
    """One line an epoch: its metrics, its seconds, the time left."""

    _start = 0.0
    _seconds: float | None = None  # of an epoch whose line is not written yet

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            log_in_spawned_process(trainer.default_root_dir)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_epoch(trainer)
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seconds = time.perf_counter() - self._start

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._log_epoch(trainer)

    def _log_epoch(self, trainer: Trainer) -> None:
        """The line of the epoch before: only now have its training metrics been logged."""
        if self._seconds is None or not trainer.is_global_zero:
            return
        done, last, seconds = trainer.current_epoch, trainer.max_epochs, self._seconds
        parts = [f"epoch {done}" if last in (None, -1) else f"epoch {done}/{last}"]
        parts += [
            metric_text(key, float(trainer.callback_metrics[key]))
            for stage in STAGES
            for key in sorted(trainer.callback_metrics, key=_loss_first)
            if split_metric(key)[0] == stage
        ]
        parts.append(f"{seconds:.1f} s")
        if last not in (None, -1) and done < last:
            parts.append(f"{(last - done) * seconds:.0f} s left")
        log.info("   ".join(parts))
        self._seconds = None


def _loss_first(key: str) -> tuple[bool, str]:
    return "loss" not in key, key
