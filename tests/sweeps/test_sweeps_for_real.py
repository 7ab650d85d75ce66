"""End-to-end sweeps from the command line: failures, interruptions, resumes, results."""

import csv
import gc
import json
import os
import re
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from children import assert_same, run_forked
from conftest import compose_run
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import api_pb2, backend_context
from tensorboard.plugins.hparams.list_session_groups import Handler

from simplecnn import cli as commands
from simplecnn import command_line
from simplecnn.config.search_path import conf_dir
from simplecnn.errors import RunError
from simplecnn.sweeps import launch, report
from simplecnn.sweeps.plan import plan_sweep
from simplecnn.training import run
from simplecnn.training.processor import configure_threads

SMALL = ["data=mnist_5k", "trainer=cpu", "trainer.max_epochs=1", "+trainer.limit_train_batches=8",
         "model.network.channels=[4,8]", "callbacks=checkpoint"]  # fmt: skip


@pytest.fixture
def sweep(tmp_path, monkeypatch, capfd):
    """Run `scripts/train.py -m SMALL …` in this process; returns exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)

    def run_command(*overrides: str, small: tuple[str, ...] = tuple(SMALL)):
        monkeypatch.setattr("sys.argv", ["scripts/train.py", "-m", *small, *overrides])
        with pytest.raises(SystemExit) as error:
            commands.train()
        out, err = capfd.readouterr()
        return error.value.code, out, err

    return run_command


def records(folder: str) -> list[dict]:
    paths = sorted(Path(folder).glob("*/run.json"), key=lambda path: int(path.parent.name))
    return [json.loads(path.read_text()) for path in paths]


def rows(folder: str) -> list[dict[str, str]]:
    with (Path(folder) / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def last_checkpoint(folder: str | Path) -> dict:
    return torch.load(Path(folder) / "checkpoints" / "last.ckpt", weights_only=True)


def print_unraisable_warnings() -> None:
    """A ResourceWarning, which is an error here too, is printed, not collected by pytest."""
    sys.unraisablehook = sys.__unraisablehook__


@pytest.mark.long
def test_three_jobs_of_which_one_fails(tmp_path):
    layers = "first,[conv9],[conv1,conv2]"
    overrides = [*SMALL[:-1], "trainer.max_epochs=2", "callbacks=[checkpoint,progress,filters]",
                 f"callbacks.filters.layers={layers}", "hydra.sweep.dir=outputs/three"]  # fmt: skip
    done = run_forked(tmp_path, "train.py", "-m", *overrides, trouble=print_unraisable_warnings)
    assert done.returncode == 1
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == "3 jobs in outputs/three, numbered from 0"
    for number, status in enumerate(("finished", "failed", "finished")):
        assert lines[number + 1].startswith(f"job {number}   {status}"), lines
    assert "epoch 1/2" not in done.stdout  # only in the log files
    assert "epoch 1/2" in (tmp_path / "outputs/three/0/train.log").read_text()
    assert "3 jobs: 2 finished, 1 failed." in lines
    os.chdir(tmp_path)
    table = rows("outputs/three")
    assert [row["status"] for row in table] == ["finished"] * 2 + ["failed"]
    assert table[-1]["callbacks.filters.layers"] == "[conv9]"
    assert table[-1]["error"].startswith("layers: conv9 is not a convolution")
    assert "conv9 is not a convolution" in Path(table[-1]["log"]).read_text()
    command = json.loads(Path("outputs/three/2/run.json").read_text())["command"]
    assert " -m " not in command and "callbacks.filters.layers=[conv1,conv2]" in command
    assert table[0]["best"] == table[1]["best"]  # the callback does not affect training
    assert (tmp_path / "outputs/three/sweep.png").stat().st_size > 10_000

    repeated = run_forked(tmp_path, "sweep.py", "sweep=outputs/three")
    assert repeated.returncode == 1 and repeated.stderr == ""
    assert repeated.stdout.strip() == "\n".join(lines[4:]).strip()


class StopIn(pl.Callback):
    """Raise KeyboardInterrupt in the middle of an epoch (from 0)."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.current_epoch == self.epoch and batch_idx == 3:
            raise KeyboardInterrupt


