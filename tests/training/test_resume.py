"""A run that is killed or interrupted at any time resumes bit for bit."""

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
    assert_same,
    checkpoint,
    drop_privileges,
    events,
    fork,
    kill_self,
    run_concurrently,
    run_forked,
    shared_folder,
    wait_for_exit,
    wait_until,
    warm_up,
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
from simplecnn.training.epoch_seed import EpochSeed
from simplecnn.training.run import train

Scenario = Generator[int, int, None]
Fault = Callable[[], object]
NUM_KILLS = 25
STEPS = 8  # per epoch; runs take three epochs unless their overrides say otherwise
CALLBACKS = "pytorch_lightning.callbacks"


def layer(name: str, **arguments: Any) -> str:
    """The override value that configures a torch.nn layer."""
    options = "".join(f",{key}:{value}" for key, value in arguments.items())
    return f"{{_target_:torch.nn.{name}{options}}}"


BATCH_NORM = [
    layer("Conv2d", in_channels=1, out_channels=4, kernel_size=3),
    layer("BatchNorm2d", num_features=4),
    layer("ReLU"),
    layer("MaxPool2d", kernel_size=4),
    layer("Flatten"),
    layer("Linear", in_features=144, out_features=10),
]
# Together they draw every picture.
RECIPES = {
    "dropout, elastic, one-cycle": [
        "callbacks=[checkpoint,lr_monitor,progress,filters,filter_history]",
        "model.network.dropout=0.5", "data/augmentation=elastic", "model/scheduler=one_cycle",
        "callbacks.filters.every_n_epochs=1"],
    "plateau, early stopping": [  # the first epoch is the best: stops after the third
        "callbacks=[checkpoint,lr_monitor,progress,curves,early_stopping]", "trainer.max_epochs=9",
        "model/scheduler=plateau", "model.scheduler.patience=0", "+model.scheduler.threshold=9",
        "callbacks.early_stopping.patience=2", "+callbacks.early_stopping.min_delta=1"],
    "batch norm": [
        "callbacks=[checkpoint,lr_monitor,progress,health]", "callbacks.health.every_n_epochs=2",
        "model=lenet", "model.network._args_=[" + ",".join(BATCH_NORM) + "]"],
    "EMA": [
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
    "no monitor, gradient accumulation": [
        CHECKPOINTS, "monitor=null", "+trainer.accumulate_grad_batches=2"],
    "best checkpoint from the first epoch, validation within epochs": [
        CHECKPOINTS, *FIRST_IS_BEST, "+trainer.val_check_interval=3"],
    "GradientAccumulationScheduler": [
        CHECKPOINTS, f"+callbacks.schedule={{_target_:{CALLBACKS}.GradientAccumulationScheduler,"
        "scheduling:{0:1,1:2}}"],
    "StochasticWeightAveraging": [
        CHECKPOINTS, f"+callbacks.swa={{_target_:{CALLBACKS}.StochasticWeightAveraging,"
        "swa_lrs:0.01,swa_epoch_start:2,annealing_epochs:2}"],
    "early stopping that waits for min_steps": [
        "callbacks=[checkpoint,progress,early_stopping]", "callbacks.early_stopping.patience=1",
        "+callbacks.early_stopping.min_delta=2", "+trainer.min_steps=20"],
    "BackboneFinetuning that has unfrozen the backbone": [
        CHECKPOINTS, "model=lenet", "model.network._args_=[" + ",".join(BATCH_NORM) + "]",
        f"model._target_={__name__}.Pretrained",
        f"+callbacks.finetuning={{_target_:{CALLBACKS}.BackboneFinetuning,"
        "unfreeze_backbone_at_epoch:1,backbone_initial_lr:0.001,train_bn:false}"],
    "a custom DataLoader": [CHECKPOINTS, f"data._target_={__name__}.Shuffled"],
    "a custom DataLoader that configure_optimizers creates": [
        CHECKPOINTS, f"data._target_={__name__}.Shuffled", "model/scheduler=one_cycle"],
    "worker processes of a custom DataLoader that configure_optimizers creates": [
        CHECKPOINTS, f"data._target_={__name__}.ShuffledByWorkers", "model/scheduler=one_cycle",
        "model.network.dropout=0.5"],
}  # fmt: skip


class Shuffled(MNISTDataModule):
    """A DataLoader whose order comes from torch's random numbers."""

    num_loader_workers = 0

    def train_dataloader(self) -> torch.utils.data.DataLoader:
        images, labels = self.splits["train"]
        floats = images.reshape(-1, 1, 28, 28).float() / 255
        dataset = torch.utils.data.TensorDataset(floats, labels)
        options = {"num_workers": self.num_loader_workers, "shuffle": True}
        return torch.utils.data.DataLoader(dataset, batch_size=64, **options)


class ShuffledByWorkers(Shuffled):
    """Its iterator draws all its random numbers when it is created."""

    num_loader_workers = 2


class Pretrained(Classifier):
    """A network whose convolution is frozen at first."""

    @property
    def backbone(self) -> torch.nn.Module:
        return self.network[:4]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(filter(lambda p: p.requires_grad, self.parameters()))


# Runs in child processes.


@pytest.fixture(scope="module", autouse=True)
def allowed_targets() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        names = ("Shuffled", "ShuffledByWorkers", "Pretrained")
        patch.setenv("SIMPLECNN_TARGETS", ",".join(f"{__name__}.{name}" for name in names))
        yield


def config_of(folder: Path, reference: Path) -> dict[str, Any]:
    """The configuration of the run `reference`, moved to the directory `folder`."""
    text = reference.with_suffix(".yaml").read_text()
    return yaml.safe_load(text.replace(str(reference), str(folder)))


def start_run(folder: Path, reference: Path, fault: Fault | None = None) -> int:
    """Start or resume a run in a child process with a fault injected; returns its process ID."""
    config = config_of(folder, reference)

    def child() -> None:
        torch.cuda._is_in_bad_fork = lambda: False  # it does not use CUDA, and may be forked
        if fault is not None:
            fault()
        train(config, folder, resume=True, requested=True)

    return fork(child, folder.with_suffix(".log"))


def log_of(folder: Path) -> str:
    path = folder.with_suffix(".log")
    return path.read_text() if path.exists() else "no log"


def configure(folder: Path, *overrides: str) -> None:
    """Write the configuration of a run beside its directory."""
    if not any(override.startswith("trainer.max_epochs") for override in overrides):
        overrides = (*overrides, "trainer.max_epochs=3")
    network = [] if "model=lenet" in overrides else ["model.network.hidden=16"]
    config = compose_run(folder, *network, *overrides)
    folder.with_suffix(".yaml").write_text(yaml.safe_dump(config))


def reference_run(folder: Path, *overrides: str) -> Scenario:
    """A run without interruption; its configuration and duration are written beside it."""
    configure(folder, *overrides)
    start = time.monotonic()
    assert (yield start_run(folder, folder)) == 0, log_of(folder)
    folder.with_suffix(".seconds").write_text(str(time.monotonic() - start))


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A reference run of each recipe."""
    parent = tmp_path_factory.mktemp("recipes")
    warm_up()
    folders = {name: parent / str(number) for number, name in enumerate(RECIPES)}
    run_concurrently(
        reference_run(folders[name], *overrides) for name, overrides in RECIPES.items()
    )
    return folders


@pytest.fixture(scope="module")
def reference(recipes: dict[str, Path]) -> Path:
    return recipes["dropout, elastic, one-cycle"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reference run without pictures, whose first epoch is the best."""
    folder = tmp_path_factory.mktemp("plain") / "reference"
    run_concurrently([reference_run(folder, CHECKPOINTS, *FIRST_IS_BEST)])
    assert record_of(folder)["best"]["epoch"] == 1
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def assert_same_run(folder: Path, reference: Path) -> None:
    """The run directory equals that of the reference run, bit for bit."""
    names = [sorted(p.name for p in f.glob("checkpoints/*")) for f in (folder, reference)]
    assert names[0] == names[1]
    for name in names[0]:
        stem = name.removesuffix(".ckpt")
        assert_same(checkpoint(folder, stem), checkpoint(reference, stem), stem)
    assert (folder / "metrics.csv").read_text() == (reference / "metrics.csv").read_text()
    assert_same(without_time(events(folder)), without_time(events(reference)), "events")
    assert_same(pictures(folder), pictures(reference), "images")
    for key in ("status", "best", "metrics", "num_epochs", "ended"):
        assert record_of(folder)[key] == record_of(reference)[key], key
    assert not [p for p in folder.rglob(".*") if p.is_file() and ".hydra" not in p.parts]


def without_time(shown: dict[str, Any]) -> dict[str, Any]:
    """Events, but only the steps of the curves, whose title contains the duration of an epoch."""
    return {tag: [e[0] for e in v] if tag.endswith("curves") else v for tag, v in shown.items()}


def pictures(folder: Path) -> dict[str, Any]:
    """The contents of images/, without the durations in the curves."""
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


def kill_after(seconds: float) -> Fault:
    def fault() -> None:
        timer = threading.Timer(seconds, kill_self)
        timer.daemon = True
        timer.start()

    return fault


def signal_at_call(module: object, name: str, number: int, signum: int = signal.SIGKILL) -> Fault:
    """Send the process a signal at the `number`-th call of a function, counted from 1."""

    def fault() -> None:
        original, calls = getattr(module, name), []

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            if len(calls) == number:
                os.kill(os.getpid(), signum)
            return original(*args, **kwargs)

        setattr(module, name, counted)

    return fault


def kill_in_checkpoint(number: int, stage: str, name: str = "last") -> Fault:
    """Kill while the `number`-th checkpoint is half written, or before or after its rename."""

    def fault() -> None:
        original, calls = checkpoint_file.atomic_write, []

        def write(path: Path, content: memoryview) -> None:
            calls.extend([path] * (path.stem == name))
            if path.stem == name and len(calls) == number:
                if stage == "half":
                    part = path.with_name(f".{path.name}.{os.getpid()}")
                    part.write_bytes(bytes(content)[: len(content) // 2])
                    kill_self()
                if stage == "written":
                    os.replace = lambda *_: kill_self()  # type: ignore[assignment]
                original(path, content)
                kill_self()
            original(path, content)

        checkpoint_file.atomic_write = write

    return fault


def signal_in_step(number: int, signum: int = signal.SIGKILL) -> Fault:
    return signal_at_call(Classifier, "training_step", number, signum)


def kill_and_resume(folder: Path, reference: Path, faults: dict[str, Fault]) -> Scenario:
    """Kill a run at each of several points, resuming it in between, and let it finish.

    The points are in the order of the run, so that damage done by a kill would last to the end.
    """
    for point, fault in faults.items():
        code = yield start_run(folder, reference, fault)
        assert code == -signal.SIGKILL, (point, log_of(folder))
    assert (yield start_run(folder, reference)) == 0, (list(faults), log_of(folder))
    try:
        assert_same_run(folder, reference)
    except AssertionError as error:
        raise AssertionError(f"{list(faults)}: {error}") from error


@pytest.mark.long
def test_a_run_killed_at_a_random_time_resumes_exactly(recipes, tmp_path, proves):
    """Five random times for each recipe, spread over as many runs as needed."""
    rng = random.Random(6)
    kills: list[float] = []

    def scenario(name: str) -> Scenario:
        reference, num_kills, num_runs = recipes[name], 0, 0
        seconds = float(reference.with_suffix(".seconds").read_text())
        times = [rng.uniform(0.1, 0.6) * seconds for _ in range(NUM_KILLS // len(RECIPES))]
        while num_kills < len(times):
            folder = tmp_path / f"{reference.name}-{num_runs}"
            num_runs += 1
            code, before = -signal.SIGKILL, num_kills
            while code == -signal.SIGKILL:
                fault = kill_after(times[num_kills]) if num_kills < len(times) else None
                code = yield start_run(folder, reference, fault)
                if code == -signal.SIGKILL:
                    kills.append(times[num_kills])
                    num_kills += 1
            assert code == 0, log_of(folder)
            if num_kills == before:  # it was faster than the reference run
                times = [t / 2 for t in times]
            try:
                assert_same_run(folder, reference)
            except AssertionError as error:
                killed = kills[before:]
                raise AssertionError(f"{name}, killed after {killed} s: {error}") from error

    run_concurrently(scenario(name) for name in RECIPES)
    assert len(kills) == NUM_KILLS
    proves(
        "Nothing is lost",
        "A run killed by SIGKILL at a random time resumes: its weights, optimizer, schedule, "
        "metrics, figures, CSV and TensorBoard files equal those of an uninterrupted run, bit for "
        "bit.",
        kills_survived=NUM_KILLS,
        recipes=len(RECIPES),
    )


# Two runs. Calls are counted per process, so from 1 after each kill.
KILL_POINTS: list[dict[str, Fault]] = [
    {
        "in an epoch, before anything was saved": signal_in_step(3),
        "in the first checkpoint": kill_in_checkpoint(1, "half"),
        "in an epoch": signal_in_step(13),
        "in a checkpoint, half written": kill_in_checkpoint(1, "half"),
        "in a checkpoint, before it is renamed": kill_in_checkpoint(1, "written"),
        "after a checkpoint was renamed": kill_in_checkpoint(1, "renamed"),
        "in the last checkpoint": kill_in_checkpoint(1, "half"),
        "after the last checkpoint": kill_in_checkpoint(1, "renamed"),
        "in the test": signal_at_call(Classifier, "test_step", 2),
        "in the record, at the end": signal_at_call(run.Run, "finish", 1),
    },
    {
        "after the best checkpoint was renamed": kill_in_checkpoint(1, "renamed", "best"),
        "in a picture, before it is drawn": signal_at_call(image_callback, "encode_png", 2),
        "in a validation": signal_at_call(Classifier, "validation_step", 12),
        "in the best checkpoint, half written": kill_in_checkpoint(1, "half", "best"),
        "in a picture, before it is written": signal_at_call(image_callback, "atomic_write", 1),
        "in the final pictures": signal_at_call(ImageCallback, "on_train_end", 2),
    },
]


@pytest.mark.long
def test_a_run_killed_at_the_worst_points_resumes_exactly(reference, tmp_path, proves):
    run_concurrently(
        kill_and_resume(tmp_path / str(number), reference, points)
        for number, points in enumerate(KILL_POINTS)
    )
    names = [point for points in KILL_POINTS for point in points]
    counts = [sum(f"in {kind}" in p for p in names) for kind in ("a checkpoint", "a picture")]
    proves(
        "Nothing is lost",
        "A run killed at the worst points (writing a checkpoint or a figure, validation, test) "
        "resumes bit for bit.",
        kills_survived=len(names),
        while_writing_a_checkpoint=counts[0],
        while_drawing_a_figure=counts[1],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_run_resumes_exactly(kind, tmp_path, proves):
    """Killed after the first finished epoch, and in the third."""
    reference = tmp_path / "reference"
    run_concurrently([reference_run(reference, *KINDS[kind])])
    faults = {"saved": kill_in_checkpoint(1, "renamed"), "third": signal_in_step(STEPS + 2)}
    run_concurrently([kill_and_resume(tmp_path / "run", reference, faults)])
    promise = f"A killed run resumes bit for bit with {kind}."
    proves("Nothing is lost", promise, kills_survived=len(faults))


@pytest.mark.long  # together with the tests that share its reference run
def test_a_run_that_stopped_early_is_not_trained_further(recipes, tmp_path):
    reference, folder = recipes["plateau, early stopping"], tmp_path / "run"
    ended_early = "stopped after epoch 3: val/acc did not improve for 2 epochs"
    assert record_of(reference)["ended"] == ended_early
    in_the_test = signal_at_call(Classifier, "test_step", 1)
    assert wait_for_exit(start_run(folder, reference, in_the_test)) == -signal.SIGKILL
    log_before = log_of(folder)
    assert wait_for_exit(start_run(folder, reference)) == 0
    log_after = log_of(folder).removeprefix(log_before)
    assert "stopped after epoch 3" in log_after and "epoch 4" not in log_after
    assert_same_run(folder, reference)


def test_a_run_interrupted_twice_between_validations_resumes_exactly(tmp_path, monkeypatch):
    """The validation of epoch 3 is drawn after epoch 4, and its metrics are those of the record."""
    reference, folder = tmp_path / "reference", tmp_path / "run"
    overrides = [
        "trainer.max_epochs=5", "trainer.check_val_every_n_epoch=3",
        "callbacks=[checkpoint,mistakes]", "callbacks.mistakes.every_n_epochs=4", "logger=csv",
    ]  # fmt: skip
    train(compose_run(reference, *overrides), reference)
    interrupted_in = [3, 4]  # epochs from 0

    def interrupt(callback: object, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if interrupted_in and trainer.current_epoch == interrupted_in[0]:
            del interrupted_in[0]
            raise KeyboardInterrupt

    monkeypatch.setattr(EpochSeed, "on_train_epoch_end", interrupt, raising=False)
    for _ in range(2):
        with pytest.raises(SystemExit):
            train(compose_run(folder, *overrides), folder, resume=True)
    train(compose_run(folder, *overrides), folder, resume=True)
    assert not interrupted_in
    assert record_of(folder)["metrics"].keys() >= {"train/acc", "val/acc", "test/acc"}
    assert_same_run(folder, reference)


def test_a_timer_includes_the_time_before_the_interruption(tmp_path):
    """If the timer of a killed run has expired, the resumed run ends at once."""
    folder = tmp_path / "run"
    timer = f"+callbacks.timer={{_target_:{CALLBACKS}.Timer,duration:{{hours:1}}}}"
    configure(folder, CHECKPOINTS, timer)
    assert wait_for_exit(start_run(folder, folder, signal_in_step(STEPS + 2))) == -signal.SIGKILL
    last = folder / "checkpoints" / "last.ckpt"
    content = read_checkpoint(last)
    elapsed = content["callbacks"]["Timer"]["time_elapsed"]
    assert 0 < elapsed["train"] < 600
    elapsed["train"] = 3600.0
    torch.save(content, last)
    assert wait_for_exit(start_run(folder, folder)) == 0, log_of(folder)
    assert record_of(folder)["num_epochs"] < 3
    assert record_of(folder)["ended"].endswith(": max_time reached")


def test_a_moved_run_resumes_and_keeps_its_best_checkpoint(plain, tmp_path):
    folder, moved = (tmp_path / name for name in ("a", "moved here"))
    assert wait_for_exit(start_run(folder, plain, signal_in_step(2 * STEPS + 2))) == -signal.SIGKILL
    folder.rename(moved)
    (moved.with_suffix(".log")).touch()
    directory = RunDirectory.open_to_resume(moved)
    config = directory.relocated_config()
    assert config["paths"]["output_dir"] == str(moved)
    child = fork(lambda: train(config, moved, resume=True, requested=True), tmp_path / "log")
    assert wait_for_exit(child) == 0
    assert_same_run(moved, plain)
    with pytest.raises(InputError, match="this run is finished. To train it further, type"):
        RunDirectory.open_to_resume(moved)


# Processes.


def children_of(pid: int) -> list[psutil.Process]:
    return [p for p in psutil.Process(pid).children(recursive=True) if p.is_running()]


@pytest.mark.long
def test_a_ddp_run_ends_with_its_main_process_and_resumes_exactly(tmp_path, proves):
    """Killed after one epoch, resumed, interrupted after two: equals a run of two epochs."""
    overrides = ["trainer=ddp_sim", "trainer.strategy=ddp_fork", CHECKPOINTS,
                 "+trainer.limit_train_batches=1.0",
                 "model.network.dropout=0.5", "model.network.hidden=16",
                 "test=false"]  # fmt: skip
    reference, longer, folder = (tmp_path / name for name in ("reference", "longer", "killed"))
    run_concurrently([reference_run(reference, *overrides, "trainer.max_epochs=2")])
    configure(longer, *overrides, "trainer.max_epochs=9")

    pid = start_run(folder, longer)
    last = folder / "checkpoints" / "last.ckpt"
    wait_until(last.exists, PATIENCE, lambda: log_of(folder))
    children = children_of(pid)
    assert len(children) >= 2
    os.kill(pid, signal.SIGKILL)
    assert wait_for_exit(pid) == -signal.SIGKILL
    assert not psutil.wait_procs(children, timeout=10)[1]
    assert not RunDirectory(folder).is_locked()

    pid = start_run(folder, longer)
    wait_until(lambda: read_checkpoint(last)["epoch"] == 2, PATIENCE, lambda: log_of(folder))
    children, start = children_of(pid), time.monotonic()
    os.kill(pid, signal.SIGINT)
    assert wait_for_exit(pid) == 130
    assert time.monotonic() - start < 5
    assert not psutil.wait_procs(children, timeout=5)[1]
    assert record_of(folder)["status"] == "interrupted"
    for key in ("state_dict", "optimizer_states", "epoch", "global_step"):
        assert_same(checkpoint(folder)[key], checkpoint(reference)[key], key)
    rows, expected = ((f / "metrics.csv").read_text() for f in (folder, reference))
    assert rows == expected
    proves(
        "Nothing is lost",
        "The processes of a DDP run end with its main process, and the run resumes bit for bit.",
        main_processes_killed=1,
        main_processes_interrupted=1,
    )


# File system errors and damaged files.


def test_checkpoints_are_not_written_through_the_temporary_directory(plain, tmp_path):
    """It may be on another file system, from which a file cannot be moved atomically."""

    def fault() -> None:
        tempfile.tempdir = str(tmp_path / "there is no such folder")

    assert wait_for_exit(start_run(tmp_path / "run", plain, fault)) == 0, log_of(tmp_path / "run")
    assert_same_run(tmp_path / "run", plain)


def before_saving(number: int, what: Callable[[Path], object]) -> Fault:
    """Call `what` with the path of the `number`-th checkpoint before it is saved."""

    def fault() -> None:
        original, calls = AtomicCheckpointIO.save_checkpoint, []

        def save(self: Any, content: Any, path: Any, **options: Any) -> None:
            calls.append(path)
            if len(calls) == number:
                what(Path(path))
            original(self, content, path, **options)

        AtomicCheckpointIO.save_checkpoint = save

    return fault


def test_a_full_disk_keeps_the_previous_checkpoint(plain, tmp_path, proves):
    """Files are limited to 50 kB from the first checkpoint on, or from the third on."""

    def fill(path: Path) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))

    kept = []
    for number in (1, 3):
        folder = tmp_path / str(number)
        assert wait_for_exit(start_run(folder, plain, before_saving(number, fill))) == 1, log_of(
            folder
        )
        record = record_of(folder)
        assert record["status"] == "failed"
        assert record["error"].startswith("RunError: ")
        assert ".ckpt cannot be written: File too large." in record["error"]
        kept.append(sorted(p.name for p in folder.glob("checkpoints/*")))
    assert kept == [[], ["best.ckpt", "last.ckpt"]]
    assert record["error"].endswith("The previous one is intact.")
    RunDirectory.open_to_resume(folder)
    assert wait_for_exit(start_run(folder, plain)) == 0
    assert_same_run(folder, plain)
    proves("Nothing is lost", "A full disk keeps the previous checkpoint.", failures=2)


def test_a_read_only_directory_keeps_the_previous_checkpoint(plain, proves):
    def make_read_only(path: Path) -> None:
        path.parent.chmod(0o555)
        drop_privileges(folder)  # not earlier: nobody may lack access to the installed packages

    with shared_folder() as parent:
        folder = parent / "run"
        fault = before_saving(3, make_read_only)
        assert wait_for_exit(start_run(folder, plain, fault)) == 1, log_of(folder)
        error = record_of(folder)["error"]
        assert error.startswith("RunError: ")
        assert error.endswith(
            ".ckpt cannot be written: Permission denied. The previous one is intact."
        )
        assert [p.name for p in sorted(folder.glob("checkpoints/*"))] == ["best.ckpt", "last.ckpt"]
        (folder / "checkpoints").chmod(0o755)
        RunDirectory.open_to_resume(folder)
        assert wait_for_exit(start_run(folder, plain)) == 0
        assert_same_run(folder, plain)
    proves("Nothing is lost", "A read-only directory keeps the previous checkpoint.", failures=1)


@pytest.mark.long
def test_damaged_checkpoints_are_reported_and_an_intact_one_suggested(reference, tmp_path, proves):
    folder = tmp_path / "run"
    shutil.copytree(reference, folder)
    (folder / "run.json").write_text(json.dumps(record_of(folder) | {"status": "interrupted"}))
    last, best = (folder / "checkpoints" / f"{name}.ckpt" for name in ("last", "best"))
    good = last.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    damages = {
        b"": "is empty.",
        good[:1000]: "is truncated or damaged.",
        good[:-1]: "is truncated or damaged.",
        b"%PDF-1.7 document": "is not a checkpoint.",
        bytes(flipped): "is damaged: a checksum does not match.",
    }
    for content, sentence in damages.items():
        last.write_bytes(content)
        for check in (lambda: RunDirectory.open_to_resume(folder), lambda: check_checkpoint(last)):
            with pytest.raises(InputError) as raised:
                check()
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
        "A checkpoint that is empty, truncated, corrupted or not simplecnn's is reported, and an "
        "intact one is suggested.",
        damaged_files_reported=len(damages) + 1,
    )


# Signals.


def stopped_by(folder: Path, reference: Path, number: int, when: str) -> tuple[int, float]:
    """Send a signal to a long run once its log contains `when`; returns exit code and seconds."""
    config = config_of(folder, reference)
    config["trainer"] |= {"limit_train_batches": 62, "max_epochs": 50}
    child = fork(lambda: train(config, folder), folder.with_suffix(".log"))
    wait_until(lambda: when in log_of(folder), 60, lambda: log_of(folder))
    start = time.monotonic()
    os.kill(child, number)
    return wait_for_exit(child), time.monotonic() - start


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.long
def test_a_signal_ends_a_run_and_prints_how_to_resume(
    name, code, reference, tmp_path, monkeypatch, activated_environment, proves
):
    monkeypatch.setattr("sys.argv", ["scripts/train.py", "seed=3"])
    signum = getattr(signal, name)
    points = {  # in one run, in this order
        "in a step of the second epoch": signal_in_step(STEPS + 3, signum),
        "in a validation": signal_at_call(Classifier, "validation_step", 2, signum),
        "in a picture": signal_at_call(ImageCallback, "epoch_done", 1, signum),
    }

    def scenario() -> Scenario:
        folder = tmp_path / "a run"
        for point, fault in points.items():
            assert (yield start_run(folder, reference, fault)) == code, (point, log_of(folder))
            record = record_of(folder)
            assert (record["status"], record["num_epochs"]) == ("interrupted", 1)
            stages = ("train", "val")
            assert set(record["metrics"]) == {f"{s}/{m}" for s in stages for m in ("acc", "loss")}
            assert checkpoint(folder)["global_step"] == STEPS
        command = f"Interrupted. Resume it with\npython scripts/train.py \"resume='{folder}'\"\n"
        assert log_of(folder).count(command) == len(points) and "Traceback" not in log_of(folder)
        assert (yield start_run(folder, reference)) == 0
        assert_same_run(folder, reference)

    run_concurrently([scenario()])
    early = tmp_path / "early"
    before_anything = signal_at_call(Classifier, "configure_optimizers", 1, signum)
    assert wait_for_exit(start_run(early, reference, before_anything)) == code
    assert "No epoch was finished: start it again with\n" in log_of(early)
    assert stopped_by(tmp_path / "timed", reference, signum, "epoch 2/50") == (
        code,
        pytest.approx(2.5, abs=2.5),
    )
    proves(
        "Nothing is lost",
        f"{name} ends a run within 5 seconds with exit code {code}, keeps its last finished epoch "
        "and prints the command that resumes it bit for bit.",
        signals_sent=len(points) + 2,
    )


def test_slurms_warning_signal_requeues_and_resumes_the_job(tmp_path, monkeypatch, proves):
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
    overrides = ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=3",
                 "model.network.channels=[4,8]", "+trainer.limit_train_batches=8",
                 CHECKPOINTS]  # fmt: skip
    fault = signal_in_step(STEPS + 3, signal.SIGUSR1)
    result = run_forked(tmp_path, "train.py", *overrides, trouble=fault, **environment)
    assert result.returncode == 143, result.stdout + result.stderr
    assert called.read_text() == "requeue 4711\n"
    assert "SLURM requeued job 4711; the run will resume." in result.stdout
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    record = record_of(folder)
    assert (record["status"], record["slurm_job"]) == ("interrupted", "4711")
    assert checkpoint(folder)["global_step"] == STEPS
    assert not list(tmp_path.rglob("hpc_ckpt*"))

    result = run_forked(tmp_path, "train.py", *overrides, **environment, SLURM_RESTART_COUNT="1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [folder] == list((tmp_path / "outputs" / "train").iterdir())
    record = record_of(folder)
    assert record["status"] == "finished" and record["num_epochs"] == 3
    assert "epoch 1/3" not in result.stdout and "epoch 3/3" in result.stdout
    proves(
        "Nothing is lost",
        "SLURM's warning signal requeues the job, which resumes its run.",
        signals_sent=1,
    )


# A loss that is not finite.


class MakeNonFinite(pl.Callback):
    """Makes the output or a gradient of conv2 non-finite in batch `number`, counted from 1."""

    def __init__(self, where: str, number: int) -> None:
        self.where, self.number = where, number

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        conv2 = pl_module.network.conv2

        def is_target_batch() -> bool:
            return trainer.training and trainer.fit_loop.total_batch_idx + 1 == self.number

        if self.where == "output":
            conv2.register_forward_hook(
                lambda layer, inputs, output: output * math.inf if is_target_batch() else None
            )
        else:
            conv2.weight.register_hook(lambda grad: grad * math.nan if is_target_batch() else None)


@pytest.mark.parametrize(
    ("where", "number", "message"),
    [
        ("output", 13, r"at step 12 \(epoch 2\), with a learning rate of 0.001; the output of "
                       "conv2 is the first that is not finite"),
        ("gradient", 13, r"at step 13 \(epoch 2\), with a learning rate of 0.001; the weights "
                         "network.conv2.weight are not finite after the previous step"),
        ("gradient", 16, r"at step 16 \(epoch 2\), with a learning rate of 0.001; the weights "
                         "network.conv2.weight are not finite after the previous step"),
    ],
)  # fmt: skip
def test_non_finite_values_are_reported_and_never_saved(where, number, message, tmp_path):
    folder = tmp_path / "run"
    config = compose_run(folder, CHECKPOINTS, "trainer.max_epochs=3")

    def fault() -> None:
        original = run.build_trainer

        def build_trainer(*args: Any, **kwargs: Any) -> pl.Trainer:
            trainer = original(*args, **kwargs)
            trainer.callbacks.append(MakeNonFinite(where, number))
            return trainer

        run.build_trainer = build_trainer

    def child() -> None:
        fault()
        train(config, folder)

    assert wait_for_exit(fork(child, folder.with_suffix(".log"))) == 1
    record = record_of(folder)
    assert record["status"] == "failed" and record["num_epochs"] == 1
    expected = f"RunError: The loss is not finite: detected {message}"
    assert re.match(expected, record["error"]), record
    for path in folder.glob("checkpoints/*.ckpt"):
        saved = torch.load(path, weights_only=True)
        assert saved["global_step"] == STEPS
        assert all(torch.isfinite(v).all() for v in saved["state_dict"].values()), path


# The printed command.


def test_the_printed_command_resumes_the_run(tmp_path, activated_environment, proves):
    """The command printed on interruption, and errors for runs that cannot be resumed."""
    overrides = ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=2",
                 "model.network.dropout=0.5", "model.network.channels=[4,8]",
                 "+trainer.limit_train_batches=8", CHECKPOINTS]  # fmt: skip

    def screen(*overrides: str, code: int, fault: Fault | None = None) -> str:
        result = run_forked(tmp_path, "train.py", *overrides, trouble=fault)
        assert result.returncode == code, result.stdout + result.stderr
        return result.stdout + result.stderr

    screen(*overrides, "hydra.run.dir=reference", code=0)
    at_step_11 = signal_in_step(11, signal.SIGTERM)
    shown = screen(*overrides, "hydra.run.dir='a b'", code=143, fault=at_step_11)
    python, script, *typed = shlex.split(shown.partition("Resume it with\n")[2].splitlines()[0])
    assert (python, script, typed) == ("python", "scripts/train.py", ["resume='a b'"])
    recorded = (tmp_path / "a b/.hydra/overrides.yaml").read_text()
    screen(*typed, code=0)
    assert_same_run(tmp_path / "a b", tmp_path / "reference")
    assert (tmp_path / "a b/.hydra/overrides.yaml").read_text() == recorded
    log = (tmp_path / "a b/train.log").read_text()
    assert "Interrupted." in log and "epoch 2/2" in log  # one log for both processes
    assert "resumed after epoch 1 of 2\n" in log

    elsewhere = ["hydra.job.chdir=true", "hydra.run.dir=d"]  # the job runs in d, the command above
    shown = screen(*overrides, *elsewhere, code=143, fault=at_step_11)
    *_, override, chdir = shlex.split(shown.partition("Resume it with\n")[2].splitlines()[0])
    assert (override, chdir) == (f"resume={tmp_path}/d", "hydra.job.chdir=true")
    screen(override, chdir, code=0)

    (tmp_path / "no").mkdir()
    wrong = {
        ("resume=a b",): "resume=a b: this run is finished. To train it further, type its "
        "command again with ckpt_path=a b/checkpoints/last.ckpt and a larger trainer.max_epochs.",
        ("resume=a b", "seed=3"): "seed=3: resume uses the run's own configuration",
        ("resume=none",): "resume=none: there is no such folder.",
        ("resume=no",): "resume=no: not a run of simplecnn (config.yaml is missing).",
        (*overrides, "ckpt_path=a b/config.yaml"): "a b/config.yaml is not a checkpoint.",
    }
    for line, sentence in wrong.items():
        shown = screen(*line, code=2)
        assert shown.startswith(sentence) and shown.count("\n") == 1, shown
    overrides = [override for override in overrides if "max_epochs" not in override]
    shown = screen(*overrides, "trainer.max_epochs=3", "hydra.run.dir=c",
                   "ckpt_path=a b/checkpoints/last.ckpt", code=0)  # fmt: skip
    assert "epoch 3/3" in shown and "epoch 2/3" not in shown
    proves(
        "Nothing is lost",
        "The command that an interrupted run prints resumes it; a run that cannot be resumed is "
        "rejected with a message.",
        commands_run=6 + len(wrong),
    )


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130)])
@pytest.mark.long
def test_a_signal_to_a_sweep_of_two_processes_keeps_their_epochs(
    name, code, tmp_path, monkeypatch, proves
):
    from simplecnn import cli as commands

    monkeypatch.chdir(tmp_path)
    overrides = ["-m", "seed=1,2,3", "data=mnist_5k", "trainer=cpu", "trainer.max_epochs=500",
                 "+trainer.limit_train_batches=8",
                 "callbacks=checkpoint", "logger=csv", "model.network.channels=[4,8]",
                 "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
                 "hydra.sweep.dir=sweep"]  # fmt: skip

    def child() -> None:
        os.setpgid(0, 0)  # a group: Ctrl-C in a terminal also reaches the workers
        monkeypatch.setattr("sys.argv", ["scripts/train.py", *overrides])
        logging.getLogger().handlers.clear()
        commands.train()

    pid = fork(child, tmp_path / "screen")
    jobs = [tmp_path / "sweep" / number for number in "01"]
    wait_until(lambda: all((job / "checkpoints" / "last.ckpt").exists() for job in jobs), 90,
               (tmp_path / "screen").read_text)  # fmt: skip
    start = time.monotonic()
    (os.kill if name == "SIGTERM" else os.killpg)(pid, getattr(signal, name))
    assert wait_for_exit(pid) == code
    assert time.monotonic() - start < 10  # 2 s on an idle machine
    for job in jobs:
        assert record_of(job)["status"] == "interrupted"
        assert checkpoint(job)["global_step"] > 0
        assert not [p for p in job.rglob(".*") if p.is_file() and ".hydra" not in p.parts]
    assert "not started" in (tmp_path / "screen").read_text()
    assert not (tmp_path / "sweep" / "2").exists()
    proves(
        "Nothing is lost",
        f"{name} to a sweep of two processes keeps the finished epochs of both jobs.",
        jobs_kept=2,
    )
