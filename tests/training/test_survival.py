"""Runs that are killed, interrupted or damaged at any moment go on as if nothing had happened."""

import errno
import io
import json
import logging
import math
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from children import (
    as_nobody,
    assert_same,
    checkpoint,
    ended,
    events,
    fork,
    kill_self,
    open_folder,
    side_by_side,
)
from conftest import compose_run

from simplecnn import atomic as whole_files
from simplecnn.callbacks import images
from simplecnn.callbacks.interruption import StopOnSignal
from simplecnn.errors import InputError
from simplecnn.run_directory import RunDirectory
from simplecnn.training import run
from simplecnn.training.run import train

Story = Generator[int, int, None]
NUM_MOMENTS = 25
NUM_STEPS = 27
WORDS = ["trainer.max_epochs=3", "+trainer.limit_train_batches=9", "model.network.dropout=0.5",
         "callbacks=[checkpoint,lr_monitor,progress,filters,early_stopping]",
         "callbacks.filters.every_n_epochs=2", "callbacks.last.every_n_train_steps=4",
         "model/scheduler=plateau", "+model.scheduler.threshold=9", "model.scheduler.patience=0",
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


def at_call(
    module: object, name: str, number: int, signum: int = signal.SIGKILL
) -> Callable[[], object]:
    """Send the process a signal at the `number`-th call (from 1) of a function."""

    def trouble() -> None:
        true, calls = getattr(module, name), []

        def counted(*args, **kwargs):
            calls.append(name)
            if len(calls) == number:
                os.kill(os.getpid(), signum)
            return true(*args, **kwargs)

        setattr(module, name, counted)

    return trouble


def in_a_checkpoint(number: int, moment: str) -> Callable[[], object]:
    """Kill in the `number`-th writing of a checkpoint: half of it written, or before the note of
    its checksum, between the note and the renaming, or after the renaming."""

    def trouble() -> None:
        from simplecnn.training import checkpoint_files

        true, calls = whole_files.atomic_write, []

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

        checkpoint_files.atomic_write = write

    return trouble


@pytest.mark.long
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
            assert code == -signal.SIGKILL
            kills.append(moment)
        assert (yield begin(folder, whole)) == 0
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
    "in a picture, before it is written": at_call(images, "atomic_write", 2),
    "in a checkpoint, half written": in_a_checkpoint(6, "half"),
    "in a checkpoint, before its checksum is noted": in_a_checkpoint(4, "written"),
    "in a checkpoint, before it is renamed": in_a_checkpoint(7, "noted"),
    "after the first checkpoint was renamed": in_a_checkpoint(1, "renamed"),
    "in the test": at_call(run.Classifier, "test_step", 1),
    "in the record, at the end": at_call(run.Run, "record", 1),
}


@pytest.mark.long
def test_a_run_killed_in_the_worst_places_goes_on(whole, tmp_path, proves):
    def story(number: int, place: str) -> Story:
        folder = tmp_path / str(number)
        assert (yield begin(folder, whole, PLACES[place])) == -signal.SIGKILL, place
        assert (yield begin(folder, whole)) == 0, place
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


# Checkpoints elsewhere, and of every kind of run.


def test_a_moved_run_goes_on_and_a_checkpoint_goes_on_in_another_folder(whole, tmp_path):
    folder, moved, other = tmp_path / "a", tmp_path / "moved here", tmp_path / "b"
    at_step_15 = at_call(StopOnSignal, "on_train_batch_end", 15)
    assert ended(begin(folder, whole, at_step_15)) == -signal.SIGKILL
    folder.rename(moved)
    mid_epoch = moved / "checkpoints" / "last.ckpt"
    assert torch.load(mid_epoch, weights_only=True)["global_step"] == 12

    config = config_of(other, whole) | {"ckpt_path": str(mid_epoch)}
    assert ended(fork(lambda: train(config, other), other.with_suffix(".log"))) == 0
    assert_is(other, whole)

    resumed = RunDirectory.to_resume(moved)
    config_here = resumed.config_here()
    assert config_here["paths"]["output_dir"] == str(moved)
    child = fork(lambda: train(config_here, moved, again=True, by_hand=True), tmp_path / "log")
    assert ended(child) == 0
    assert_is(moved, whole)
    with pytest.raises(InputError, match="this run is finished. To train on from its end, type"):
        RunDirectory.to_resume(moved)


