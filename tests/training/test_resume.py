"""A run that is killed or interrupted at any moment is resumed as if nothing had happened."""

import io
import json
import logging
import math
import os
import random
import re
import resource
import shlex
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import pytorch_lightning as pl
import torch
import yaml
from children import (
    PATIENCE,
    as_nobody,
    assert_same,
    checkpoint,
    ended,
    events,
    fork,
    kill_self,
    open_folder,
    side_by_side,
    type_in,
    wait_until,
)
from conftest import compose_run

from simplecnn import checkpoint_file
from simplecnn.callbacks import image_callback
from simplecnn.callbacks.image_callback import ImageCallback
from simplecnn.checkpoint_file import check_checkpoint, read_checkpoint
from simplecnn.data.mnist import MNISTDataModule
from simplecnn.errors import InputError
from simplecnn.models.classifier import Classifier
from simplecnn.run_directory import RunDirectory
from simplecnn.training import run
from simplecnn.training.checkpoint_io import AtomicCheckpointIO
from simplecnn.training.run import train

Story = Generator[int, int, None]
Trouble = Callable[[], object]
NUM_KILLS = 25
STEPS = 8  # of an epoch; three epochs unless a recipe says otherwise
CALLBACKS = "pytorch_lightning.callbacks"


def layer(name: str, **arguments: Any) -> str:
    return "{" + ",".join([f"_target_:torch.nn.{name}", *(f"{k}:{v}" for k, v in arguments.items())]) + "}"  # noqa: E501 # fmt: skip


BATCH_NORM = [
    layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3),
    layer("BatchNorm2d", num_features=4),
    layer("ReLU"),
    layer("MaxPool2d", kernel_size=4),
    layer("Flatten"),
    layer("Linear", in_features=144, out_features=10),
]
# Between them they draw every picture.
RECIPES = {
    "dropout, elastic, one-cycle": [
        "callbacks=[checkpoint,lr_monitor,progress,filters,filter_history]",
        "model.network.dropout=0.5", "data/augmentation=elastic", "model/scheduler=one_cycle",
        "callbacks.filters.every_n_epochs=1"],
    "plateau, early stopping": [  # the first epoch is the best: it stops after the third
        "callbacks=[checkpoint,lr_monitor,progress,curves,early_stopping]", "trainer.max_epochs=9",
        "model/scheduler=plateau", "model.scheduler.patience=0", "+model.scheduler.threshold=9",
        "callbacks.early_stopping.patience=2", "+callbacks.early_stopping.min_delta=1"],
    "batch norm": [
        "callbacks=[checkpoint,lr_monitor,progress,health]", "callbacks.health.every_n_epochs=2",
        "model=lenet", "model.network._args_=[" + ",".join(BATCH_NORM) + "]"],
    "moving average": [
        "callbacks=[checkpoint,lr_monitor,progress,confusion]", "model.network.dropout=0.5",
        f"+callbacks.ema={{_target_:{CALLBACKS}.EMAWeightAveraging,decay:0.8}}"],
    "SGD, cosine": [
        "callbacks=[checkpoint,lr_monitor,progress,mistakes,feature_maps]", "model/optimizer=sgd",
        "model/scheduler=cosine", "callbacks.mistakes.every_n_epochs=2"],
}  # fmt: skip
CHECKPOINTS = "callbacks=[checkpoint,progress]"
FIRST_IS_BEST = ["monitor=val/loss", "mode=max"]  # the loss falls
KINDS = {
    "max_steps": [CHECKPOINTS, "+trainer.max_steps=20", "model/scheduler=one_cycle"],
    "no monitor, gradients of two batches": [
        CHECKPOINTS, "monitor=null", "+trainer.accumulate_grad_batches=2"],
    "the first epoch is the best, validation within the epoch": [
        CHECKPOINTS, *FIRST_IS_BEST, "+trainer.val_check_interval=3"],
    "a schedule of accumulation": [
        CHECKPOINTS, f"+callbacks.schedule={{_target_:{CALLBACKS}.GradientAccumulationScheduler,"
        "scheduling:{0:1,1:2}}"],
    "averages of epochs": [
        CHECKPOINTS, f"+callbacks.swa={{_target_:{CALLBACKS}.StochasticWeightAveraging,"
        "swa_lrs:0.01,swa_epoch_start:2,annealing_epochs:2}"],
    "an early stop that waits": [
        "callbacks=[checkpoint,progress,early_stopping]", "callbacks.early_stopping.patience=1",
        "+callbacks.early_stopping.min_delta=2", "+trainer.min_steps=20"],
    "a stranger's loader": [CHECKPOINTS, f"data._target_={__name__}.Shuffled"],
}  # fmt: skip


