"""Jobs in other processes: what the launchers for joblib and Ray share.

Hydra imports the launchers at each start, and this with them: nothing heavy is imported here.
"""

import logging
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

log = logging.getLogger("simplecnn.sweeps")
SECONDS_TO_END = 20  # for interrupted jobs to record how far they came


class WorkerLauncher(Launcher):
    """Subclasses give `launch`, which has workers do `run_in_worker(self.basic, …)`."""

    def setup(self, **hydra: Any) -> None:
        self.basic = BasicLauncher()
        self.basic.setup(**hydra)


def run_in_worker(
    launcher: BasicLauncher, number: int, overrides: Sequence[str], singletons: Any
) -> JobReturn:
    """Run one job in this process, with Hydra's own launcher and the head's `singletons`."""
    Singleton.set_state(singletons)
    return launcher.launch([overrides], initial_job_idx=number)[0]


def lost_job(number: int, overrides: Sequence[str], reason: str) -> JobReturn:
    """Log that a job's process is gone: a loss of this job, not of the sweep.

    The report finds the job by its directory: its run says `running`, and nobody runs it.
    """
    log.error("job %d   killed   %s   %s", number, " ".join(overrides), reason)
    return JobReturn(list(overrides), status=JobStatus.COMPLETED)