KINDS = {
    "one cycle, automatic optimization": (
        "model/scheduler=one_cycle", "+trainer.gradient_clip_val=1", "data.batch_size=64"),
    "plateau, automatic optimization": (
        "model/scheduler=plateau", "model.scheduler.patience=0", "+model.scheduler.threshold=9",
        "+trainer.gradient_clip_val=1"),
    "steps instead of epochs": ("+trainer.max_steps=22", "model/scheduler=one_cycle"),
    "early stopping": ("callbacks=[checkpoint,early_stopping]", "model.optimizer.lr=1e-9",
                       "callbacks.early_stopping.patience=1", "trainer.max_epochs=9"),
    "validation within the epoch": ("+trainer.val_check_interval=4",),
    "gradients of two batches": ("+trainer.accumulate_grad_batches=2",),
    "in oneDNN's layout": ("model.network.channels=[16,32]",),
    "several steps in a batch, and their pictures": (
        "data.steps_together=4", "+trainer.limit_train_batches=3", "model/scheduler=one_cycle",
        "callbacks=[checkpoint,film,health]"),
}  # fmt: skip


@pytest.mark.long
def test_every_kind_of_run_goes_on_exactly(tmp_path, proves):
    """Killed right after its second, and after its last, checkpoint within an epoch or between."""
    moments = [2, 5]

    def story(number: int, kind: str, moment: int) -> Story:
        folder = tmp_path / f"{number}_{moment}"
        whole = tmp_path / f"{number}_whole"
        code = yield begin(folder, whole, in_a_checkpoint(moment, "renamed"))
        assert code == -signal.SIGKILL, kind
        assert (yield begin(folder, whole)) == 0, kind
        try:
            assert_is(folder, whole)
        except AssertionError as error:
            raise AssertionError(f"{kind}, killed after checkpoint {moment}: {error}") from error

    small = ["+trainer.limit_train_batches=9", "trainer.max_epochs=3", "model.network.dropout=0.5",
             "callbacks=checkpoint", "callbacks.last.every_n_train_steps=4"]  # fmt: skip
    for number, (_kind, words) in enumerate(KINDS.items()):
        keys = {word.partition("=")[0] for word in words}
        rest = [word for word in small if word.partition("=")[0] not in keys]
        do_whole(tmp_path / f"{number}_whole", *rest, *words)
    side_by_side(story(n, kind, m) for n, kind in enumerate(KINDS) for m in moments)
    proves(
        "Nothing is lost",
        "So does every kind of run: schedules by step and by metric, automatic optimization, early "
        "stopping, max_steps, validation within epochs, accumulated gradients.",
        kinds=len(KINDS),
        kills_survived=len(KINDS) * len(moments),
    )


def test_two_processes_that_are_told_to_stop_go_on_exactly(tmp_path, proves):
    words = ["trainer=ddp_sim", "trainer.max_epochs=2", "+trainer.limit_train_batches=1.0",
             "callbacks=[checkpoint]"]  # fmt: skip
    whole, folder = do_whole(tmp_path / "whole", *words), tmp_path / "stopped"
    last = folder / "checkpoints" / "last.ckpt"
    child = begin(folder, whole)
    limit = time.monotonic() + 60
    while not last.exists() and time.monotonic() < limit:
        time.sleep(0.01)
    time.sleep(0.2)
    told = time.monotonic()
    os.kill(child, signal.SIGINT)
    assert ended(child) == 130
    seconds = time.monotonic() - told
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    assert seconds < 8  # 5 on a machine that does nothing else
    steps_per_epoch = checkpoint(whole)["global_step"] // 2
    assert checkpoint(folder)["global_step"] % steps_per_epoch, "it ended between two epochs"
    assert ended(begin(folder, whole)) == 0
    for key in ("state_dict", "optimizer_states", "epoch", "global_step"):
        assert_same(checkpoint(folder)[key], checkpoint(whole)[key], key)
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    proves(
        "Nothing is lost",
        "Two processes that are told to stop save together, and go on bit for bit.",
        signals_obeyed=1,
    )


