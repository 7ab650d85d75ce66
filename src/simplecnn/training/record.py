"""The entries of run.json: model and device, progress, metrics, the best epoch of a run."""

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from torch import nn

from simplecnn.callbacks.checkpoint import STATE, LastCheckpoint, end_reason
from simplecnn.callbacks.progress import without_copies
from simplecnn.checkpoint_file import read_checkpoint
from simplecnn.data.image_folder import ImageFolderDataModule
from simplecnn.data.shape import all_loaders, known_class_names
from simplecnn.errors import InputError
from simplecnn.run_directory import RunDirectory, relative_path
from simplecnn.training.summary import device_and_reason

log = logging.getLogger(__name__)
Config = Mapping[str, Any]


class RunRecord:
    """Fills the `entries` of a run's record, which `RunDirectory.update` writes to run.json."""

    def __init__(self, config: Config, directory: RunDirectory) -> None:
        self.config = config
        self.directory = directory
        # A resumed run already has metrics and a best checkpoint (its value; its epoch, from 1).
        self.entries = directory.record
        self.entries |= {"metrics": {}, "best": None, "num_epochs": 0} | self.entries
        self.entries["ended"] = None

    @property
    def ended(self) -> str | None:
        """Why the training has ended; None if it has not."""
        return self.entries["ended"]

    @property
    def result(self) -> float | None:
        """The best value of the monitored metric, else its last value; None without a monitor."""
        if self.entries["best"]:
            return float(self.entries["best"]["value"])
        monitor = self.config["monitor"]
        return self.entries["metrics"].get(monitor) if monitor else None

    def add_setup(
        self, module: pl.LightningModule, datamodule: pl.LightningDataModule, trainer: pl.Trainer
    ) -> None:
        """Record and log the device, the number of parameters and the classes."""
        if isinstance(datamodule, ImageFolderDataModule):
            datamodule.setup("fit")
            self.entries |= datamodule.record()
        accelerator = self.config["trainer"].get("accelerator", "auto")
        device, reason = device_and_reason(trainer, accelerator)
        self.add_model(module, datamodule)
        self.directory.update(
            device={"name": device, "why": reason, "num_threads": torch.get_num_threads()}
        )
        if self.directory.writes:
            log.info("directory    %s", relative_path(self.directory.path))
            num_parameters = self.entries["num_parameters"]
            of_model = f"{num_parameters:,} parameters on " if num_parameters else ""
            log.info("%s%s: %s", of_model, device, reason)
            saves = any(isinstance(c, LastCheckpoint | Checkpoint) for c in trainer.callbacks)
            if not saves and not trainer.fast_dev_run:
                log.info("no checkpoints are saved: callbacks=[default,…] adds to the default ones")

    def add_model(
        self,
        module: nn.Module,
        datamodule: pl.LightningDataModule,
        trainer: pl.Trainer | None = None,
    ) -> None:
        """Record the number of parameters and the names of the classes.

        Only the loaders of a `trainer` may tell the classes of a custom data module, and hooks of
        a custom module may build layers: record them again after the training.
        """
        loaders = [trainer.train_dataloader, trainer.test_dataloaders] if trainer else None
        class_names = known_class_names(datamodule, next(iter(all_loaders(loaders)), None))
        self.entries["num_parameters"] = sum(p.numel() for p in module.parameters())
        self.entries["class_names"] = list(class_names) if class_names else None

    def add_start(self, checkpoint: Config, *, resumed: bool) -> None:
        """Record the progress of the checkpoint's run; set `ended` if nothing is left to train."""
        progress = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]
        # Not "completed": best.ckpt is saved before Lightning counts its epoch as completed.
        num_epochs, max_epochs = progress["processed"], self.config["trainer"].get("max_epochs")
        ended = None
        if resumed:
            state = checkpoint.get(STATE) or {}
            self.entries["metrics"] = _rounded(state.get("metrics", {}))
            ended = state.get("ended")
        elif max_epochs not in (None, -1) and num_epochs >= max_epochs:
            ended = f"already {num_epochs} of {max_epochs} epochs: nothing to train"
        self.entries |= {"num_epochs": num_epochs, "ended": ended}
        if ended:
            log.info("%s", ended)
        elif self.directory.writes:
            of = f" of {max_epochs}" if max_epochs not in (None, -1) else ""
            source = "resumed" if resumed else "continued from ckpt_path"
            log.info("%s after epoch %d%s", source, num_epochs, of)

    def add_fit(self, trainer: pl.Trainer) -> Config:
        """Record the metrics and the end of a training. Returns last.ckpt, empty without one."""
        self.add_metrics(trainer.callback_metrics)
        self.entries["num_epochs"] = trainer.current_epoch
        checkpoint = self._add_last_checkpoint()
        if checkpoint:
            self.entries["ended"] = checkpoint.get(STATE, {}).get("ended")
            if trainer.should_stop and self.ended is None:  # by a Timer, before a step
                self.entries["ended"] = end_reason(trainer)
        return checkpoint

    def add_interruption(self, trainer: pl.Trainer | None) -> None:
        """Record the last finished epoch of a run that failed or was interrupted."""
        with suppress(InputError):  # a damaged checkpoint
            if checkpoint := self._add_last_checkpoint():
                self.add_metrics(checkpoint.get(STATE, {}).get("metrics", {}))
                if trainer is not None:
                    self.add_best(trainer)

    def add_metrics(self, metrics: Mapping[str, Any]) -> None:
        self.entries["metrics"] |= _rounded(metrics)

    def add_best(self, trainer: pl.Trainer) -> Path | None:
        """Record the best value and its epoch. Returns the best checkpoint, or None without one."""
        monitor = self.config["monitor"], self.config["mode"]
        callbacks: list[Any] = [
            c for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None)
        ]
        callbacks.sort(key=lambda c: (c.monitor, c.mode) != monitor)  # prefer the run's own monitor
        if not callbacks:
            return None
        callback = callbacks[0]
        if (callback.monitor, callback.mode) != monitor:  # of the module's configure_callbacks?
            log.info("the best checkpoint is that of %s %s", callback.mode, callback.monitor)
        saved = Path(callback.best_model_path or "best.ckpt")
        # The run directory may have moved since the checkpoint was saved.
        candidates = self.directory.path / "checkpoints" / saved.name, saved
        path = next((path for path in candidates if path.is_file()), None)
        if path is None:
            return None
        checkpoint = read_checkpoint(path)
        state = checkpoint.get("callbacks", {}).get(callback.state_key, {})
        value = state.get("best_model_score", callback.best_model_score)
        is_number = value is not None and math.isfinite(value)  # infinite if the metric was NaN
        if is_number and (callback.monitor, callback.mode) == monitor:
            epoch = checkpoint["epoch"] + 1
            self.entries["best"] = {"value": round(float(value), 6), "epoch": epoch}
        return path

    def _add_last_checkpoint(self) -> Config:
        """Record the number of epochs and the images' shape from last.ckpt, which is returned."""
        last = self.directory.last_checkpoint()
        if last is None:
            return {}
        checkpoint = read_checkpoint(last)
        self.entries["num_epochs"] = checkpoint["epoch"]
        for key in ("image_shape", "image_range"):
            self.entries[key] = checkpoint.get(STATE, {}).get(key)
        return checkpoint


def _rounded(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Finite metrics by name, rounded for the record; without learning rates."""
    return {
        key: round(float(value), 6)
        for key, value in without_copies(metrics).items()
        if not key.startswith("lr-") and math.isfinite(value)
    }