class Shuffled(MNISTDataModule):
    """Ordinary DataLoaders, whose order comes from torch's random numbers."""

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        images, labels = self.splits["train"]
        floats = images.reshape(-1, 1, 28, 28).float() / 255
        dataset = torch.utils.data.TensorDataset(floats, labels)
        return torch.utils.data.DataLoader(dataset, batch_size=64, shuffle=True)


# Runs in processes of their own.


@pytest.fixture(scope="module", autouse=True)
def trusted() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMPLECNN_TARGETS", f"{__name__}.Shuffled")
        yield


def config_of(folder: Path, whole: Path) -> dict[str, Any]:
    """The configuration of the run `whole`, for another directory."""
    text = whole.with_suffix(".yaml").read_text()
    return yaml.safe_load(text.replace(str(whole), str(folder)))


def begin(folder: Path, whole: Path, trouble: Trouble | None = None) -> int:
    """Begin, or resume, a run in a child that has `trouble`. Gives the child's number."""
    config = config_of(folder, whole)

    def child() -> None:
        if trouble is not None:
            trouble()
        train(config, folder, resume=True, requested=True)

    return fork(child, folder.with_suffix(".log"))


def log_of(folder: Path) -> str:
    path = folder.with_suffix(".log")
    return path.read_text() if path.exists() else "no log"


def configure(folder: Path, *words: str) -> None:
    """Put the configuration of a run beside its directory."""
    if not any(word.startswith("trainer.max_epochs") for word in words):
        words = (*words, "trainer.max_epochs=3")
    network = [] if "model=lenet" in words else ["model.network.hidden=16"]
    folder.with_suffix(".yaml").write_text(yaml.safe_dump(compose_run(folder, *network, *words)))


def whole_run(folder: Path, *words: str) -> Story:
    """A run that nobody interrupts; its configuration and its seconds lie beside it."""
    configure(folder, *words)
    start = time.monotonic()
    assert (yield begin(folder, folder)) == 0, log_of(folder)
    folder.with_suffix(".seconds").write_text(str(time.monotonic() - start))


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A whole run of each recipe."""
    parent = tmp_path_factory.mktemp("recipes")
    warm = parent / "warm"
    train(compose_run(warm, "trainer.max_epochs=1"), warm)  # imports, for all that are forked
    folders = {name: parent / str(number) for number, name in enumerate(RECIPES)}
    side_by_side(whole_run(folders[name], *words) for name, words in RECIPES.items())
    return folders


@pytest.fixture(scope="module")
def whole(recipes: dict[str, Path]) -> Path:
    return recipes["dropout, elastic, one-cycle"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run without pictures, whose first epoch is the best."""
    folder = tmp_path_factory.mktemp("plain") / "whole"
    side_by_side([whole_run(folder, CHECKPOINTS, *FIRST_IS_BEST)])
    assert record_of(folder)["best"]["epoch"] == 1
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def assert_is(folder: Path, whole: Path) -> None:
    """What is in a run's directory is, bit for bit, what is in that of the whole run."""
    names = [sorted(p.name for p in f.glob("checkpoints/*")) for f in (folder, whole)]
    assert names[0] == names[1]
    for name in names[0]:
        stem = name.removesuffix(".ckpt")
        assert_same(checkpoint(folder, stem), checkpoint(whole, stem), stem)
    assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()
    assert_same(without_time(events(folder)), without_time(events(whole)), "events")
    assert_same(pictures(folder), pictures(whole), "images")
    for key in ("status", "best", "metrics", "num_epochs", "ended"):
        assert record_of(folder)[key] == record_of(whole)[key], key
    assert not [p for p in folder.rglob(".*") if p.is_file() and ".hydra" not in p.parts]


def without_time(shown: dict[str, Any]) -> dict[str, Any]:
    """Curves say how long an epoch took: of them, how often they were drawn."""
    return {tag: [e[0] for e in v] if tag.endswith("curves") else v for tag, v in shown.items()}