# Disks and files.


def test_a_full_disk_leaves_the_checkpoint_before(whole, tmp_path, proves):
    """No file larger than 100 kB, from the first checkpoint on, or from the fourth on."""
    sizes = []
    for name, limit in [("full", 100_000), ("later", None)]:
        folder = tmp_path / name

        def trouble(limit=limit) -> None:
            true, calls = run.CheckpointFiles.save_checkpoint, []

            def save(self, *args, **kwargs):
                calls.append(args)
                if len(calls) == 4 or limit:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
                true(self, *args, **kwargs)

            run.CheckpointFiles.save_checkpoint = save

        assert ended(begin(folder, whole, trouble)) == 1
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "failed"
        assert "last.ckpt cannot be written: File too large." in record["error"]
        assert record["error"].startswith("RunError: ")
        sizes.append(sorted(p.name for p in folder.glob("checkpoints/*")))
    assert sizes == [[], ["best.ckpt", "last.ckpt"]]
    assert "The one before it is whole." in record["error"]
    RunDirectory.to_resume(folder)
    assert ended(begin(folder, whole)) == 0
    assert_is(folder, whole)
    proves("Nothing is lost", "A disk that is full leaves the checkpoint before.", failures=2)


def test_a_folder_that_becomes_read_only_leaves_the_checkpoint_before(whole, proves):
    def trouble() -> None:
        true, calls = run.CheckpointFiles.save_checkpoint, []

        def save(self, checkpoint, path, *args, **kwargs):
            calls.append(path)
            if len(calls) == 4:
                Path(path).parent.chmod(0o555)
                as_nobody(folder)  # only now: nobody may be kept out of the packages' folder
            true(self, checkpoint, path, *args, **kwargs)

        run.CheckpointFiles.save_checkpoint = save

    with open_folder() as place:
        folder = place / "run"
        assert ended(begin(folder, whole, trouble)) == 1
        error = json.loads((folder / "run.json").read_text())["error"]
        assert error.startswith("RunError: ")
        assert error.endswith(
            "last.ckpt cannot be written: Permission denied. The one before it is whole."
        )
        assert [p.name for p in sorted(folder.glob("checkpoints/*"))] == ["best.ckpt", "last.ckpt"]
        for name in ("best", "last"):
            assert checkpoint(folder, name)["global_step"] > 0
        (folder / "checkpoints").chmod(0o755)
        RunDirectory.to_resume(folder)
        assert ended(begin(folder, whole)) == 0
        assert_is(folder, whole)
    proves("Nothing is lost", "A read-only folder leaves the checkpoint before.", failures=1)


def test_no_error_of_writing_leaves_a_part(tmp_path, monkeypatch):
    path = tmp_path / "x"
    whole_files.atomic_write(path, b"before")

    def full(number: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        whole_files.atomic_write(path, b"after")
    monkeypatch.undo()
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]
    umask = os.umask(0o027)
    try:
        whole_files.atomic_write(path, b"after")
    finally:
        os.umask(umask)
    assert path.read_bytes() == b"after" and path.stat().st_mode & 0o777 == 0o640


