"""`hydra/launcher=ray`: the jobs of a sweep on a Ray cluster, or in Ray's processes here.

Hydra's own plugin of that name gives up the sweep when one job is lost, and lets its jobs run on,
or kills them, when the command is interrupted: here they save.
"""

import os
import signal
from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from simplecnn.sweeps.workers import SECONDS_TO_END, WorkerLauncher, lost_job, run_in_worker

MIN_OBJECT_STORE = 78_643_200  # bytes, the smallest that Ray takes: our objects are tiny


class RayLauncher(WorkerLauncher):
    """Gives Ray all jobs at once. `ray` holds the arguments of ray.init and of ray.remote."""

    def __init__(self, ray: DictConfig) -> None:
        self.ray: Any = OmegaConf.to_container(ray, resolve=True)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        # Or Ray answers SIGTERM with a stack of C++, here and in the workers that it starts here.
        os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")
        # Or under `uv run` Ray sends the working directory, runs and all, to each worker, where
        # another path stands in the configuration.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        import ray

        if not ray.is_initialized():
            init = dict(self.ray["init"])
            if init.get("address") is None:
                init.setdefault("object_store_memory", MIN_OBJECT_STORE)
            handler = signal.getsignal(signal.SIGTERM)
            ray.init(**init)
            signal.signal(signal.SIGTERM, handler)  # Ray took it for itself
        remote = ray.remote(**self.ray["remote"])(run_in_worker)
        jobs = list(enumerate(job_overrides, initial_job_idx))
        state = Singleton.get_state()
        running = [remote.remote(self.basic, n, list(words), state) for n, words in jobs]
        results = []
        try:
            for job, (number, overrides) in zip(running, jobs, strict=True):
                try:
                    results.append(ray.get(job))
                except ray.exceptions.RayTaskError:  # an exception of the job itself
                    raise
                except ray.exceptions.RayError as error:  # its worker, node or result is lost
                    results.append(lost_job(number, overrides, f"Ray: {type(error).__name__}"))
        except (KeyboardInterrupt, SystemExit):
            for job in running:
                ray.cancel(job)  # a Ctrl-C in its worker: the run records how far it came
            ray.wait(running, num_returns=len(running), timeout=SECONDS_TO_END)
            raise
        return results


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
