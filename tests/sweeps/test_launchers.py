"""Jobs of a sweep side by side: joblib's processes, a Ray cluster, submitit's local executor."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from children import start
from conftest import ROOT

from hydra_plugins.simplecnn_joblib import JoblibLauncher, worker_environments
from simplecnn.config import composition, devices
from simplecnn.config.composition import compose_config
from simplecnn.errors import InputError
from simplecnn.sweeps.plan import plan_sweep

SMALL = ["-m", "hydra.sweep.dir=sweep", "data=mnist_5k", "trainer=cpu", "trainer.max_epochs=2",
         "+trainer.limit_train_batches=8", "model.network.channels=[4,8]",
         "callbacks=[checkpoint]", "logger=csv"]  # fmt: skip

# Kills its own process at the end of the second epoch of the run with seed 2, once.
KILLER = """
import os, signal
from pathlib import Path
from pytorch_lightning import Callback

class Killer(Callback):
    def on_train_epoch_end(self, trainer, module):
        flag = Path("killed")
        if os.environ.get("PL_GLOBAL_SEED") == "2" and trainer.current_epoch == 1:
            if not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
"""


def python_path(folder: Path) -> str:
    """Where Python looks for modules, and first in `folder`."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def records(folder: Path) -> list[dict]:
    paths = sorted((folder / "sweep").glob("*/run.json"), key=lambda p: int(p.parent.name))
    return [json.loads(path.read_text()) for path in paths]


def test_workers_share_the_cores_and_are_given_one_gpu_each(monkeypatch):
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


@pytest.mark.long
def test_a_killed_worker_costs_its_job_and_the_same_command_finishes_it(tmp_path):
    (tmp_path / "killer.py").write_text(KILLER)
    words = ["seed=1,2,3,4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
             "+callbacks.killer._target_=killer.Killer"]  # fmt: skip
    own = {"PYTHONPATH": python_path(tmp_path), "SIMPLECNN_TARGETS": "killer.Killer"}
    done = start(tmp_path, "train.py", *SMALL, *words, **own)
    assert done.returncode == 1, done.stderr
    found = records(tmp_path)
    assert [r["status"] for r in found] == ["finished", "running", "finished", "finished"]
    assert "4 jobs: 3 finished, 1 killed." in done.stdout
    assert "job 1 killed: its process ended without a record: killed, or out of " in done.stdout
    assert [r["device"]["num_threads"] for r in found] == [max(1, os.cpu_count() // 2)] * 4
    assert "2 jobs at a time, threads of each: " in done.stdout
    assert re.search(r"^job 1   killed .* seed=2 .*out of memory", done.stderr, re.M)
    assert "Traceback" not in done.stdout + done.stderr

    done = start(tmp_path, "train.py", *SMALL, *words, **own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished before") == 3
    after = records(tmp_path)
    assert [r["status"] for r in after] == ["finished"] * 4
    assert [after[i] == found[i] for i in range(4)] == [True, False, True, True]
    assert after[1]["num_epochs"] == 2 and len(after[1]["continued"]) == 1


# Says which process it is in, and takes its time.
SLOW = """
import os, time
from pathlib import Path
from pytorch_lightning import Callback

class Slow(Callback):
    def on_train_epoch_end(self, trainer, module):
        Path(f"pid_{os.getpid()}").touch()
        time.sleep(0.2)
"""


@pytest.mark.long
def test_workers_end_with_a_command_that_is_killed(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    words = ["seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2",
             "trainer.max_epochs=1000", "+callbacks.slow._target_=slow.Slow"]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, ROOT / "scripts" / "train.py", *SMALL, *words], cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": python_path(tmp_path), "SIMPLECNN_TARGETS": "slow.Slow"},
    )  # fmt: skip
    try:
        pids = wait_for(lambda: [int(p.name[4:]) for p in tmp_path.glob("pid_*")], 2, seconds=200)
    finally:
        process.kill()
        process.wait()
    wait_for(lambda: [pid for pid in pids if not is_alive(pid)], 2, seconds=60)
    assert [r["status"] for r in records(tmp_path)] == ["interrupted"] * 2


def wait_for(look: Callable[[], list[int]], length: int, *, seconds: float) -> list[int]:
    """What `look` gives, once there is so much of it."""
    end = time.monotonic() + seconds
    while len(found := look()) < length:
        assert time.monotonic() < end, found
        time.sleep(0.2)
    return found


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def ray_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of two nodes with one core each, on this machine; no other one is touched."""
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


# Ends the processes that it started, and those alone.
CLUSTER = """
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=node)
cluster.add_node(num_cpus=1, object_store_memory=80_000_000)
print("address", cluster.address, flush=True)
input()
cluster.shutdown()
"""


@pytest.mark.long
def test_ray_runs_the_jobs_on_its_nodes_and_a_stop_reaches_them(tmp_path, ray_address):
    words = ["seed=1,2", "hydra/launcher=ray", f"hydra.launcher.ray.init.address='{ray_address}'",
             "trainer.max_epochs=50"]  # fmt: skip
    command = [sys.executable, ROOT / "scripts" / "train.py", *SMALL, *words]
    checkpoints = tmp_path / "sweep"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as head:
        wait_for(lambda: [1 for _ in checkpoints.glob("*/checkpoints/last.ckpt")], 2, seconds=200)
        head.terminate()
        shown, _ = head.communicate(timeout=60)
    assert head.returncode == 143 and "resume   " in shown, shown
    before = records(tmp_path)
    assert [r["status"] for r in before] == ["interrupted"] * 2

    done = start(tmp_path, "train.py", *SMALL, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found = records(tmp_path)
    assert [(r["status"], r["seed"]) for r in found] == [("finished", 1), ("finished", 2)]
    assert all(len(r["continued"]) == 1 and r["num_epochs"] == 50 for r in found)
    assert (tmp_path / "sweep" / "sweep.csv").read_text().count("finished") == 2


@pytest.mark.long
def test_submitit_runs_each_job_in_a_process_of_its_own(tmp_path):
    words = ["seed=1,2", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"]
    done = start(tmp_path, "train.py", *SMALL, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    found = records(tmp_path)
    assert [(r["status"], r["seed"]) for r in found] == [("finished", 1), ("finished", 2)]
    assert len(list((tmp_path / "sweep" / ".submitit").glob("*/*_result.pkl"))) == 2


def test_a_launcher_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setattr(composition, "_is_installed", lambda module: False)
    for word, extra in [
        ("hydra/launcher=ray", "ray"),
        ("hydra/launcher=submitit_slurm", "submitit"),
        ("hydra/launcher=submitit_local", "submitit"),
        ("hydra/sweeper=optuna", "optuna"),
    ]:
        expected = (
            f"{word} needs what a plain installation leaves out. "
            f"Type uv sync --extra {extra}, or pip install 'simplecnn[{extra}]'."
        )
        for check in (compose_config, plan_sweep):
            with pytest.raises(InputError) as error:
                check("train", [word, "data=mnist_5k"])
            assert str(error.value) == expected
