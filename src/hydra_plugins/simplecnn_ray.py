"""`hydra/launcher=ray`: the jobs of a sweep on a Ray cluster, or in Ray's processes here.

Hydra's own plugin starts them. Here, those that are under way when the sweep is interrupted are
told, and save; and what is lost with a worker is its job. Hydra reads this file at each start, so
nothing heavy is imported before it is used.
"""

import os
import signal
from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, setup_globals
from omegaconf import DictConfig

from simplecnn.sweeps.jobs import SECONDS_TO_END, JobLauncher, job_config

LEAST_MEMORY = 78_643_200  # bytes that Ray takes for its store of objects: ours are tiny


class RayLauncher(JobLauncher):
    """Gives Ray all jobs at once. `ray` holds the arguments of ray.init and of ray.remote."""

    def __init__(self, ray: DictConfig) -> None:
        self.ray = ray

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        # Or Ray answers SIGTERM with a stack of C++, here and in the workers that it starts here.
        os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
        import ray
        from hydra_plugins.hydra_ray_launcher._launcher_util import launch_job_on_ray, start_ray

        setup_globals()
        init = dict(self.ray.init)
        if init.get("address") is None:
            init.setdefault("object_store_memory", LEAST_MEMORY)
        handler = signal.getsignal(signal.SIGTERM)
        start_ray(DictConfig(init))
        signal.signal(signal.SIGTERM, handler)  # Ray took it for itself
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        jobs: list[Any] = []
        try:
            for number, overrides in zip(numbers, job_overrides, strict=True):
                config = job_config(self.hydra_context, self.config, overrides, number)
                jobs.append(
                    launch_job_on_ray(
                        *(self.hydra_context, self.ray.remote, config, self.task_function),
                        Singleton.get_state(),
                    )
                )
            return [
                self._result(job, number, overrides)
                for job, number, overrides in zip(jobs, numbers, job_overrides, strict=True)
            ]
        except (KeyboardInterrupt, SystemExit):
            for job in jobs:
                ray.cancel(job)  # a Ctrl-C in its worker: the job saves, and writes how it ended
            ray.wait(jobs, num_returns=len(jobs), timeout=SECONDS_TO_END)
            raise

    def _result(self, job: Any, number: int, overrides: Sequence[str]) -> JobReturn:
        import ray

        try:
            result: JobReturn = ray.get(job)
            return result
        except ray.exceptions.WorkerCrashedError:
            how = "its process was killed"
        except ray.exceptions.OutOfMemoryError:
            how = "Ray killed its process: the machine is out of memory"
        return self.lost(number, overrides, error=how)


# Not in conf/: Hydra's own plugin has put its configuration here, and this one takes its place.
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
