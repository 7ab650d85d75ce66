"""best.ckpt and last.ckpt: written where a run can go on from, bit for bit.

There are two such places. Between two epochs, everything of the one is done, pictures and logs
included, and nothing of the next has begun. Between two batches, with no validation in between.
"""

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loops.loop import _Loop
from pytorch_lightning.trainer.states import TrainerFn
from torchmetrics import Metric

from simplecnn.callbacks.non_finite import is_finite
from simplecnn.models.classifier import Classifier, steps_in_batch
from simplecnn.training.checkpoint_files import write_checkpoint
from simplecnn.training.loggers import history

STATE = "simplecnn"  # key of what we add to Lightning's checkpoint


class CheckpointFiles(TorchCheckpointIO):
    """Writes every checkpoint of the Trainer whole. `note` is told the name and the SHA-256.

    `seconds` adds up what that took.
    """

    def __init__(self, note: Callable[[str, str], None] | None = None) -> None:
        self.note = note
        self.seconds = 0.0

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        start = time.perf_counter()
        write_checkpoint(checkpoint, Path(path), self.note)
        self.seconds += time.perf_counter() - start


class BestCheckpoint(Checkpoint):
    """Keeps `best.ckpt`, the epoch with the best `monitor`. Without a monitor, keeps nothing.

    The first of equals stays, and what is not a finite number is never the best. `epoch` counts
    from 1.
    """

    def __init__(self, dirpath: str, monitor: str | None = None, mode: str = "max") -> None:
        self.path = Path(dirpath) / "best.ckpt"
        self.monitor = monitor
        self.mode = mode
        self.value: float | None = None
        self.epoch: int | None = None

    def between_epochs(self, trainer: Trainer) -> None:
        metric = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        if metric is None or trainer.fast_dev_run or not math.isfinite(value := float(metric)):
            return
        if self.value is None or (value > self.value if self.mode == "max" else value < self.value):
            self.value, self.epoch = value, trainer.current_epoch
            trainer.save_checkpoint(self.path, weights_only=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.between_epochs(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.value, self.epoch = state_dict["value"], state_dict["epoch"]


class LastCheckpoint(Checkpoint):
    """Keeps `last.ckpt`, the state after the last finished epoch, or after some step of an epoch.

    every_n_train_steps: save within epochs, too. Where validation follows a step, the next one is
    taken.

    It adds what Lightning leaves out of all checkpoints: random numbers (dropout), the metrics so
    far and those of the epoch under way, a stop that was asked for, and what has been logged.
    """

    def __init__(self, dirpath: str, every_n_train_steps: int | None = None) -> None:
        self.path = Path(dirpath) / "last.ckpt"
        self.every_n_train_steps = every_n_train_steps
        self._is_due = False
        self._restored: dict[str, Any] = {}

    def save(self, trainer: Trainer) -> None:
        self._is_due = False
        if not trainer.fast_dev_run:
            trainer.save_checkpoint(self.path, weights_only=False)

    def between_epochs(self, trainer: Trainer) -> None:
        self.save(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.between_epochs(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        every = self.every_n_train_steps
        # A batch may hold several steps: it is due where one of them was.
        self._is_due |= bool(every and trainer.global_step % every < steps_in_batch(trainer))
        if self._is_due and is_between_batches(trainer) and is_finite(pl_module):
            self.save(trainer)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if isinstance(pl_module, Classifier):
            pl_module.gather_metrics()
        # At the start of an epoch it is still the end of the one before.
        for counts in checkpoint["loops"]["fit_loop"]["epoch_progress"].values():
            counts["ready"] = counts["started"]
        checkpoint[STATE] = {
            "rng": random_state(trainer.strategy.root_device),
            "metrics": {k: float(v) for k, v in trainer.callback_metrics.items()},
            "sums": {
                name: {key: total(value, trainer) for key, value in metric.metric_state.items()}
                for name, metric in _metrics(pl_module)
            },
            "should_stop": trainer.should_stop,
            "history": history(trainer.loggers) if trainer.is_global_zero else {},
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._restored = dict(checkpoint.get(STATE, {}))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = self._restored.get("metrics", {})
        trainer.callback_metrics.update({k: torch.tensor(v) for k, v in metrics.items()})
        trainer.should_stop |= self._restored.get("should_stop", False)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        progress = trainer.fit_loop.epoch_progress.current
        if self._restored and progress.ready == progress.processed:
            # With max_steps, Lightning takes the epoch that is about to begin for half done.
            _Loop.restarting.fset(trainer.fit_loop, False)
        # Lightning forgets the place in the data if a schedule asked for the number of steps.
        trainer.fit_loop._load_combined_loader_states()
        # Those of all processes: one of them goes on from there, the others from nothing.
        sums = self._restored.get("sums", {}) if trainer.is_global_zero else {}
        for name, metric in _metrics(pl_module):
            for key, value in sums.get(name, {}).items():
                getattr(metric, key).copy_(value)

    def restore_random_state(self, trainer: Trainer) -> None:
        """Once, where it was saved: before anything else happens in an epoch or with a batch."""
        if self._restored:
            set_random_state(self._restored["rng"], trainer.strategy.root_device)
            trainer.fit_loop._restarting = False  # or a plateau schedule skips this epoch
            self._restored = {}


class BetweenEpochs(Callback):
    """Comes before all other callbacks: saves before an epoch begins, restores before a step."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, LastCheckpoint):
                callback.restore_random_state(trainer)
        if trainer.current_epoch > 0:
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, BestCheckpoint | LastCheckpoint):
                    callback.between_epochs(trainer)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, LastCheckpoint):
                callback.restore_random_state(trainer)


def is_between_batches(trainer: Trainer) -> bool:
    """Whether, at the end of a batch, the next thing to come is a batch."""
    loop = trainer.fit_loop.epoch_loop
    return not (
        loop._num_ready_batches_reached()
        or loop._should_accumulate()
        or loop._should_check_val_fx(trainer.fit_loop._data_fetcher)
    )


def total(value: Any, trainer: Trainer) -> Any:
    """The sum of a tensor over all processes of the run."""
    if trainer.world_size == 1:
        return value
    return trainer.strategy.reduce(value.clone(), reduce_op="sum")


def random_state(device: torch.device) -> dict[str, Any]:
    """The state of all random numbers, in plain values and tensors."""
    name, keys, *rest = np.random.get_state()
    version, words, normal = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": [name, torch.from_numpy(np.array(keys, dtype=np.int64)), *rest],
        "python": [version, torch.tensor(words), normal],
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on with the random numbers from where they were."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, words, normal = state["python"]
    random.setstate((version, tuple(words.tolist()), normal))


def _metrics(module: LightningModule) -> list[tuple[str, Metric]]:
    return [(name, m) for name, m in module.named_modules() if isinstance(m, Metric)]