def test_damaged_checkpoints_are_named_and_the_other_one_suggested(whole, tmp_path, proves):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    good = last.read_bytes()
    assert set(record["checkpoints"]) == {"last.ckpt", "best.ckpt"}
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    other = io.BytesIO()
    torch.save(torch.load(last, weights_only=True) | {"epoch": 2}, other)
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"weights": torch.zeros(3)}, foreign)
    damages = {
        b"": "is empty.",
        good[:1000]: "is cut short or damaged.",
        good[:-1]: "is cut short or damaged.",
        b"%PDF-1.7 of somebody": "is not a checkpoint.",
        bytes(flipped): "is not as its run wrote it: its SHA-256 is another one.",
        other.getvalue(): "is not as its run wrote it: its SHA-256 is another one.",
        foreign.read_bytes(): "is not as its run wrote it: its SHA-256 is another one.",
    }
    for content, sentence in damages.items():
        last.write_bytes(content)
        for look in (lambda: RunDirectory.to_resume(folder), lambda: run.check_checkpoint(last)):
            with pytest.raises(InputError) as raised:
                look()
            assert str(raised.value) == (
                f"{last} {sentence} {best} is whole: it can take its place."
            )
    best.unlink()
    with pytest.raises(InputError, match=r"SHA-256 is another one\.$"):
        run.check_checkpoint(last)
    with pytest.raises(InputError, match="foreign.ckpt is not a checkpoint of simplecnn: it holds"):
        run.read_checkpoint(foreign)
    run.check_checkpoint(foreign)
    stray = tmp_path / "stray.ckpt"  # of no run: what is in it has to do
    stray.write_bytes(flipped)
    with pytest.raises(InputError, match="stray.ckpt is damaged: a checksum in it is wrong."):
        run.check_checkpoint(stray)
    proves(
        "Nothing is lost",
        "A checkpoint that is empty, cut short, changed or foreign is named, and another one that "
        "is whole is suggested.",
        damages_recognised=len(damages) + 2,
    )


# Signals.


