"""last.ckpt: the state between two epochs, from which a run resumes bit for bit."""

import math
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
from torch import Tensor

from simplecnn.callbacks.between_epochs import BetweenEpochs
from simplecnn.callbacks.image_callback import ValidationCallback

STATE = "simplecnn"  # key of this project's entry in Lightning's checkpoint
TRACKS = "track_running_stats"  # whether a normalization updates its statistics


class LastCheckpoint(BetweenEpochs):
    """Save `last.ckpt` right before the next epoch starts, and when training ends.

    Callbacks that complete an epoch must precede this one; all others must follow it. The
    checkpoint also holds the current metrics, the shape and the range of the images, which
    parameters are frozen and, if training has ended, the reason.
    """

    def __init__(self, dirpath: str) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.ended: str | None = None
        self._saving = False
        self._should_stop = False  # as saved by the run that is resumed
        self._image_shape: list[int] | None = None
        self._image_range: list[float] | None = None
        self._frozen: dict[str, list[str]] | None = None  # as saved by the run that is resumed
        self._metrics: dict[str, float] = {}  # those too, until the resumed run validates

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop |= self._should_stop
        if self._frozen is not None:  # BackboneFinetuning has frozen what it had unfrozen
            _freeze(pl_module, self._frozen)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        match batch:
            case (Tensor(ndim=4) as images, *_):
                self._image_shape = list(images.shape[1:])
                if self._image_range is None and images.numel():  # once: it waits for a GPU
                    low, high = float(images.min()), float(images.max())
                    self._image_range = [low, high] if math.isfinite(high - low) else None

    def epoch_done(self, trainer: Trainer, module: LightningModule, *, is_last: bool) -> None:
        if is_last:
            self.ended = end_reason(trainer)
        self._save(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if any(isinstance(c, StochasticWeightAveraging) for c in trainer.callbacks):
            self._save(trainer)  # the weights were averaged after on_train_end

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # In on_train_epoch_start, Lightning has already counted the epoch as ready.
        for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            counts["ready"] = counts["started"]
        if self._saving:
            metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
            checkpoint[STATE] = {
                "metrics": self._metrics | metrics,
                "ended": self.ended,
                # True if an early stop is waiting for min_epochs or min_steps.
                "should_stop": bool(trainer.should_stop),
                "image_shape": self._image_shape,  # of the training images (C, H, W)
                "image_range": self._image_range,  # of the values in the first batch
                "frozen": _frozen(pl_module),
            }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if Path(trainer.ckpt_path or "").absolute().parent == self.path.absolute().parent:
            state = checkpoint.get(STATE) or {}
            self._should_stop = state.get("should_stop", False)
            self._frozen = state.get("frozen")
            self._metrics = state.get("metrics", {})
            self._image_range = state.get("image_range")
            return
        # A new run from another run's checkpoint: best score, patience, timers, … start over.
        for callback in trainer.callbacks:
            if isinstance(callback, EarlyStopping | ModelCheckpoint | Timer | ValidationCallback):
                checkpoint["callbacks"].pop(callback.state_key, None)
        optimizer = (pl_module.hparams.get("optimizer") or {}) if pl_module.hparams else {}
        if isinstance(optimizer, dict):  # a custom module may save a partial
            _override_optimizer(checkpoint, optimizer)

    def _save(self, trainer: Trainer) -> None:
        if trainer.fast_dev_run:
            return
        for logger in trainer.loggers:  # everything logged so far must survive a kill
            logger.save()
            if hasattr(logger, "flush"):
                logger.flush()
            elif isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                logger.experiment.flush()
        self._saving = True
        trainer.save_checkpoint(self.path, weights_only=False)
        self._saving = False


def _frozen(module: LightningModule) -> dict[str, list[str]]:
    """The names of frozen parameters, and of normalizations whose statistics are frozen."""
    modules = module.named_modules()
    return {
        "parameters": [name for name, p in module.named_parameters() if not p.requires_grad],
        "statistics": [name for name, m in modules if not getattr(m, TRACKS, True)],
    }


def _freeze(module: LightningModule, frozen: dict[str, list[str]]) -> None:
    """Freeze what `frozen` names, and unfreeze everything else."""
    for name, parameter in module.named_parameters():
        parameter.requires_grad = name not in frozen["parameters"]
    for name, part in module.named_modules():
        if hasattr(part, TRACKS):
            setattr(part, TRACKS, name not in frozen["statistics"])


def _override_optimizer(checkpoint: dict[str, Any], optimizer: dict[str, Any]) -> None:
    """Keep the optimizer's state in `checkpoint`, but set the hyperparameters that have changed.

    The learning rate is scaled by new over saved, because a schedule may have lowered it since.
    """
    saved = (checkpoint.get("hyper_parameters") or {}).get("optimizer") or {}
    changed = {key: value for key, value in optimizer.items() if saved.get(key) != value}
    factor = 1.0
    if "lr" in changed and saved.get("lr"):
        factor = changed.pop("lr") / saved["lr"]
    for state in checkpoint.get("optimizer_states", []):
        for group in state["param_groups"]:
            group.update({k: v for k, v in changed.items() if k in group})
            group["lr"] *= factor
    for state in checkpoint.get("lr_schedulers", []):
        if "base_lrs" in state:
            state["base_lrs"] = [factor * rate for rate in state["base_lrs"]]


def end_reason(trainer: Trainer) -> str:
    """Describe why training ended."""
    epochs = trainer.current_epoch
    stopped = f"stopped after epoch {epochs}" if epochs != 1 else "stopped after 1 epoch"
    for callback in trainer.callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
            if callback.wait_count < callback.patience:
                return f"{stopped}: {callback.stopping_reason_message}"
            once_per_epoch = trainer.check_val_every_n_epoch == 1 and (
                trainer.val_check_interval in (None, 1)
            )
            unit = "epoch" if once_per_epoch else "validation"
            patience = f"{callback.patience} {unit}" + "s" * (callback.patience != 1)
            return f"{stopped}: {callback.monitor} did not improve for {patience}"
        reason = getattr(callback, "stop_reason", None)
        if reason:
            return f"{stopped}: {reason}"
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None:
            if left <= 0 and trainer.should_stop:
                return f"{stopped}: max_time reached"
    if trainer.max_epochs not in (None, -1) and epochs >= trainer.max_epochs:
        return f"completed {epochs} epochs" if epochs != 1 else "completed 1 epoch"
    return f"{stopped}: trainer.should_stop was set"
