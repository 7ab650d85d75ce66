"""best.ckpt and last.ckpt, once an epoch."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

STATE = "simplecnn"  # key in the checkpoint


class BestCheckpoint(ModelCheckpoint):
    """Keeps `best.ckpt`, the epoch with the best `monitor`. Without a monitor, keeps nothing."""

    def __init__(self, dirpath: str, monitor: str | None = None, mode: str = "max") -> None:
        super().__init__(
            dirpath,
            filename="best",
            monitor=monitor,
            mode=mode,
            save_top_k=1 if monitor else 0,
            enable_version_counter=False,
        )


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`, the state after the last finished epoch.

    It adds what Lightning leaves out: the state of the random numbers (dropout), and the metrics
    that a plateau schedule has not seen yet, for it takes its step after the checkpoint. A run
    that goes on from here does, bit for bit, what it would have done without the stop.
    """

    def __init__(self, dirpath: str) -> None:
        super().__init__(dirpath, filename="last", enable_version_counter=False)
        self._restored: dict[str, Any] = {}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        device = trainer.strategy.root_device
        checkpoint[STATE] = {
            "rng": torch.get_rng_state(),
            "cuda_rng": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "metrics": {k: float(v) for k, v in trainer.callback_metrics.items()},
        }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._restored = dict(checkpoint.get(STATE, {}))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        metrics = self._restored.get("metrics", {})
        for config in trainer.lr_scheduler_configs:
            if config.reduce_on_plateau and config.monitor in metrics:
                config.scheduler.step(metrics[config.monitor])

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if not self._restored:
            return
        torch.set_rng_state(self._restored["rng"])
        if self._restored["cuda_rng"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self._restored["cuda_rng"], trainer.strategy.root_device)
        self._restored = {}
