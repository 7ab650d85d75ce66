"""Parallel jobs of a sweep: joblib's processes, a Ray cluster, submitit's local executor."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hydra
import pytest
from children import fork, forked_script, run_forked, wait_for_exit
from omegaconf import OmegaConf
from submitit.core.utils import UncompletedJobError
from tqdm import tqdm

from hydra_plugins import simplecnn_joblib, simplecnn_submitit
from hydra_plugins.simplecnn_joblib import JoblibLauncher, worker_environments
from hydra_plugins.simplecnn_ray import RayLauncher
from simplecnn.config import devices
from simplecnn.config.composition import compose_config
from simplecnn.config.search_path import conf_dir
from simplecnn.errors import InputError
from simplecnn.sweeps.plan import plan_sweep

SMALL = ["-m", "hydra.sweep.dir=sweep", "data=mnist_5k", "trainer=cpu",
         "+trainer.limit_train_batches=4", "model.network.channels=[4,8]",
         "callbacks=[checkpoint]", "logger=csv", "test=false"]  # fmt: skip


def records(folder: Path) -> list[dict]:
    paths = sorted((folder / "sweep").glob("*/run.json"), key=lambda p: int(p.parent.name))
    return [json.loads(path.read_text()) for path in paths]


def test_workers_share_the_cores_and_get_one_gpu_each(monkeypatch):
    monkeypatch.setattr("joblib.cpu_count", lambda: 8)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for num_gpus in (0, 1):
        monkeypatch.setattr(devices, "num_cuda_devices", lambda n=num_gpus: n)
        assert JoblibLauncher().num_workers == 8 and JoblibLauncher(n_jobs=3).num_workers == 3
        environments = worker_environments(3)
        assert [e["OMP_NUM_THREADS"] for e in environments] == ["2", "2", "2"]
        assert all("CUDA_VISIBLE_DEVICES" not in e for e in environments)
    monkeypatch.setattr(devices, "num_cuda_devices", lambda: 2)
    assert JoblibLauncher().num_workers == 2
    assert [e["CUDA_VISIBLE_DEVICES"] for e in worker_environments(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5a")
    assert [e["CUDA_VISIBLE_DEVICES"] for e in worker_environments(2)] == ["3", "GPU-5a"]
    assert [e["OMP_NUM_THREADS"] for e in worker_environments(16)] == ["1"] * 16


# Launchers with fast jobs, which do not import torch.


def launch(function: Callable[[int], None], *overrides: str) -> None:
    """Run `function(seed)` as the job of a sweep, two jobs in parallel with joblib."""

    def job(config):
        function(config.seed)

    sys.argv = ["train.py", "-m", "hydra.sweep.dir=sweep", "hydra/launcher=joblib",
                "hydra.launcher.n_jobs=2", *overrides]  # fmt: skip
    hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="train")(job)()


def test_a_killed_worker_loses_its_job_and_the_other_workers_run_several(
    tmp_path, monkeypatch, capfd
):
    def record_process(seed: int) -> None:
        Path(f"process_{seed}").write_text(f"{os.getpid()} {os.environ['OMP_NUM_THREADS']}")
        time.sleep(0.5)
        if seed == 1:  # a job may start processes, as a DataLoader does
            process = multiprocessing.Process(target=Path("started").touch)
            process.start()
            process.join()
        if seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    # in batches, as in a search
    launch(record_process, "seed=1,2,3,4,5,6", "hydra.sweeper.max_batch_size=4")
    assert Path("started").exists()
    processes = [Path(f"process_{seed}").read_text().split() for seed in range(1, 7)]
    pids = [pid for pid, _ in processes]
    assert len(set(pids)) == 3 and pids.count(pids[1]) == 1, processes
    assert {num_threads for _, num_threads in processes} == {str(max(1, os.cpu_count() // 2))}
    out, err = capfd.readouterr()
    assert out.count("2 jobs in parallel, threads per job: ") == 1
    assert re.fullmatch(
        r"job 1   killed   seed=2   its process ended suddenly .*out of memory\)\n", err
    )


def test_workers_end_with_their_command(tmp_path, monkeypatch):
    """One command is killed, and one is interrupted."""

    def wait_for_signal(seed: int) -> None:
        simplecnn_joblib.SECONDS_TO_END = 3

        def handler(*_: object) -> None:
            Path(f"interrupted_{os.getpid()}").touch()
            raise SystemExit

        for handled in (signal.SIGINT, signal.SIGTERM):
            signal.signal(handled, handler)
        list(tqdm([]))
        Path(f"pid_{os.getpid()}").touch()
        time.sleep(300)

    heads, pids = {}, {}
    try:
        for signum in (signal.SIGKILL, signal.SIGINT):
            folder = tmp_path / signum.name
            folder.mkdir()
            monkeypatch.chdir(folder)
            heads[folder] = fork(lambda: launch(wait_for_signal, "seed=1,2"), folder / "screen")
        for folder in heads:
            files = lambda f=folder: [int(p.name[4:]) for p in f.glob("pid_*")]  # noqa: E731
            pids[folder] = wait_for(files, 2, seconds=200)
    finally:
        for folder, head in heads.items():
            os.kill(head, signal.Signals[folder.name])
            wait_for_exit(head)
    for folder, numbers in pids.items():
        wait_for(lambda n=numbers: [pid for pid in n if not is_alive(pid)], 2, seconds=60)
        names = {path.name for path in folder.glob("interrupted_*")}
        assert names == {f"interrupted_{pid}" for pid in numbers}
        assert "leaked semaphore" not in (folder / "screen").read_text()


def test_a_worker_that_dies_of_the_interruption_is_not_reported_as_killed(
    tmp_path, monkeypatch, capfd
):
    """Ctrl-C while a job still imports torch, and so handles no signal yet."""

    def interrupt_parent(seed: int) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if seed == 1:
            os.kill(os.getppid(), signal.SIGINT)
        time.sleep(300)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        launch(interrupt_parent, "seed=1,2")
    assert "killed" not in "".join(capfd.readouterr())


def wait_for(poll: Callable[[], list], length: int, *, seconds: float) -> list:
    """Call `poll` until it returns at least `length` items; return them."""
    deadline = time.monotonic() + seconds
    while len(items := poll()) < length:
        assert time.monotonic() < deadline, items
        time.sleep(0.2)
    return items


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# Real runs.

# Kills the process of the run with seed 2 at the end of its second epoch, once.
KILLER = """
import os, signal
from pathlib import Path
from pytorch_lightning import Callback