@pytest.mark.long
def test_an_interrupted_sweep_resumes_with_identical_results(sweep, monkeypatch):
    overrides = ["seed=1,2,3", "model.network.dropout=0.5", "model/scheduler=plateau",
                 "model.scheduler.patience=0", "+model.scheduler.threshold=9",  # always lower
                 "model.optimizer.lr=0.02", "logger=csv", "trainer.max_epochs=2"]  # fmt: skip
    assert sweep(*overrides, "hydra.sweep.dir=uninterrupted")[0] == 0

    original = run.build_trainer
    trainers = []

    def interrupted_second(*args, **options):
        trainers.append(original(*args, **options))
        if len(trainers) == 2:
            trainers[-1].callbacks.insert(0, StopIn(epoch=1))
        return trainers[-1]

    def report_at_second_interrupt(path):
        os.kill(os.getpid(), signal.SIGINT)
        return write_report(path)

    write_report = report.report
    monkeypatch.setattr(run, "build_trainer", interrupted_second)
    with monkeypatch.context() as patch:
        patch.setattr(report, "report", report_at_second_interrupt)
        code, out, _ = sweep(*overrides, "hydra.sweep.dir=resumed")
    assert code == 130 and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert "3 jobs: 1 finished, 1 interrupted, 1 not started." in out
    assert "resume       " in out and "hydra.sweep.dir=resumed" in out
    assert [r["num_epochs"] for r in records("resumed")] == [2, 1]
    before = Path("resumed/0/run.json").read_text()

    code, out, _ = sweep(*overrides, "hydra.sweep.dir=resumed")
    assert code == 0 and len(trainers) == 4  # two more: the finished job does not run again
    lines = out.splitlines()
    assert lines[0] == "3 jobs in resumed, numbered from 0"
    assert lines[1] == "Resuming the sweep: 1 finished, 1 interrupted, 1 not started."
    assert lines[2].startswith("job 0   already finished   val/acc ")
    assert Path("resumed/0/run.json").read_text() == before
    for job in "012":
        for name in ("last", "best"):
            expected, actual = (
                torch.load(Path(f, job, "checkpoints", f"{name}.ckpt"), weights_only=True)
                for f in ("uninterrupted", "resumed")
            )
            for key in ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step"):
                assert_same(expected[key], actual[key], f"{job}/{name}/{key}")
        assert Path("uninterrupted", job, "metrics.csv").read_text() == (
            Path("resumed", job, "metrics.csv").read_text()
        )
    for expected, actual in zip(records("uninterrupted"), records("resumed"), strict=True):
        for key in ("status", "metrics", "best", "num_epochs"):
            assert expected[key] == actual[key]
    assert [len(r.get("continued", [])) for r in records("resumed")] == [0, 1, 0]
    # the scheduler has reduced the learning rate
    checkpoint = last_checkpoint("uninterrupted/1")
    assert checkpoint["lr_schedulers"][0]["_last_lr"] == [pytest.approx(2e-3)]


def test_a_job_interrupted_while_testing_is_only_tested(sweep, monkeypatch):
    assert sweep("seed=1", "hydra.sweep.dir=uninterrupted")[0] == 0
    monkeypatch.setattr(pl.LightningDataModule, "teardown", lambda self, stage: None)
    from simplecnn.models.classifier import Classifier

    original = Classifier.test_step

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "test_step", interrupted)
    assert sweep("seed=1", "hydra.sweep.dir=resumed")[0] == 130
    monkeypatch.setattr(Classifier, "test_step", original)
    monkeypatch.setattr(Classifier, "training_step", interrupted)
    assert sweep("seed=1", "hydra.sweep.dir=resumed")[0] == 0
    (expected,), (resumed,) = records("uninterrupted"), records("resumed")
    assert expected["metrics"] == resumed["metrics"] and expected["best"] == resumed["best"]


