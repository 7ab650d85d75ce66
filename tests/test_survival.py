"""Runs that are killed, interrupted or damaged at any moment go on as if nothing had happened."""

import contextlib
import errno
import json
import os
import random
import resource
import shutil
import signal
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import torch
from children import assert_same, checkpoint, ended, events, fork, kill_self, side_by_side
from conftest import compose_run

from simplecnn import run, whole_files
from simplecnn.callbacks import images
from simplecnn.callbacks.interruption import StopOnSignal
from simplecnn.errors import InputError, RunError
from simplecnn.run import train
from simplecnn.run_folder import RunFolder

Story = Generator[int, int, None]
NUM_MOMENTS = 25
NUM_STEPS = 27
WORDS = ["trainer.max_epochs=3", "+trainer.limit_train_batches=9", "model.network.dropout=0.5",
         "callbacks=[checkpoint,lr_monitor,progress,filters,early_stopping]",
         "callbacks.filters.every_n_epochs=2", "callbacks.last.every_n_train_steps=4", "model/scheduler=plateau",
         "+model.scheduler.threshold=9", "model.scheduler.patience=0",
         "model.optimizer.lr=0.02"]  # fmt: skip


def config_of(folder: Path, whole: Path) -> dict:
    """The configuration of the run `whole`, for another folder."""
    text = (whole / "config.json").read_text()
    return json.loads(text.replace(str(whole), str(folder)))


def do_whole(folder: Path, *words: str) -> Path:
    """A run that nobody interrupts, done in a child as the others are; its seconds in a file."""
    config = compose_run(folder, *words)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    begin = time.monotonic()
    assert ended(fork(lambda: train(config, folder), folder.with_suffix(".log"))) == 0
    (folder / "seconds").write_text(str(time.monotonic() - begin))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("survival") / "whole"
    train(compose_run(folder.parent / "warm", "trainer.max_epochs=1"), folder.parent / "warm")
    return do_whole(folder, *WORDS)


def begin(folder: Path, whole: Path, trouble: Callable[[], object] | None = None) -> int:
    """Begin, or go on with, a run in a child that has `trouble`. Gives the child's number."""
    config = config_of(folder, whole)

    def child() -> None:
        if trouble is not None:
            trouble()
        train(config, folder, again=True, by_hand=True)

    return fork(child, folder.with_suffix(".log"))


def log_of(folder: Path) -> str:
    path = folder.with_suffix(".log")
    return path.read_text() if path.exists() else "no log"


def assert_is(folder: Path, whole: Path) -> None:
    """What is in a run's folder is, bit for bit, what is in that of the whole run."""
    for name in ("last", "best"):
        assert_same(checkpoint(folder, name), checkpoint(whole, name), name)
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert events(folder) == events(whole)
    pictures = [{p.name: p.read_bytes() for p in f.glob("images/*")} for f in (folder, whole)]
    assert pictures[0] == pictures[1]
    one, two = (json.loads((f / "run.json").read_text()) for f in (folder, whole))
    for key in ("status", "best", "metrics", "num_epochs"):
        assert one[key] == two[key], key
    assert not [p for p in folder.rglob(".*") if p.is_file() and ".hydra" not in p.parts]


# Kills.


def at_time(seconds: float) -> Callable[[], object]:
    def trouble() -> None:
        timer = threading.Timer(seconds, kill_self)
        timer.daemon = True
        timer.start()

    return trouble


def at_call(module: object, name: str, number: int) -> Callable[[], object]:
    """Kill at the `number`-th call (from 1) of a function."""

    def trouble() -> None:
        true, calls = getattr(module, name), []

        def counted(*args, **kwargs):
            calls.append(name)
            if len(calls) == number:
                kill_self()
            return true(*args, **kwargs)

        setattr(module, name, counted)

    return trouble


def in_a_checkpoint(number: int, moment: str) -> Callable[[], object]:
    """Kill in the `number`-th writing of a checkpoint: half of it written, or before the note of
    its checksum, between the note and the renaming, or after the renaming."""

    def trouble() -> None:
        from simplecnn import checkpoint_files

        true, calls = whole_files.write_whole, []

        def write(path, content, before_rename=None):
            calls.append(path)
            if len(calls) < number:
                return true(path, content, before_rename)
            if moment == "half":
                path.with_name(f".{path.name}.{os.getpid()}").write_bytes(
                    bytes(content)[: len(content) // 2]
                )
                kill_self()
            if moment == "noted":
                true(path, content, lambda: (before_rename(), kill_self()))
            true(path, content, kill_self if moment == "written" else before_rename)
            kill_self()

        checkpoint_files.write_whole = write

    return trouble


def test_a_run_killed_at_any_moment_goes_on(whole, tmp_path, proves):
    """25 moments drawn by chance over the whole run, every fifth of them killed once more."""
    seconds = float((whole / "seconds").read_text())
    rng = random.Random(6)
    kills = []

    def story(number: int, share: float) -> Story:
        folder = tmp_path / str(number)
        for times in range(2 if number % 5 == 0 else 1):
            moment = share * seconds * 0.6**times
            while (code := (yield begin(folder, whole, at_time(moment)))) == 0:
                moment /= 2  # it was faster than the whole run had been
                shutil.rmtree(folder)
            assert code == -signal.SIGKILL, log_of(folder)
            kills.append(moment)
        assert (yield begin(folder, whole)) == 0, log_of(folder)
        assert_is(folder, whole)

    side_by_side(story(n, rng.uniform(0.05, 0.9)) for n in range(NUM_MOMENTS))
    proves(
        "Nothing is lost",
        "A run that is killed (SIGKILL) goes on, and its weights, optimizer, schedule, metrics, "
        "pictures, CSV and TensorBoard files are those of a run that never stopped, bit for bit.",
        moments_drawn_by_chance=NUM_MOMENTS,
        kills_survived=len(kills),
    )


PLACES = {
    "in an epoch": at_call(StopOnSignal, "on_train_batch_end", 15),
    "in an epoch, before anything was saved": at_call(StopOnSignal, "on_train_batch_end", 3),
    "in a validation": at_call(images.ImageCallback, "on_train_epoch_end", 2),
    "in a picture, before it is drawn": at_call(images, "encode_png", 2),
    "in a picture, before it is written": at_call(images, "write_whole", 2),
    "in a checkpoint, half written": in_a_checkpoint(6, "half"),
    "in a checkpoint, before its checksum is noted": in_a_checkpoint(4, "written"),
    "in a checkpoint, before it is renamed": in_a_checkpoint(7, "noted"),
    "after the first checkpoint was renamed": in_a_checkpoint(1, "renamed"),
    "in the test": at_call(run.Classifier, "test_step", 1),
    "in the record, at the end": at_call(run.Run, "record", 1),
}


def test_a_run_killed_in_the_worst_places_goes_on(whole, tmp_path, proves):
    def story(number: int, place: str) -> Story:
        folder = tmp_path / str(number)
        assert (yield begin(folder, whole, PLACES[place])) == -signal.SIGKILL, place
        assert (yield begin(folder, whole)) == 0, (place, log_of(folder))
        assert_is(folder, whole)

    side_by_side(story(n, place) for n, place in enumerate(PLACES))
    counts = [sum(f"in a {kind}" in p for p in PLACES) for kind in ("checkpoint", "picture")]
    proves(
        "Nothing is lost",
        "The same holds in the places where it is hardest.",
        kills_survived=len(PLACES),
        in_the_writing_of_a_checkpoint=counts[0],
        in_a_picture=counts[1],
    )