class Killer(Callback):
    def on_train_epoch_end(self, trainer, module):
        flag = Path(__file__).with_name("killed")  # Ray workers have another working directory
        if os.environ.get("PL_GLOBAL_SEED") == "2" and trainer.current_epoch == 1:
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killer(tmp_path, monkeypatch) -> str:
    """The override that adds a `Killer` to a run."""
    (tmp_path / "killer.py").write_text(KILLER)
    monkeypatch.syspath_prepend(tmp_path)
    path = [str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    monkeypatch.setenv("SIMPLECNN_TARGETS", "killer.Killer")
    return "+callbacks.killer._target_=killer.Killer"


@pytest.mark.long
def test_the_job_of_a_killed_worker_is_resumed_by_the_same_sweep(tmp_path, killer):
    overrides = [*SMALL, "seed=1,2", "trainer.max_epochs=2", killer]
    joblib = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = run_forked(tmp_path, "train.py", *overrides, *joblib)
    assert done.returncode == 1, done.stderr
    before = records(tmp_path)
    assert [r["status"] for r in before] == ["finished", "running"]
    assert "2 jobs: 1 finished, 1 killed." in done.stdout
    assert "job 1 killed: its process ended suddenly (kill -9, or out of memory)" in done.stdout
    assert [r["device"]["num_threads"] for r in before] == [max(1, os.cpu_count() // 2)] * 2
    assert re.search(r"^job 1   killed .* seed=2 .*out of memory", done.stderr, re.M)
    assert "Traceback" not in done.stdout + done.stderr

    done = run_forked(tmp_path, "train.py", *overrides)  # the launcher may be another one
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Resuming the sweep: 1 finished, 1 killed.\n" in done.stdout
    assert done.stdout.count("already finished") == 1
    after = records(tmp_path)
    assert [r["status"] for r in after] == ["finished"] * 2
    assert after[0] == before[0]
    assert after[1]["num_epochs"] == 2 and len(after[1]["continued"]) == 1


@pytest.fixture
def ray_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of one node with two cores on this machine; other clusters are not touched."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    started = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert started.stdout is not None
        yield next(line.split()[1] for line in started.stdout if line.startswith("address "))
    finally:
        started.communicate("stop\n", timeout=60)


# Stops only the processes that it started.
CLUSTER = """
from ray.cluster_utils import Cluster
node = {"num_cpus": 2, "object_store_memory": 80_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=node)
print("address", cluster.address, flush=True)
input()
cluster.shutdown()
"""


@pytest.mark.long
def test_ray_runs_the_jobs_on_its_cluster_and_sigterm_reaches_them(tmp_path, killer, ray_address):
    """Two jobs finish, one is killed, and one is interrupted."""
    arguments = [*SMALL, "trainer.max_epochs=1,500", "seed=2,1", killer, "hydra/launcher=ray",
                 f"hydra.launcher.ray.init.address='{ray_address}'",
                 "hydra.launcher.ray.remote.max_retries=0"]  # fmt: skip
    screen = tmp_path / "screen"
    screen.touch()
    head = fork(forked_script(tmp_path, "train.py", *arguments), screen)
    last = tmp_path / "sweep" / "3" / "checkpoints" / "last.ckpt"

    def lost_jobs() -> list[str]:
        text = screen.read_text()
        assert "4 jobs: " not in text, text  # the report: the sweep has ended
        return re.findall("job 2   killed .* Ray: WorkerCrashedError", text)

    try:
        wait_for(lost_jobs, 1, seconds=300)
        wait_for(lambda: [1] * last.exists(), 1, seconds=300)
    finally:
        os.kill(head, signal.SIGTERM)
        code = wait_for_exit(head)
    assert code == 143
    text = screen.read_text()
    assert "4 jobs: 2 finished, 1 interrupted, 1 killed." in text and "resume   " in text
    expected = ["finished", "finished", "running", "interrupted"]
    assert [r["status"] for r in records(tmp_path)] == expected


def test_ray_errors_of_a_job_do_not_end_the_sweep(monkeypatch, caplog):
    """The job has lost its node, or the node with its result; the other jobs return."""
    ray = pytest.importorskip("ray")
    errors = {
        1: ray.exceptions.NodeDiedError("node"),
        2: ray.exceptions.ObjectLostError("0", "", ""),
    }
    init_options = {}

    def get(number: int) -> str:
        if number in errors:
            raise errors[number]
        return "done"

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: init_options.update(options))
    remote = SimpleNamespace(remote=lambda launcher, number, overrides, state: number)
    monkeypatch.setattr(ray, "remote", lambda **options: lambda function: remote)
    monkeypatch.setattr(ray, "get", get)
    config = {"init": {"address": None, "num_cpus": 2}, "remote": {"num_cpus": 1}}
    launcher = RayLauncher(OmegaConf.create(config))
    launcher.basic = None
    done = launcher.launch([["seed=1"], ["seed=2"], ["seed=3"], ["seed=4"]], 0)
    assert done[0] == done[3] == "done" and [job.overrides for job in done[1:3]] == [
        ["seed=2"], ["seed=3"],
    ]  # fmt: skip
    assert init_options == {"address": None, "num_cpus": 2, "object_store_memory": 78_643_200}
    assert [record.message for record in caplog.records] == [
        "job 1   killed   seed=2   Ray: NodeDiedError",
        "job 2   killed   seed=3   Ray: ObjectLostError",
    ]


@pytest.mark.long
def test_submitit_runs_a_job_in_a_separate_process(tmp_path):
    overrides = ["seed=1", "trainer.max_epochs=1", "hydra/launcher=submitit_local",
                 "hydra.launcher.timeout_min=5"]  # fmt: skip
    done = run_forked(tmp_path, "train.py", *SMALL, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [(r["status"], r["seed"]) for r in records(tmp_path)] == [("finished", 1)]
    assert len(list((tmp_path / "sweep" / ".submitit").glob("*/*_result.pkl"))) == 1


def test_submitit_waits_for_the_jobs_after_one_that_was_killed(monkeypatch, caplog):
    given: dict[str, Any] = {}

    class FakeJob(SimpleNamespace):
        paths = SimpleNamespace(stderr="0_log.err")

        def results(self):
            if self.number == 1:
                raise UncompletedJobError
            return [self.number]

    class FakeExecutor:
        def __init__(self, folder, cluster, **options):
            given.update(folder=folder, cluster=cluster, **options)

        def update_parameters(self, **options):
            given.update(options)

        def map_array(self, function, job_overrides, keys, numbers, *others):
            return [FakeJob(number=number) for number in numbers]

    monkeypatch.setattr("submitit.AutoExecutor", FakeExecutor)
    params = OmegaConf.to_container(OmegaConf.structured(simplecnn_submitit.Slurm(partition="gpu")))
    target = params.pop("_target_")
    assert target == "hydra_plugins.simplecnn_submitit.SlurmLauncher"
    launcher = simplecnn_submitit.SlurmLauncher(**params)
    results = launcher.launch([["a=0", "seed=1"], ["a=0", "seed=2"], ["a=0", "seed=3"]], 0)
    assert [results[0], results[2]] == [0, 2] and results[1].overrides == ["a=0", "seed=2"]
    assert caplog.messages == ["job 1   killed   seed=2   it ended without a result: see 0_log.err"]
    assert given["cluster"] == "slurm" and given["slurm_max_num_timeout"] == 0
    assert given["timeout_min"] == 60 and given["slurm_partition"] == "gpu"
    assert "submitit_folder" not in given and "max_num_timeout" not in given


def test_a_launcher_that_is_not_installed_is_reported_with_the_extra(monkeypatch):
    monkeypatch.setattr("simplecnn.errors.find_spec", lambda package: None)
    for override, extra in [
        ("hydra/launcher=ray", "ray"),
        ("hydra/launcher=submitit_slurm", "submitit"),
        ("hydra/launcher=submitit_local", "submitit"),
        ("hydra/sweeper=optuna", "optuna"),
    ]:
        expected = (
            f"{override} needs the package {extra}, which is not installed. "
            f"Type uv sync --extra {extra}, or pip install '.[{extra}]'."
        )
        for check in (compose_config, plan_sweep):
            with pytest.raises(InputError) as error:
                check("train", [override, "data=mnist_5k"])
            assert str(error.value) == expected