def test_only_failed_jobs_start_over_and_another_sweep_is_rejected(sweep, monkeypatch):
    original = run.build_trainer

    def broken(config, *args, **options):
        if config["seed"] == 2:
            raise RuntimeError("no luck")
        return original(config, *args, **options)

    monkeypatch.setattr(run, "build_trainer", broken)
    code, out, _ = sweep("seed=1,2", "hydra.sweep.dir=s")
    assert code == 1 and "\njob 1   failed" in out and "RuntimeError: no luck" in out
    monkeypatch.setattr(run, "build_trainer", original)
    first = Path("s/0/run.json").read_text()
    code, out, _ = sweep("seed=1,2", "hydra.sweep.dir=s")
    assert code == 0 and "2 jobs: 2 finished." in out
    assert Path("s/0/run.json").read_text() == first
    assert "RuntimeError: no luck" in Path("s/1/train.log").read_text()  # the log is kept
    code, out, err = sweep("seed=1,2,3", "hydra.sweep.dir=s")
    assert code == 2 and out == "" and err.startswith("s holds another sweep (scripts/train.py")


def test_no_job_starts_when_the_source_has_changed(sweep, monkeypatch):
    original, calls = launch.source_hashes, []

    def changed_at_third_call(*folders):
        calls.append(folders)
        return original(*folders) | ({"simplecnn/run.py": "edited"} if len(calls) > 2 else {})

    monkeypatch.setattr(launch, "source_hashes", changed_at_third_call)
    code, out, err = sweep("seed=1,2,3", "hydra.sweep.dir=s")
    message = "simplecnn/run.py changed since the sweep in s was started: "
    assert code == 1
    assert "3 jobs: 1 finished, 2 failed." in out and f"job 2 failed: {message}" in out
    assert not Path("s/1/checkpoints").exists()
    code, out, err = sweep("seed=1,2,3", "hydra.sweep.dir=s")
    assert code == 2 and err.startswith(message) and out == ""


def test_each_data_set_is_prepared_once_before_the_first_job(sweep, monkeypatch):
    plan = plan_sweep("train", ["data=mnist,mnist_5k", "seed=1,2"])
    prepared = []
    monkeypatch.setattr(
        command_line,
        "build",
        lambda node: SimpleNamespace(prepare_data=lambda: prepared.append(node["dataset"])),
    )
    command_line.prepare_data(plan)
    assert prepared == ["MNIST", "MNIST5k"]

    def fails():
        raise OSError("no luck")

    monkeypatch.setattr(command_line, "build", lambda node: SimpleNamespace(prepare_data=fails))
    with pytest.raises(RunError, match=r"MNISTDataModule\.prepare_data: no luck"):
        command_line.prepare_data(plan)


def test_a_sweep_without_its_data_starts_no_job(sweep):
    missing = ["data=mnist", "data.data_dir=nothing", "+data.download=false", "trainer=cpu"]
    code, out, err = sweep("seed=1,2", "hydra.sweep.dir=s", small=tuple(missing))
    assert code == 1 and out == "" and not Path("s").exists()
    assert "nothing" in err and err.count("download=false") == 1, err


def test_jobs_do_not_affect_each_other_or_the_process(sweep):
    """The last job has the same weights in a sweep of one job."""
    configure_threads()  # by the command, not by a job
    variables, num_threads = dict(os.environ), torch.get_num_threads()
    code, out, _ = sweep(
        "+trainer.deterministic=true,false", "model.network.dropout=0.5",
        "seed=5,1", "hydra.sweep.dir=s",
    )  # fmt: skip
    assert code == 0
    assert dict(os.environ) == variables and torch.get_num_threads() == num_threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark and not torch.backends.cudnn.deterministic
    assert sweep(
        "+trainer.deterministic=false", "model.network.dropout=0.5",
        "seed=1", "hydra.sweep.dir=single",
    )[0] == 0  # fmt: skip
    last_job, single_job = last_checkpoint("s/3"), last_checkpoint("single/0")
    assert_same(last_job["state_dict"], single_job["state_dict"])
    assert_same(last_checkpoint("s/1")["state_dict"], last_job["state_dict"])
    command = next(text for text in out.splitlines() if text.startswith("reproduce "))
    assert "model.network.dropout=0.5" in command and "hydra" not in command


