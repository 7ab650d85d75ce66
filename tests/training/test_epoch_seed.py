"""All that is random in an epoch follows from the seed, the epoch and the rank."""

import random
from types import SimpleNamespace

import numpy as np
import torch

from simplecnn.training.epoch_seed import EpochSeed


def drawn(seed: int, epoch: int, rank: int = 0) -> tuple[float, float, float]:
    """A number of torch, of NumPy and of Python, after the start of an epoch."""
    trainer = SimpleNamespace(current_epoch=epoch, global_rank=rank)
    EpochSeed(seed).on_train_epoch_start(trainer, None)
    return float(torch.rand(())), float(np.random.rand()), random.random()


def test_torch_numpy_and_python_are_seeded_anew():
    first = drawn(seed=3, epoch=1)
    assert drawn(seed=3, epoch=1) == first
    for other in (drawn(seed=4, epoch=1), drawn(seed=3, epoch=2), drawn(seed=3, epoch=1, rank=1)):
        assert all(a != b for a, b in zip(first, other, strict=True))
