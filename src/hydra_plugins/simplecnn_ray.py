"""`hydra/launcher=ray`: run the jobs of a sweep on a Ray cluster, or with Ray on this machine.

Hydra's Ray launcher aborts the sweep when one job is lost. When the command is interrupted, it
kills its jobs or leaves them running; this launcher interrupts them, and they save their state.
"""

import os
import signal
from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from simplecnn.sweeps.workers import SECONDS_TO_END, WorkerLauncher, lost_job, run_in_worker

MIN_OBJECT_STORE = 78_643_200  # bytes, Ray's minimum: a job's arguments and result are small


class RayLauncher(WorkerLauncher):
    """Submit all jobs to Ray at once.

    ray: the arguments of ray.init in `init`, those of ray.remote in `remote`.
    """

    def __init__(self, ray: Any) -> None:
        self.ray: Any = OmegaConf.to_container(ray, resolve=True)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        # Otherwise Ray prints a C++ stack trace on SIGTERM, in this process and in its workers.
        os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
        # Otherwise, under `uv run`, Ray copies the working directory, runs included, to each
        # worker and runs the jobs in the copy, whose path differs from that in their configuration.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        import ray

        if not ray.is_initialized():
            init = dict(self.ray["init"])
            if init.get("address") is None:
                init.setdefault("object_store_memory", MIN_OBJECT_STORE)
            handler = signal.getsignal(signal.SIGTERM)
            ray.init(**init)
            signal.signal(signal.SIGTERM, handler)  # ray.init replaced it
        remote = ray.remote(**self.ray["remote"])(run_in_worker)
        jobs = list(enumerate(job_overrides, initial_job_idx))
        state = Singleton.get_state()
        tasks = [remote.remote(self.basic, n, list(overrides), state) for n, overrides in jobs]
        results = []
        try:
            for task, (number, overrides) in zip(tasks, jobs, strict=True):
                try:
                    results.append(ray.get(task))
                except ray.exceptions.RayTaskError:  # an exception of the job itself
                    raise
                except ray.exceptions.RayError as error:  # its worker, node or result was lost
                    reason = f"Ray: {type(error).__name__}"
                    results.append(lost_job(number, overrides, reason, job_overrides))
        except (KeyboardInterrupt, SystemExit):
            for task in tasks:
                ray.cancel(task)  # raises KeyboardInterrupt in the job, which writes its record
            ray.wait(tasks, num_returns=len(tasks), timeout=SECONDS_TO_END)
            raise
        return results


# Not in conf/: Hydra's Ray plugin registers the same name in the ConfigStore, which this replaces.
ConfigStore.instance().store(
    group="hydra/launcher",
    name="ray",
    node={
        "_target_": "hydra_plugins.simplecnn_ray.RayLauncher",
        "ray": {
            "init": {"address": None},
            "remote": {"num_cpus": 1, "num_gpus": 0, "max_retries": 3},
        },
    },
    provider="simplecnn",
)
