"""Reproducible epochs: every random number follows from the seed and the epoch."""

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class EpochSeed(Callback):
    """Seed torch, NumPy and Python's `random` from (seed, epoch, rank) at the start of each epoch.

    Dropout in a resumed epoch then equals that of an uninterrupted run. A shuffling DataLoader
    draws two numbers: one when its iterator is created, one with the first batch, or, with worker
    processes, both when its iterator is created. In the first epoch of a resumed run, Lightning
    creates the iterator before `on_train_epoch_start`: this epoch is seeded in `on_fit_start` only.
    A `configure_optimizers` that reads `trainer.estimated_stepping_batches` creates it earlier
    still: then the epoch is seeded in `on_load_checkpoint` only.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._resumed_epoch: int | None = None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._resumed_epoch = checkpoint["epoch"]
        self._seed(trainer, checkpoint["epoch"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._resumed_epoch is None or trainer.train_dataloader is None:
            self._seed(trainer, self._resumed_epoch or 0)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch != self._resumed_epoch:
            self._seed(trainer, trainer.current_epoch)

    def _seed(self, trainer: Trainer, epoch: int) -> None:
        sequence = np.random.SeedSequence((self.seed, epoch, trainer.global_rank))
        seed = int(sequence.generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
