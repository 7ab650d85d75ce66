"""The monitored metric of a run: report that the run does not log it."""

import logging

from pytorch_lightning import Callback, LightningModule, Trainer

from simplecnn.config.spelling import did_you_mean
from simplecnn.data.shape import all_loaders
from simplecnn.errors import RunError

log = logging.getLogger(__name__)


class MonitorCheck(Callback):
    """Warn, before the first epoch, if the sanity check has logged other validation metrics."""

    def __init__(self, monitor: str) -> None:
        self.monitor = monitor

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(all_loaders(trainer.val_dataloaders)) > 1:
            return  # Lightning has no metrics of a sanity check with several loaders
        logged = _logged(trainer)
        is_expected = self.monitor.startswith("val") or did_you_mean(self.monitor, logged)
        if is_expected and self.monitor not in logged and trainer.is_global_zero:
            log.warning(_message(self.monitor, logged, "the sanity check"))


def raise_if_missing(monitor: str | None, trainer: Trainer, error: Exception) -> None:
    """Raise RunError if a callback has failed because the run does not log `monitor`."""
    logged = _logged(trainer)
    if monitor and monitor not in logged and monitor in str(error):
        raise RunError(_message(monitor, logged)) from error


def _logged(trainer: Trainer) -> list[str]:
    return sorted(m for m in trainer.callback_metrics if not m.startswith("lr-"))


def _message(monitor: str, logged: list[str], who: str = "this run") -> str:
    return (
        f"monitor is {monitor!r}: {who} logs {', '.join(logged) or 'no metrics'}. Type "
        f"monitor=<metric> and mode=max or min, or monitor=null.{did_you_mean(monitor, logged)}"
    )
