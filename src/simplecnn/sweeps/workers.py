"""Code shared by the launchers that run jobs in other processes.

Hydra imports its plugins at every start, so this module must not import anything slow.
"""

import copy
import logging
import threading
from collections.abc import Sequence
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, read_write

log = logging.getLogger("simplecnn.sweeps")
SECONDS_TO_END = 20  # grace period in which interrupted jobs write their records


class WorkerLauncher(Launcher):
    """Base class: `launch` of a subclass calls `run_in_worker(self.basic, …)` in its workers."""

    def setup(self, *, config: DictConfig, **hydra: Any) -> None:
        config = copy.deepcopy(config)
        with read_write(config):
            config.hydra.launcher = ConfigStore.instance().load("hydra/launcher/basic.yaml").node
        self.basic = Plugins.instance().instantiate_launcher(config=config, **hydra)


def run_in_worker(
    launcher: Launcher, number: int, overrides: Sequence[str], singletons: Any
) -> JobReturn:
    """Run one job in this process by Hydra's basic launcher, with the main process's singletons."""
    from tqdm import tqdm

    # tqdm's default lock has a semaphore, about whose leak Python warns if the worker is killed.
    tqdm.set_lock(threading.RLock())
    Singleton.set_state(singletons)
    return launcher.launch([overrides], initial_job_idx=number)[0]


def lost_job(
    number: int, overrides: Sequence[str], reason: str, all_jobs: Sequence[Sequence[str]]
) -> JobReturn:
    """Log that a job was lost with its worker, and return a result that lets the sweep continue.

    The report lists the job as killed: its record says `running`, but no process locks it.
    `all_jobs` has the overrides of all jobs: those that all of them share are not logged.
    """
    varied = [text for text in overrides if any(text not in job for job in all_jobs)]
    parts = [f"job {number}", "killed", " ".join(varied), reason]
    log.error("   ".join(filter(None, parts)))
    return JobReturn(list(overrides), status=JobStatus.COMPLETED)