def stopped_by(
    folder: Path, whole: Path, number: int, when: str, *, every: int | None = None
) -> list[float]:
    """Send a signal to a run when its log says `when`. Gives exit code and seconds to the end."""
    config = config_of(folder, whole)
    config["callbacks"]["last"]["every_n_train_steps"] = every
    config["trainer"]["limit_train_batches"] = 62
    config["trainer"]["max_epochs"] = 50
    child = fork(lambda: train(config, folder), folder.with_suffix(".log"))
    limit = time.monotonic() + 60
    while when not in log_of(folder) and time.monotonic() < limit:
        time.sleep(0.02)
    begin = time.monotonic()
    os.kill(child, number)
    return [ended(child), time.monotonic() - begin]


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.long
def test_a_signal_saves_and_tells_how_to_go_on(name, code, whole, tmp_path, monkeypatch, proves):
    monkeypatch.setattr("sys.argv", ["scripts/train.py", "seed=3"])
    monkeypatch.delenv("UV", raising=False)
    places = {
        "step": (at_call(run.Classifier, "training_step", 15, getattr(signal, name)), 15),
        "epoch": (
            at_call(images.ImageCallback, "on_train_epoch_end", 2, getattr(signal, name)),
            18,
        ),
        "validation": (at_call(run.Classifier, "validation_step", 1, getattr(signal, name)), 9),
    }
    for place, (trouble, step) in places.items():
        folder = tmp_path / f"in a {place}"
        assert ended(begin(folder, whole, trouble)) == code
        record = json.loads((folder / "run.json").read_text())
        assert (record["status"], record["num_epochs"]) == ("interrupted", step // 9)
        assert checkpoint(folder)["global_step"] == step
        told = f"Interrupted. It goes on with\nscripts/train.py resume='{folder}'\n"
        assert told in log_of(folder) and "Traceback" not in log_of(folder)
        assert ended(begin(folder, whole)) == 0
        assert_is(folder, whole)
    early = tmp_path / "early"
    before_anything = at_call(run.Classifier, "configure_optimizers", 1, getattr(signal, name))
    assert ended(begin(early, whole, before_anything)) == code
    assert "Nothing was saved yet, so that it starts anew with\n" in log_of(early)
    code, seconds = stopped_by(tmp_path / "timed", whole, getattr(signal, name), "epoch 2/50")
    assert seconds <= 5
    proves(
        "Nothing is lost",
        f"{name} finishes the step or the epoch's end, saves, says how to go on, and ends with "
        f"{code} within 5 seconds; what goes on is bit for bit the whole run.",
        signals_obeyed=len(places) + 2,
    )


def test_a_step_that_takes_too_long_is_not_waited_for(whole, tmp_path, monkeypatch):
    """It ends after four seconds, and the run goes on from what was saved before."""
    from simplecnn.models.classifier import Classifier

    def slow(*args):
        print("asleep", flush=True)
        for _ in range(1000):
            time.sleep(0.1)

    monkeypatch.setattr(Classifier, "validation_step", slow)
    code, seconds = stopped_by(tmp_path / "a", whole, signal.SIGTERM, "asleep", every=4)
    assert code == 143 and 3.5 <= seconds <= 5
    assert json.loads((tmp_path / "a" / "run.json").read_text())["status"] == "interrupted"
    assert checkpoint(tmp_path / "a")["global_step"] == 60


def test_slurms_warning_saves_and_requeues(whole, tmp_path, monkeypatch, proves):
    """SIGUSR1, as `sbatch --signal=SIGUSR1@60` sends it; the job that starts again goes on."""
    called = tmp_path / "called"
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {called}\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    for name, value in [("JOB_ID", "4711"), ("JOB_NAME", "train"), ("NTASKS", "1"),
                        ("PROCID", "0"), ("LOCALID", "0"), ("NODEID", "0"),
                        ("NODELIST", "localhost")]:  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    folder = tmp_path / "outputs" / "train" / "x"
    folder.parent.mkdir(parents=True)
    code, seconds = stopped_by(folder, whole, signal.SIGUSR1, "epoch 2/50")
    assert code == 143 and seconds <= 5
    assert called.read_text() == "requeue 4711\n"
    assert "SLURM starts job 4711 again, and the run goes on." in log_of(folder)
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["slurm_job"]) == ("interrupted", "4711")
    assert checkpoint(folder)["global_step"] > 62
    assert not list(tmp_path.rglob("hpc_ckpt*"))

    from simplecnn import cli as commands

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setattr("sys.argv", ["scripts/train.py", "data=mnist_5k", "seed=3"])
    assert commands.check_command_line("train") is None
    assert commands.sys.argv == [
        "scripts/train.py", "resume='outputs/train/x'", f"hydra.run.dir='{folder}'",
        "hydra.output_subdir=null",
    ]  # fmt: skip
    proves("Nothing is lost", "SLURM's warning saves, and has the job start again.", warnings=1)


def test_a_requeued_job_goes_on_with_its_sweep(tmp_path, monkeypatch):
    from simplecnn import cli as commands

    monkeypatch.chdir(tmp_path)

    def folder_of(**slurm: str) -> Path:
        for key, value in slurm.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setattr("sys.argv", ["scripts/train.py", "-m", "seed=1,2", "data=mnist_5k"])
        sweep = commands.check_command_line("train")
        sweep.release()
        assert f"hydra.sweep.dir={sweep.path}" in sys.argv
        time.sleep(1.1)  # the next one would have another name
        return sweep.path

    first = folder_of(SLURM_JOB_ID="4711")
    other = folder_of(SLURM_JOB_ID="4712")
    assert folder_of(SLURM_JOB_ID="4711", SLURM_RESTART_COUNT="1") == first
    assert folder_of(SLURM_JOB_ID="4713") not in (first, other)


# A loss that is not finite.