def test_every_job_is_a_row_of_tensorboards_hparams(sweep):
    overrides = ["model/optimizer=adam,sgd", "seed=3", "trainer.max_epochs=2"]
    assert sweep(*overrides, "hydra.sweep.dir=s")[0] == 0
    events = EventMultiplexer().AddRunsFromDirectory("s").Reload()
    context = TBContext(data_provider=MultiplexerDataProvider(events, "s"))
    backend = backend_context.Context(context)
    request = api_pb2.ListSessionGroupsRequest(
        start_index=0, slice_size=100, include_metrics=True,
        allowed_statuses=[api_pb2.STATUS_SUCCESS, api_pb2.STATUS_UNKNOWN],
    )  # fmt: skip
    metadata = backend.hparams_metadata(RequestContext(), "")
    experiment = backend.experiment_from_metadata(RequestContext(), "", True, metadata, [])
    names = {info.name: list(v.string_value for v in info.domain_discrete.values)
             for info in experiment.hparam_infos}  # fmt: skip
    assert {"seed", "model/optimizer/lr", "model/optimizer/momentum"} <= set(names)
    metrics = {f"{info.name.group}/{info.name.tag}" for info in experiment.metric_infos}
    assert metrics >= {"val/acc", "test/acc"}
    request.col_params.extend(
        api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos
    )
    groups = Handler(RequestContext(), backend, "", request).run().session_groups
    sessions = {}
    for group in groups:
        (session,) = group.sessions
        values = {f"{m.name.group}/{m.name.tag}": m.value for m in session.metric_values}
        sessions[session.name] = (group.hparams["seed"].number_value, values["test/acc"])
    expected = {
        str(job): (record["seed"], pytest.approx(record["metrics"]["test/acc"]))
        for job, record in enumerate(records("s"))
    }
    assert sessions == expected
    for job in "01":  # the curves have one point per epoch
        steps = [e.step for e in events.GetAccumulator(f"{job}/val").Tensors("acc")]
        assert steps == [7, 15]


@pytest.mark.long
def test_every_experiment_runs(sweep):
    overrides = ["experiment=glob(*)", "data=mnist_5k", "trainer=cpu",
                 "++trainer.fast_dev_run=true"]  # fmt: skip
    code, out, _ = sweep(*overrides, "hydra.sweep.dir=s", small=())
    assert code == 0, out
    table = rows("s")
    assert {row["experiment"] for row in table} >= {"quickstart", "tutorial"}
    assert {row["status"] for row in table} == {"finished"}


@pytest.mark.parametrize(
    ("search", "num_jobs", "overrides"),
    [
        ("depth", 4, ["seed=1"]),
        ("grid", 3, ["data.batch_size=64"]),
        ("kernel_size", 4, ["seed=1"]),
        ("pooling", 3, ["seed=1"]),
        ("width", 3, ["seed=1"]),
    ],
)
def test_every_predefined_search_asks_a_question_and_is_valid(search, num_jobs, overrides, sweep):
    """The dry run builds each network and passes an image through it."""
    path = conf_dir() / "hparams_search" / f"{search}.yaml"
    assert re.search(r"^# .*\?", path.read_text(), re.M)
    seeds = OmegaConf.load(path).hydra.sweeper.params.get("seed")
    assert seeds == (None if search == "grid" else "1,2,3")
    code, out, _ = sweep(f"hparams_search={search}", *overrides, "dry_run=true", small=())
    *jobs, last = out.splitlines()
    assert last == "All jobs are valid; none was started."
    assert code == 0 and len(set(jobs)) == num_jobs and not list(Path().iterdir())
    assert all(job.startswith(f"job {number} ") for number, job in enumerate(jobs))


