"""All that is random in an epoch follows from the seed and the epoch."""

import random
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class EpochSeed(Callback):
    """Seeds torch, NumPy and Python at the start of each epoch from (seed, epoch, rank).

    So dropout in an epoch of a resumed run is that of a run that was never interrupted. A loader
    that shuffles draws two numbers: one when its iterator is made, one with the first batch. In the
    first epoch of a resumed run the iterator is made before the epoch starts, so that this epoch is
    seeded then, and only then.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._resumed_epoch: int | None = None

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._resumed_epoch = checkpoint["epoch"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
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
