"""last.ckpt: the state between two epochs, from which a run resumes in every bit."""

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
    Timer,
)
from pytorch_lightning.loggers import TensorBoardLogger

from simplecnn.callbacks.between_epochs import BetweenEpochs
from simplecnn.callbacks.image_callback import ValidationCallback

STATE = "simplecnn"  # key of what we add to Lightning's checkpoint


class LastCheckpoint(BetweenEpochs):
    """Writes `last.ckpt` when the next epoch is about to begin, and when the training has ended.

    All callbacks that finish an epoch must come before this one, all others after it. To the
    checkpoint are added the metrics so far, and why the training ended, if it did.
    """

    def __init__(self, dirpath: str) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.ended: str | None = None
        self._saving = False
        self._should_stop = False  # of the run that is resumed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop |= self._should_stop

    def epoch_done(self, trainer: Trainer, module: LightningModule, *, is_last: bool) -> None:
        if is_last:
            self.ended = why_ended(trainer)
        self._save(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any(isinstance(c, StochasticWeightAveraging) for c in trainer.callbacks):
            self._save(trainer)  # only now the weights are the averaged ones

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # At the start of an epoch, Lightning has counted it as one that was begun.
        for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            counts["ready"] = counts["started"]
        if self._saving:
            metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
            stops = bool(trainer.should_stop)  # an early stop may wait for min_epochs or min_steps
            checkpoint[STATE] = {"metrics": metrics, "ended": self.ended, "should_stop": stops}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if Path(trainer.ckpt_path or "").absolute().parent == self.path.absolute().parent:
            self._should_stop = (checkpoint.get(STATE) or {}).get("should_stop", False)
            return
        # A new run from the checkpoint of another one: best, patience, time, … begin anew.
        for callback in trainer.callbacks:
            if isinstance(callback, EarlyStopping | ModelCheckpoint | Timer | ValidationCallback):
                checkpoint["callbacks"].pop(callback.state_key, None)
        # What was typed holds: the state of the optimizer is taken over, not what was changed.
        typed = (pl_module.hparams.get("optimizer") or {}) if pl_module.hparams else {}
        saved = (checkpoint.get("hyper_parameters") or {}).get("optimizer") or {}
        changed = {key: value for key, value in typed.items() if saved.get(key) != value}
        factor = 1.0
        if "lr" in changed and saved.get("lr"):  # a schedule may have lowered the rate since
            factor = changed.pop("lr") / saved["lr"]
        for state in checkpoint.get("optimizer_states", []):
            for group in state["param_groups"]:
                group.update({k: v for k, v in changed.items() if k in group})
                group["lr"] *= factor
        for state in checkpoint.get("lr_schedulers", []):
            if "base_lrs" in state:
                state["base_lrs"] = [factor * rate for rate in state["base_lrs"]]

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:
            return
        for logger in trainer.loggers:  # what is logged by now must outlive a kill
            logger.save()
            if hasattr(logger, "flush"):
                logger.flush()
            elif isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.flush()
        self._saving = True
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saving = False


def why_ended(trainer: Trainer) -> str:
    """How the training ended, as a sentence."""
    epochs = trainer.current_epoch
    after = f"after epoch {epochs}" if epochs != 1 else "after 1 epoch"
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            every = trainer.check_val_every_n_epoch == 1 and trainer.val_check_interval in (None, 1)
            noun = "epoch" if every else "validation"
            patience = f"{callback.patience} {noun}" + "s" * (callback.patience != 1)
            if callback.wait_count >= callback.patience:
                return f"stopped {after}: {callback.monitor} no better for {patience}"
            return f"stopped {after}: {callback.stopping_reason_message}"
        reason = getattr(callback, "why_stopped", None)
        if reason:
            return f"stopped {after}: {reason}"
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None:
            if left <= 0 and trainer.should_stop:
                return f"stopped {after}: max_time is over"
    if trainer.max_epochs not in (None, -1) and epochs >= trainer.max_epochs:
        return f"all {epochs} epochs" if epochs != 1 else "the one epoch"
    return f"stopped {after}: trainer.should_stop was set"