def pictures(folder: Path) -> dict[str, Any]:
    """What is in images/: bytes, and of the curves' arrays all but the seconds."""
    files: dict[str, Any] = {}
    for path in folder.glob("images/*"):
        if path.name.startswith("curves") and path.suffix == ".npz":
            with np.load(path) as arrays:
                names = set(arrays.files) - {"seconds"}
                files[path.name] = {name: torch.from_numpy(arrays[name]) for name in sorted(names)}
        else:
            files[path.name] = b"" if path.name == "curves.png" else path.read_bytes()
    return files


# Kills.


def at_time(seconds: float) -> Trouble:
    def trouble() -> None:
        timer = threading.Timer(seconds, kill_self)
        timer.daemon = True
        timer.start()

    return trouble


def at_call(module: object, name: str, number: int, signum: int = signal.SIGKILL) -> Trouble:
    """Send the process a signal at the `number`-th call (from 1) of a function."""

    def trouble() -> None:
        true, calls = getattr(module, name), []

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == number:
                os.kill(os.getpid(), signum)
            return true(*args, **kwargs)

        setattr(module, name, counted)

    return trouble


def in_a_checkpoint(number: int, moment: str, which: str = "last") -> Trouble:
    """Kill in the `number`-th writing of a checkpoint: half, before or after it is renamed."""

    def trouble() -> None:
        true, calls = checkpoint_file.atomic_write, []

        def write(path: Path, content: memoryview) -> None:
            calls.extend([path] * (path.stem == which))
            if path.stem == which and len(calls) == number:
                if moment == "half":
                    part = path.with_name(f".{path.name}.{os.getpid()}")
                    part.write_bytes(bytes(content)[: len(content) // 2])
                    kill_self()
                if moment == "written":
                    os.replace = lambda *_: kill_self()  # type: ignore[assignment]
                true(path, content)
                kill_self()
            true(path, content)

        checkpoint_file.atomic_write = write

    return trouble


def in_a_step(number: int, signum: int = signal.SIGKILL) -> Trouble:
    return at_call(Classifier, "training_step", number, signum)


def killed_and_resumed(folder: Path, whole: Path, troubles: dict[str, Trouble]) -> Story:
    """Kill a run in one place, what is resumed of it in the next, and let the rest finish.

    The places lie one behind the other in the run: what a kill has spoiled is there at the end.
    """
    for place, trouble in troubles.items():
        assert (yield begin(folder, whole, trouble)) == -signal.SIGKILL, (place, log_of(folder))
    assert (yield begin(folder, whole)) == 0, (list(troubles), log_of(folder))
    try:
        assert_is(folder, whole)
    except AssertionError as error:
        raise AssertionError(f"{list(troubles)}: {error}") from error


@pytest.mark.long
def test_a_run_killed_at_any_moment_is_resumed(recipes, tmp_path, proves):
    """Five moments drawn by chance for each recipe, in one run after the other."""
    rng = random.Random(6)
    kills: list[float] = []

    def story(name: str) -> Story:
        whole, num_kills, num_runs = recipes[name], 0, 0
        seconds = float(whole.with_suffix(".seconds").read_text())
        moments = [rng.uniform(0.1, 0.6) * seconds for _ in range(NUM_KILLS // len(RECIPES))]
        while num_kills < len(moments):
            folder = tmp_path / f"{whole.name}-{num_runs}"
            num_runs += 1
            code, before = -signal.SIGKILL, num_kills
            while code == -signal.SIGKILL:
                trouble = at_time(moments[num_kills]) if num_kills < len(moments) else None
                code = yield begin(folder, whole, trouble)
                if code == -signal.SIGKILL:
                    kills.append(moments[num_kills])
                    num_kills += 1
            assert code == 0, log_of(folder)
            if num_kills == before:  # it was faster than the whole run had been
                moments = [moment / 2 for moment in moments]
            try:
                assert_is(folder, whole)
            except AssertionError as error:
                killed = kills[before:]
                raise AssertionError(f"{name}, killed after {killed} s: {error}") from error

    side_by_side(story(name) for name in RECIPES)
    assert len(kills) == NUM_KILLS
    proves(
        "Nothing is lost",
        "A run that is killed (SIGKILL) is resumed, and its weights, optimizer, schedule, metrics, "
        "pictures, CSV and TensorBoard files are those of a run that never stopped, bit for bit.",
        moments_drawn_by_chance=NUM_KILLS,
        recipes=len(RECIPES),
    )


# Two runs; counts begin anew in each process.
PLACES: list[dict[str, Trouble]] = [
    {
        "in an epoch, before anything was saved": in_a_step(3),
        "in the first checkpoint": in_a_checkpoint(1, "half"),
        "in an epoch": in_a_step(13),
        "in a checkpoint, half written": in_a_checkpoint(1, "half"),
        "in a checkpoint, before it is renamed": in_a_checkpoint(1, "written"),
        "after a checkpoint was renamed": in_a_checkpoint(1, "renamed"),
        "in the last checkpoint": in_a_checkpoint(1, "half"),
        "after the last checkpoint": in_a_checkpoint(1, "renamed"),
        "in the test": at_call(Classifier, "test_step", 2),
        "in the record, at the end": at_call(run.Run, "record", 1),
    },
    {
        "after the best checkpoint was renamed": in_a_checkpoint(1, "renamed", "best"),
        "in a picture, before it is drawn": at_call(image_callback, "encode_png", 2),
        "in a validation": at_call(Classifier, "validation_step", 12),
        "in the best checkpoint, half written": in_a_checkpoint(1, "half", "best"),
        "in a picture, before it is written": at_call(image_callback, "atomic_write", 1),
        "in the final pictures": at_call(ImageCallback, "on_train_end", 2),
    },
]


@pytest.mark.long
def test_a_run_killed_in_the_worst_places_is_resumed(whole, tmp_path, proves):
    side_by_side(
        killed_and_resumed(tmp_path / str(number), whole, places)
        for number, places in enumerate(PLACES)
    )
    names = [place for places in PLACES for place in places]
    counts = [sum(f"in {kind}" in p for p in names) for kind in ("a checkpoint", "a picture")]
    proves(
        "Nothing is lost",
        "The same where it is hardest: in the writing of a checkpoint, in a picture, in the test.",
        kills_survived=len(names),
        in_the_writing_of_a_checkpoint=counts[0],
        in_a_picture=counts[1],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_is_resumed_exactly(kind, tmp_path, proves):
    """Killed after the first finished epoch, and in the third."""
    whole = tmp_path / "whole"
    side_by_side([whole_run(whole, *KINDS[kind])])
    troubles = {"saved": in_a_checkpoint(1, "renamed"), "third": in_a_step(STEPS + 2)}
    side_by_side([killed_and_resumed(tmp_path / "run", whole, troubles)])
    promise = f"A killed run is resumed exactly, with: {kind}."
    proves("Nothing is lost", promise, kills_survived=len(troubles))


def test_a_run_that_early_stopping_has_stopped_trains_no_further(recipes, tmp_path):
    whole, folder = recipes["plateau, early stopping"], tmp_path / "run"
    assert record_of(whole)["ended"] == "stopped after epoch 3: val/acc no better for 2 epochs"
    in_the_test = at_call(Classifier, "test_step", 1)
    assert ended(begin(folder, whole, in_the_test)) == -signal.SIGKILL
    done = log_of(folder)
    assert ended(begin(folder, whole)) == 0
    after = log_of(folder).removeprefix(done)
    assert "stopped after epoch 3" in after and "epoch 4" not in after
    assert_is(folder, whole)


def test_a_timer_counts_what_was_spent_before(tmp_path):
    """Killed in the second epoch, with an hour on the clock: the resumed run is at its end."""
    folder = tmp_path / "run"
    timer = f"+callbacks.timer={{_target_:{CALLBACKS}.Timer,duration:{{hours:1}}}}"
    configure(folder, CHECKPOINTS, timer)
    assert ended(begin(folder, folder, in_a_step(STEPS + 2))) == -signal.SIGKILL
    last = folder / "checkpoints" / "last.ckpt"
    content = read_checkpoint(last)
    elapsed = content["callbacks"]["Timer"]["time_elapsed"]
    assert 0 < elapsed["train"] < 600
    elapsed["train"] = 3600.0
    torch.save(content, last)
    assert ended(begin(folder, folder)) == 0, log_of(folder)
    assert record_of(folder)["num_epochs"] < 3
    assert record_of(folder)["ended"].endswith(": max_time is over")


def test_a_run_that_was_moved_is_resumed_and_keeps_its_best(plain, tmp_path):
    folder, moved = (tmp_path / name for name in ("a", "moved here"))
    assert ended(begin(folder, plain, in_a_step(2 * STEPS + 2))) == -signal.SIGKILL
    folder.rename(moved)
    (moved.with_suffix(".log")).touch()
    directory = RunDirectory.to_resume(moved)
    config = directory.config_here()
    assert config["paths"]["output_dir"] == str(moved)
    child = fork(lambda: train(config, moved, resume=True, requested=True), tmp_path / "log")
    assert ended(child) == 0
    assert_is(moved, plain)
    with pytest.raises(InputError, match="this run is finished. To train it further, type"):
        RunDirectory.to_resume(moved)


# Processes.


def children_of(head: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(head).children(recursive=True) if p.is_running()]


@pytest.mark.long
def test_two_processes_end_with_their_head_and_are_resumed_exactly(tmp_path, proves):
    """Killed after one epoch, resumed, interrupted after the second: as far as a run of two."""
    words = ["trainer=ddp_sim", "+trainer.limit_train_batches=1.0", CHECKPOINTS,
             "model.network.dropout=0.5", "model.network.hidden=16", "test=false"]  # fmt: skip
    whole, longer, folder = (tmp_path / name for name in ("whole", "longer", "killed"))
    side_by_side([whole_run(whole, *words, "trainer.max_epochs=2")])
    configure(longer, *words, "trainer.max_epochs=9")

    head = begin(folder, longer)
    last = folder / "checkpoints" / "last.ckpt"
    wait_until(last.exists, PATIENCE, lambda: log_of(folder))
    others = children_of(head)
    assert len(others) >= 2
    os.kill(head, signal.SIGKILL)
    assert ended(head) == -signal.SIGKILL
    assert not psutil.wait_procs(others, timeout=10)[1]
    assert not RunDirectory(folder).is_locked()

    head = begin(folder, longer)
    wait_until(lambda: read_checkpoint(last)["epoch"] == 2, PATIENCE, lambda: log_of(folder))
    others, start = children_of(head), time.monotonic()
    os.kill(head, signal.SIGINT)
    assert ended(head) == 130
    assert time.monotonic() - start < 5
    assert not psutil.wait_procs(others, timeout=5)[1]
    assert record_of(folder)["status"] == "interrupted"
    for key in ("state_dict", "optimizer_states", "epoch", "global_step"):
        assert_same(checkpoint(folder)[key], checkpoint(whole)[key], key)
    rows, expected = ((f / "metrics.csv").read_text() for f in (folder, whole))
    assert rows == expected
    proves(
        "Nothing is lost",
        "Processes that a run has started end with it, and are resumed bit for bit.",
        heads_killed=1,
        heads_interrupted=1,
    )


# Disks and files.


def test_no_checkpoint_goes_by_the_temporary_folder(plain, tmp_path):
    """It may be another file system, from which a file is not moved at once."""

    def trouble() -> None:
        tempfile.tempdir = str(tmp_path / "there is no such folder")

    assert ended(begin(tmp_path / "run", plain, trouble)) == 0, log_of(tmp_path / "run")
    assert_is(tmp_path / "run", plain)


def before_saving(number: int, what: Callable[[Path], object]) -> Trouble:
    """Do something to the path of the `number`-th checkpoint that is saved."""

    def trouble() -> None:
        true, calls = AtomicCheckpointIO.save_checkpoint, []

        def save(self: Any, content: Any, path: Any, **options: Any) -> None:
            calls.append(path)
            if len(calls) == number:
                what(Path(path))
            true(self, content, path, **options)

        AtomicCheckpointIO.save_checkpoint = save

    return trouble


def test_a_full_disk_leaves_the_checkpoint_before(plain, tmp_path, proves):
    """No file may be larger than 50 kB, from the first checkpoint on, or from the third on."""

    def fill(path: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    there = []
    for number in (1, 3):
        folder = tmp_path / str(number)
        assert ended(begin(folder, plain, before_saving(number, fill))) == 1, log_of(folder)
        record = record_of(folder)
        assert record["status"] == "failed"
        assert record["error"].startswith("RunError: ")
        assert ".ckpt cannot be written: File too large." in record["error"]
        there.append(sorted(p.name for p in folder.glob("checkpoints/*")))
    assert there == [[], ["best.ckpt", "last.ckpt"]]
    assert record["error"].endswith("The previous one is intact.")
    RunDirectory.to_resume(folder)
    assert ended(begin(folder, plain)) == 0
    assert_is(folder, plain)
    proves("Nothing is lost", "A disk that is full leaves the checkpoint before.", failures=2)


def test_a_folder_that_becomes_read_only_leaves_the_checkpoint_before(plain, proves):
    def close(path: Path) -> None:
        path.parent.chmod(0o555)
        as_nobody(folder)  # only now: nobody may be kept out of the packages' folder

    with open_folder() as place:
        folder = place / "run"
        assert ended(begin(folder, plain, before_saving(3, close))) == 1, log_of(folder)
        error = record_of(folder)["error"]
        assert error.startswith("RunError: ")
        assert error.endswith(
            ".ckpt cannot be written: Permission denied. The previous one is intact."
        )
        assert [p.name for p in sorted(folder.glob("checkpoints/*"))] == ["best.ckpt", "last.ckpt"]
        (folder / "checkpoints").chmod(0o755)
        RunDirectory.to_resume(folder)
        assert ended(begin(folder, plain)) == 0
        assert_is(folder, plain)
    proves("Nothing is lost", "A read-only folder leaves the checkpoint before.", failures=1)


def test_damaged_checkpoints_are_named_and_the_other_one_suggested(whole, tmp_path, proves):
    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    (folder / "run.json").write_text(json.dumps(record_of(folder) | {"status": "interrupted"}))
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    good = last.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    damages = {
        b"": "is empty.",
        good[:1000]: "is truncated or damaged.",
        good[:-1]: "is truncated or damaged.",
        b"%PDF-1.7 of somebody": "is not a checkpoint.",
        bytes(flipped): "is damaged: a checksum does not match.",
    }
    for content, sentence in damages.items():
        last.write_bytes(content)
        for look in (lambda: RunDirectory.to_resume(folder), lambda: check_checkpoint(last)):
            with pytest.raises(InputError) as raised:
                look()
            assert str(raised.value) == (f"{last} {sentence} {best} is intact and can replace it.")
    best.unlink()
    with pytest.raises(InputError, match=r"a checksum does not match\.$"):
        check_checkpoint(last)
    foreign = io.BytesIO()
    torch.save({"weights": torch.zeros(3)}, foreign)
    last.write_bytes(foreign.getvalue())
    check_checkpoint(last)
    with pytest.raises(InputError, match="last.ckpt is not a checkpoint of simplecnn: it contains"):
        read_checkpoint(last)
    proves(
        "Nothing is lost",
        "A checkpoint that is empty, cut short, changed or foreign is named, and another one that "
        "is intact is suggested.",
        damaged_files_named=len(damages) + 1,
    )


# Signals.


def stopped_by(folder: Path, whole: Path, number: int, when: str) -> tuple[int, float]:
    """Send a signal to a long run when its log says `when`. Gives exit code and seconds."""
    config = config_of(folder, whole)
    config["trainer"] |= {"limit_train_batches": 62, "max_epochs": 50}
    child = fork(lambda: train(config, folder), folder.with_suffix(".log"))
    wait_until(lambda: when in log_of(folder), 60, lambda: log_of(folder))
    start = time.monotonic()
    os.kill(child, number)
    return ended(child), time.monotonic() - start


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.long
def test_a_signal_ends_a_run_and_tells_how_to_resume(
    name, code, whole, tmp_path, monkeypatch, proves
):
    monkeypatch.setattr("sys.argv", ["scripts/train.py", "seed=3"])
    monkeypatch.delenv("UV", raising=False)
    signum = getattr(signal, name)
    places = {  # one after the other, in one run
        "in a step of the second epoch": in_a_step(STEPS + 3, signum),
        "in a validation": at_call(Classifier, "validation_step", 2, signum),
        "in a picture": at_call(ImageCallback, "epoch_done", 1, signum),
    }

    def story() -> Story:
        folder = tmp_path / "a run"
        for place, trouble in places.items():
            assert (yield begin(folder, whole, trouble)) == code, (place, log_of(folder))
            record = record_of(folder)
            assert (record["status"], record["num_epochs"]) == ("interrupted", 1)
            stages = ("train", "val")
            assert set(record["metrics"]) == {f"{s}/{m}" for s in stages for m in ("acc", "loss")}
            assert checkpoint(folder)["global_step"] == STEPS
        command = f"Interrupted. Resume it with\npython scripts/train.py \"resume='{folder}'\"\n"
        assert log_of(folder).count(command) == len(places) and "Traceback" not in log_of(folder)
        assert (yield begin(folder, whole)) == 0
        assert_is(folder, whole)

    side_by_side([story()])
    early = tmp_path / "early"
    before_anything = at_call(Classifier, "configure_optimizers", 1, signum)
    assert ended(begin(early, whole, before_anything)) == code
    assert "No epoch was finished: start it again with\n" in log_of(early)
    assert stopped_by(tmp_path / "timed", whole, signum, "epoch 2/50") == (
        code,
        pytest.approx(2.5, abs=2.5),
    )
    proves(
        "Nothing is lost",
        f"{name} ends a run with {code} within 5 seconds; its last finished epoch is kept, and how "
        "to resume it is said. What is resumed is bit for bit the whole run.",
        signals_sent=len(places) + 2,
    )


def test_slurms_warning_requeues_and_the_job_resumes_its_run(tmp_path, monkeypatch, proves):
    """SIGUSR1, as `sbatch --signal=SIGUSR1@60` sends it."""
    called = tmp_path / "called"
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {called}\n')
    scontrol.chmod(0o755)
    slurm = {"JOB_ID": "4711", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0",
             "NODEID": "0", "NODELIST": "localhost"}  # fmt: skip
    environment = {f"SLURM_{name}": value for name, value in slurm.items()}
    environment["PATH"] = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    words = ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=3", "model.network.channels=[4,8]",
             "+trainer.limit_train_batches=8", CHECKPOINTS]  # fmt: skip
    typed = type_in(tmp_path, "train.py", *words,
                    trouble=in_a_step(STEPS + 3, signal.SIGUSR1), **environment)  # fmt: skip
    assert typed.returncode == 143, typed.stdout + typed.stderr
    assert called.read_text() == "requeue 4711\n"
    assert "SLURM requeued job 4711; the run will resume." in typed.stdout
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    record = record_of(folder)
    assert (record["status"], record["slurm_job"]) == ("interrupted", "4711")
    assert checkpoint(folder)["global_step"] == STEPS
    assert not list(tmp_path.rglob("hpc_ckpt*"))

    typed = type_in(tmp_path, "train.py", *words, **environment, SLURM_RESTART_COUNT="1")
    assert typed.returncode == 0, typed.stdout + typed.stderr
    assert [folder] == list((tmp_path / "outputs" / "train").iterdir())
    record = record_of(folder)
    assert record["status"] == "finished" and record["num_epochs"] == 3
    assert "epoch 1/3" not in typed.stdout and "epoch 3/3" in typed.stdout
    proves(
        "Nothing is lost", "SLURM's warning requeues the job, which resumes its run.", warnings=1
    )


# A loss that is not finite.


class Spoil(pl.Callback):
    """In the batch `number` of the run, the second convolution gives what is not finite."""

    def __init__(self, where: str, number: int) -> None:
        self.where, self.number = where, number

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        conv2 = pl_module.network.conv2

        def is_now() -> bool:
            return trainer.training and trainer.fit_loop.total_batch_idx + 1 == self.number

        if self.where == "output":
            conv2.register_forward_hook(
                lambda layer, inputs, output: output * math.inf if is_now() else None
            )
        else:
            conv2.weight.register_hook(lambda grad: grad * math.nan if is_now() else None)


@pytest.mark.parametrize(
    ("where", "number", "sentence"),
    [
        ("output", 13, r"at step 12 \(epoch 2\), with a learning rate of 0.001; the output of "
                       "conv2 was the first to break"),
        ("gradient", 13, r"at step 13 \(epoch 2\), with a learning rate of 0.001; the weights "
                         "network.conv2.weight are not finite after the step before"),
        ("gradient", 16, r"at step 16 \(epoch 2\), with a learning rate of 0.001; the weights "
                         "network.conv2.weight are not finite after the step before"),
    ],
)  # fmt: skip
def test_what_is_not_finite_is_named_and_never_saved(where, number, sentence, tmp_path):
    folder = tmp_path / "run"
    config = compose_run(folder, CHECKPOINTS, "trainer.max_epochs=3")

    def trouble() -> None:
        true = run.build_trainer

        def build_trainer(*args: Any, **kwargs: Any) -> pl.Trainer:
            trainer = true(*args, **kwargs)
            trainer.callbacks.append(Spoil(where, number))
            return trainer

        run.build_trainer = build_trainer

    def child() -> None:
        trouble()
        train(config, folder)

    assert ended(fork(child, folder.with_suffix(".log"))) == 1
    record = record_of(folder)
    assert record["status"] == "failed" and record["num_epochs"] == 1
    assert re.match(f"RunError: The loss is not finite: seen {sentence}", record["error"]), record
    for path in folder.glob("checkpoints/*.ckpt"):
        saved = torch.load(path, weights_only=True)
        assert saved["global_step"] == STEPS
        assert all(torch.isfinite(v).all() for v in saved["state_dict"].values()), path


# As one types it.


def test_the_command_that_is_printed_resumes_the_run(tmp_path, monkeypatch, proves):
    """Interrupted, the line on the screen typed again, and what cannot be resumed."""
    monkeypatch.delenv("UV", raising=False)
    words = ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=2", "model.network.dropout=0.5",
             "+trainer.limit_train_batches=8", CHECKPOINTS,
             "model.network.channels=[4,8]"]  # fmt: skip

    def screen(*words: str, code: int, trouble: Trouble | None = None) -> str:
        typed = type_in(tmp_path, "train.py", *words, trouble=trouble)
        assert typed.returncode == code, typed.stdout + typed.stderr
        return typed.stdout + typed.stderr

    screen(*words, "hydra.run.dir=whole", code=0)
    at_step_11 = in_a_step(11, signal.SIGTERM)
    shown = screen(*words, "hydra.run.dir='a b'", code=143, trouble=at_step_11)
    python, script, *typed = shlex.split(shown.partition("Resume it with\n")[2].splitlines()[0])
    assert (python, script, typed) == ("python", "scripts/train.py", ["resume='a b'"])
    overrides = (tmp_path / "a b/.hydra/overrides.yaml").read_text()
    screen(*typed, code=0)
    assert_is(tmp_path / "a b", tmp_path / "whole")
    assert (tmp_path / "a b/.hydra/overrides.yaml").read_text() == overrides
    log = (tmp_path / "a b/train.log").read_text()
    assert "Interrupted." in log and "epoch 2/2" in log  # one log, of both

    (tmp_path / "no").mkdir()
    wrong = {
        ("resume=a b",): "resume=a b: this run is finished. To train it further, type its "
        "command again with ckpt_path=a b/checkpoints/last.ckpt and a larger trainer.max_epochs.",
        ("resume=a b", "seed=3"): "seed=3: resume uses the run's own configuration",
        ("resume=none",): "resume=none: there is no such folder.",
        ("resume=no",): "resume=no: not a run of simplecnn (config.yaml is missing).",
        (*words, "ckpt_path=a b/config.yaml"): "a b/config.yaml is not a checkpoint.",
    }
    for line, sentence in wrong.items():
        shown = screen(*line, code=2)
        assert shown.startswith(sentence) and shown.count("\n") == 1, shown
    more = [word for word in words if "max_epochs" not in word]
    shown = screen(*more, "trainer.max_epochs=3", "hydra.run.dir=c",
                   "ckpt_path=a b/checkpoints/last.ckpt", code=0)  # fmt: skip
    assert "epoch 3/3" in shown and "epoch 2/3" not in shown
    proves(
        "Nothing is lost",
        "The command that an interrupted run prints resumes it; what cannot be resumed is "
        "answered by a sentence.",
        commands_typed=4 + len(wrong),
    )


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.long
def test_a_signal_to_a_sweep_by_two_processes_keeps_their_epochs(
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
    jobs = [tmp_path / "sweep" / number for number in "01"]
    wait_until(lambda: all((job / "checkpoints" / "last.ckpt").exists() for job in jobs), 90,
               (tmp_path / "screen").read_text)  # fmt: skip
    start = time.monotonic()
    (os.kill if name == "SIGTERM" else os.killpg)(head, getattr(signal, name))
    assert ended(head) == code
    assert time.monotonic() - start < 10  # two on a machine that does nothing else
    for job in jobs:
        assert record_of(job)["status"] == "interrupted"
        assert checkpoint(job)["global_step"] > 0
        assert not [p for p in job.rglob(".*") if p.is_file() and ".hydra" not in p.parts]
    assert "not started" in (tmp_path / "screen").read_text()
    assert not (tmp_path / "sweep" / "2").exists()
    proves("Nothing is lost", f"{name} to a sweep by two processes keeps both jobs.", jobs_kept=2)
