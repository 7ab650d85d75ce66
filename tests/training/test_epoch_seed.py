"""Every random number of an epoch follows from the seed, the epoch and the rank."""

import random
from types import SimpleNamespace

import numpy as np
import torch

from simplecnn.training.epoch_seed import EpochSeed


def draw(seed: int, epoch: int, rank: int = 0) -> tuple[float, float, float]:
    """One random number each from torch, NumPy and Python after the start of an epoch."""
    trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    EpochSeed(seed).on_train_epoch_start(trainer, None)
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_torch_numpy_and_python_are_seeded_from_seed_epoch_and_rank():
    first = draw(seed=3, epoch=1)
    assert draw(seed=3, epoch=1) == first
    for other in (draw(seed=4, epoch=1), draw(seed=3, epoch=2), draw(seed=3, epoch=1, rank=1)):
        assert all(a != b for a, b in zip(first, other, strict=True))