def test_a_loss_that_is_not_finite_names_step_rate_and_layer(whole, tmp_path, proves):
    def spoil(where: str, number: int) -> Callable[[], object]:
        """In the batch `number` of the run, conv2 gives infinity, or a gradient that is none."""

        class Spoil(pl.Callback):
            def on_fit_start(self, trainer, pl_module):
                seen, now = [], []

                def look(network, inputs):
                    if network.training:
                        seen.append(float(inputs[0].sum()))
                        now[:] = [len(seen) >= number and seen[-1] == seen[number - 1]]

                pl_module.network.register_forward_pre_hook(look)
                conv2 = pl_module.network.conv2
                if where == "output":
                    conv2.register_forward_hook(
                        lambda layer, inputs, output: output * math.inf if now[0] else None
                    )
                else:
                    conv2.weight.register_hook(
                        lambda gradient: gradient * math.nan if now[0] else None
                    )

        def trouble() -> None:
            true = run.build_trainer

            def build_trainer(config):
                trainer = true(config)
                trainer.callbacks.append(Spoil())
                return trainer

            run.build_trainer = build_trainer

        return trouble

    # rate, digits in a step, steps in a batch, what happens, and what is said: step, epoch, what
    cases = [
        (1e20, 64, 1, lambda: None, 2, 1, "the output of conv2"),
        (0.02, 64, 1, spoil("output", 71), 71, 2, "the output of conv2"),
        (0.001, 64, 1, spoil("gradient", 40), 40, 1, "the gradient of conv2.weight"),
        (0.02, 64, 8, spoil("output", 71), 71, 2, "the output of conv2"),
        (0.001, 64, 8, spoil("gradient", 61), 61, 1, "the gradient of conv2.weight"),
        (0.001, 16, 8, spoil("gradient", 235), 235, 1, "the gradient of conv2.weight"),  # a copy
    ]
    for number, (rate, size, together, trouble, step, epoch, what) in enumerate(cases):
        folder = tmp_path / str(number)
        config = config_of(folder, whole)
        config["model"]["optimizer"]["lr"] = rate
        config["data"]["batch_size"] = size
        config["data"]["steps_together"] = together
        # All steps of an epoch but one or two.
        config["trainer"]["limit_train_batches"] = -(-62 * 64 // (size * together))

        def child(config=config, folder=folder, trouble=trouble) -> None:
            trouble()
            train(config, folder)

        assert ended(fork(child, folder.with_suffix(".log"))) == 1
        record = json.loads((folder / "run.json").read_text())
        assert record["status"] == "failed"
        assert record["error"] == (
            f"RunError: The loss is not finite: at step {step} (epoch {epoch}), with a learning "
            f"rate of {rate:.3g}, {what} was the first to break. Try a smaller "
            f"model.optimizer.lr, or +trainer.gradient_clip_val=1."
        ), log_of(folder)
        for path in folder.glob("checkpoints/*.ckpt"):  # the best one, and the last, are finite
            saved = torch.load(path, weights_only=True)["state_dict"]
            assert all(torch.isfinite(v).all() for v in saved.values()), path
    proves(
        "Nothing is lost",
        "A loss that is not finite ends the run, with the step, the learning rate and the layer.",
        ways_to_break=len(cases),
    )


# As one types it.


def test_the_command_that_is_printed_goes_on(tmp_path, monkeypatch, proves):
    """Interrupted, the line on the screen typed again, and what cannot be continued."""
    from simplecnn import cli as commands

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UV", raising=False)
    words = ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=2", "model.network.dropout=0.5",
             "+trainer.limit_train_batches=8", "callbacks=[checkpoint,progress]",
             "model.network.channels=[4,8]"]  # fmt: skip

    def type_in(*words: str, trouble: Callable[[], object] | None = None) -> tuple[int, str]:
        output = tmp_path / "screen"
        output.unlink(missing_ok=True)

        def child() -> None:
            monkeypatch.setattr("sys.argv", ["scripts/train.py", *words])
            logging.getLogger().handlers.clear()
            if trouble is not None:
                trouble()
            commands.train()

        code = ended(fork(child, output))
        return code, output.read_text()

    assert type_in(*words, "hydra.run.dir=whole")[0] == 0
    at_step_11 = at_call(run.Classifier, "training_step", 11, signal.SIGTERM)
    code, screen = type_in(*words, "hydra.run.dir='a b'", trouble=at_step_11)
    assert code == 143, screen
    script, *again = shlex.split(screen.partition("It goes on with\n")[2].splitlines()[0])
    assert (script, again) == ("scripts/train.py", ["resume=a b"])
    overrides = Path("a b/.hydra/overrides.yaml").read_text()
    code, screen = type_in(*again)
    assert code == 0, screen
    assert_is(Path("a b"), Path("whole"))
    assert Path("a b/.hydra/overrides.yaml").read_text() == overrides
    log = Path("a b/train.log").read_text()
    assert "Interrupted." in log and "epoch 2/2" in log  # one log, of both

    Path("no").mkdir()
    wrong = {
        ("resume=a b",): "resume=a b: this run is finished. To train on from its end, type its "
        "command again with ckpt_path=a b/checkpoints/last.ckpt and another trainer.max_epochs.",
        ("resume=a b", "seed=3"): "seed=3: resume goes on with the run's own configuration",
        ("resume=none",): "resume=none: there is no such folder.",
        ("resume=no",): "resume=no: not a run of simplecnn, config.yaml is missing.",
        (*words, "ckpt_path=a b/config.yaml"): "a b/config.yaml is not a checkpoint.",
    }
    for typed, sentence in wrong.items():
        code, screen = type_in(*typed)
        assert code == 2 and screen.startswith(sentence) and screen.count("\n") == 1, screen
    more = [w for w in words if "max_epochs" not in w]
    code, screen = type_in(*more, "trainer.max_epochs=3", "hydra.run.dir=c",
                           "ckpt_path=a b/checkpoints/last.ckpt")  # fmt: skip
    assert code == 0 and "epoch 3/3" in screen and "epoch 2/3" not in screen, screen
    rows, before = (Path(f, "metrics.csv").read_text().splitlines() for f in ("c", "a b"))
    assert rows[:3] == before[:3]  # its past, and one epoch and a test more
    assert [row.partition(",")[0] for row in rows[3:]] == ["23", "24"]
    proves(
        "Nothing is lost",
        "The command that an interrupted run prints goes on with it; what cannot be continued is "
        "answered by a sentence.",
        commands_typed=4 + len(wrong),
    )


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
def test_a_signal_to_a_sweep_by_two_processes_saves_their_jobs(
    name, code, tmp_path, monkeypatch, proves
):
    from simplecnn import cli as commands

    monkeypatch.chdir(tmp_path)
    words = ["-m", "seed=1,2,3", "data=mnist_5k", "trainer=cpu", "trainer.max_epochs=500",
             "callbacks=checkpoint", "logger=csv", "model.network.channels=[4,8]",
             "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep",
             ]  # fmt: skip

    def child() -> None:
        os.setpgid(0, 0)  # a terminal's Ctrl-C reaches the head and its workers
        monkeypatch.setattr("sys.argv", ["scripts/train.py", *words])
        logging.getLogger().handlers.clear()
        commands.train()

    head = fork(child, tmp_path / "screen")
    limit = time.monotonic() + 90
    jobs = [tmp_path / "sweep" / number for number in "01"]
    while not all((job / "checkpoints" / "last.ckpt").exists() for job in jobs):
        assert time.monotonic() < limit, (tmp_path / "screen").read_text()
        time.sleep(0.05)
    told = time.monotonic()
    (os.kill if name == "SIGTERM" else os.killpg)(head, getattr(signal, name))
    assert ended(head) == code
    seconds = time.monotonic() - told
    assert seconds < 10  # two on a machine that does nothing else
    for job in jobs:
        record = json.loads((job / "run.json").read_text())
        assert record["status"] == "interrupted"
        assert 0 < checkpoint(job)["global_step"]
        assert not [p for p in job.rglob(".*") if p.is_file() and ".hydra" not in p.parts]
    screen = (tmp_path / "screen").read_text()
    assert "not run" in screen and "to go on" in screen
    assert not (tmp_path / "sweep" / "2").exists()
    proves("Nothing is lost", f"{name} to a sweep by two processes saves both jobs.", jobs_saved=2)
