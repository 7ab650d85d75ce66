"""Stop trials of an Optuna search that its pruner considers hopeless."""

import logging
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from simplecnn.callbacks.progress import metric_text
from simplecnn.sweeps.jobs import WAS_PRUNED

log = logging.getLogger(__name__)


class Pruning(Callback):
    """Report the objective to the study after each validated epoch; stop if the pruner says so.

    study: path of the study's file; trial: number of the trial in it. Does nothing without a trial
    or a pruner (outside of a search), with several objectives (Optuna cannot prune by them), and
    with an objective that is not a validation metric.
    """

    validated = False  # in this epoch: else the objective is that of an earlier one
    stop_reason = ""

    def __init__(
        self,
        study: str,
        trial: int | None = None,
        pruner: dict[str, Any] | None = None,
    ) -> None:
        self.study, self.number, self.pruner = study, trial, pruner
        self.trial: Any = None
        self.objective = ""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.number is None or not self.pruner or not trainer.is_global_zero:
            return
        from simplecnn.sweeps.search import running_trial

        trial = running_trial(self.study, self.number, self.pruner)
        objectives = trial.study.user_attrs.get("objectives", [])
        if len(objectives) == 1 and objectives[0].startswith("val/"):
            self.trial, self.objective = trial, objectives[0]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stop = False
        epoch = trainer.current_epoch + 1
        if self.trial and self.validated and self.objective in trainer.callback_metrics:
            value = float(trainer.callback_metrics[self.objective])
            self.trial.report(value, step=epoch)
            stop = epoch != trainer.max_epochs and self.trial.should_prune()
            if stop:
                self.stop_reason = WAS_PRUNED
                self.trial.set_user_attr("pruned after epoch", epoch)
                log.info("pruned after epoch %d: %s", epoch, metric_text(self.objective, value))
        self.validated = False
        # Rank zero decides for all processes.
        trainer.should_stop |= trainer.strategy.broadcast(stop)