def test_a_predefined_search_trains(sweep):
    overrides = ["hparams_search=depth", "seed=1", "data=mnist_5k", "trainer=cpu",
                 "++trainer.fast_dev_run=true", "callbacks=none"]  # fmt: skip
    code, out, _ = sweep(*overrides, "hydra.sweep.dir=s", small=())
    assert code == 0, out
    assert [row["status"] for row in rows("s")] == ["finished"] * 4


SMALL_DDP = tuple(o for o in SMALL if not o.startswith(("trainer=", "trainer.max_epochs")))


def test_ddp_in_a_sweep_is_rejected(sweep):
    overrides = ["trainer=ddp_sim", "trainer.max_epochs=1", "seed=1,2"]
    code, out, err = sweep(*overrides, "+trainer.strategy=ddp", small=SMALL_DDP)
    assert code == 2 and out == ""
    code, out, err = sweep(*overrides, "trainer.strategy=ddp", "hydra.sweep.dir=s", small=SMALL_DDP)
    assert code == 2 and "In a sweep, type trainer=ddp_sim" in err and not Path("s").exists()


@pytest.mark.long
def test_a_job_in_two_simulated_processes_matches_one_process(sweep, tmp_path):
    overrides = ["trainer.max_epochs=1", "logger=csv", "trainer=ddp_sim",
                 "trainer.strategy=ddp_fork", "callbacks=[checkpoint,progress]"]  # fmt: skip
    rate = "model.optimizer.lr=2e-3"
    code, out, err = sweep(*overrides, rate, "hydra.sweep.dir=s", small=SMALL_DDP)
    assert code == 0, out + err
    (record,) = records("s")
    assert record["device"]["name"] == "2 x CPU" and record["num_epochs"] == 1
    assert "epoch 1/1" in Path("s/0/train.log").read_text()

    single = tmp_path / "single"
    config = compose_run(single, *overrides[:2], "callbacks=checkpoint", rate)
    run.train(config, single)
    expected = json.loads((single / "run.json").read_text())["metrics"]
    for name in ("val/acc", "test/acc"):
        assert record["metrics"][name] == pytest.approx(expected[name], abs=0.01)
    assert record["metrics"]["train/loss"] == pytest.approx(expected["train/loss"], abs=1e-4)
    weights, expected = (last_checkpoint(folder)["state_dict"] for folder in ("s/0", single))
    for name in expected:
        torch.testing.assert_close(weights[name], expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.long
def test_memory_does_not_grow_from_job_to_job(tmp_path):
    """After 9 jobs, 3 of them failed, it is at most 20 MB above that after 3; the data are 4 MB."""

    def measure_memory() -> None:
        from simplecnn.models.classifier import Classifier

        original, sizes, hook = run.train, [], Classifier.on_train_epoch_end

        def broken(self):
            raise RuntimeError("broken")

        def train(*args, **kwargs):
            Classifier.on_train_epoch_end = broken if len(sizes) % 3 == 1 else hook
            try:
                return original(*args, **kwargs)
            finally:
                gc.collect()
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                sizes.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
                (tmp_path / "sizes.json").write_text(json.dumps(sizes))

        run.train = train

    overrides = [*SMALL, "test=false", "logger=csv", "seed=1,2,3", "model.network.hidden=16,32,64"]
    done = run_forked(tmp_path, "train.py", "-m", *overrides, trouble=measure_memory)
    assert done.returncode == 1 and "9 jobs: 6 finished, 3 failed." in done.stdout, done.stderr
    sizes = json.loads((tmp_path / "sizes.json").read_text())
    assert len(sizes) == 9
    assert sizes[-1] - sizes[2] <= 20, sizes
