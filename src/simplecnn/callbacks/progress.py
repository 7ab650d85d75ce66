"""Progress of a run: a bar on a terminal, and one log line per epoch."""

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import TQDMProgressBar

from simplecnn.callbacks.between_epochs import BetweenEpochs
from simplecnn.console import log_in_spawned_process
from simplecnn.table import is_percentage

log = logging.getLogger(__name__)
STAGES = ("train", "val", "test")


def split_metric(key: str) -> tuple[str, str]:
    """Split `val/acc` or `val_acc` into ("val", "acc"); a key without a stage is ("", key)."""
    stage, separator, name = key.partition("/" if "/" in key else "_")
    return (stage, name) if separator and stage in STAGES else ("", key)


def without_copies(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics without `x_step` and `x_epoch`, which Lightning adds to an `x` logged on both."""
    bases = {key: re.sub("_(step|epoch)$", "", key) for key in metrics}
    return {k: v for k, v in metrics.items() if bases[k] == k or bases[k] not in metrics}


def value_text(key: str, value: float) -> str:
    """Format an accuracy as `98.76 %`, a loss as `0.0412`."""
    value = round(value, 6)  # as in the record
    return f"{100 * value:.2f} %" if is_percentage(key) else f"{value:.4f}"


def metric_text(key: str, value: float) -> str:
    """Format a metric with its name: `val/acc 98.76 %`."""
    return f"{key} {value_text(key, value)}"


class ProgressBar(TQDMProgressBar):
    """Lightning's progress bar, on a terminal only."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5, leave=False)
        if not sys.stderr.isatty():
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        return {k: v for k, v in super().get_metrics(trainer, pl_module).items() if k != "v_num"}


class EpochLines(BetweenEpochs):
    """Log one line per epoch: metrics, duration, time left."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            log_in_spawned_process(trainer.default_root_dir)

    def epoch_done(self, trainer: Trainer, module: LightningModule, *, is_last: bool) -> None:
        if not trainer.is_global_zero:
            return
        done, last, seconds = trainer.current_epoch, trainer.max_epochs, self.epoch_seconds
        parts = [f"epoch {done}" if last in (None, -1) else f"epoch {done}/{last}"]
        metrics = without_copies(trainer.callback_metrics)
        parts += [
            metric_text(key, float(metrics[key]))
            for stage in (STAGES if self.validated else STAGES[:1])
            for key in sorted(metrics, key=lambda key: ("loss" not in key, key))  # loss first
            if split_metric(key)[0] == stage
        ]
        parts.append(f"{seconds:.1f} s")
        if last not in (None, -1) and done < last:
            parts.append(f"{(last - done) * seconds:.0f} s left")
        log.info("   ".join(parts))
