"""Jobs in other processes: what the launchers for joblib and Ray share.

Hydra imports the launchers at each start, and this with them: nothing heavy is imported here.
"""

import logging
from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins import basic_launcher
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

log = logging.getLogger("simplecnn.sweeps")
SECONDS_TO_END = 20  # for interrupted jobs to record how far they came


class WorkerLauncher(basic_launcher.BasicLauncher):
    """Hydra's basic launcher, but for `launch`, which subclasses give: jobs run in workers."""

    def arguments(self, number: int, overrides: Sequence[str]) -> tuple[Any, ...]:
        """The arguments of `run_in_worker` for one job."""
        basic = basic_launcher.BasicLauncher()  # without what a subclass holds of processes
        basic.setup(
            hydra_context=self.hydra_context,  # type: ignore[arg-type]
            task_function=self.task_function,  # type: ignore[arg-type]
            config=self.config,  # type: ignore[arg-type]
        )
        return basic, number, list(overrides), Singleton.get_state()


def run_in_worker(launcher: Any, number: int, overrides: Sequence[str], state: Any) -> JobReturn:
    """Run one job in this process as the basic launcher does."""
    Singleton.set_state(state)
    result: JobReturn = launcher.launch([overrides], initial_job_idx=number)[0]
    return result


def lost_job(number: int, overrides: Sequence[str], reason: str) -> JobReturn:
    """Log that a job's process is gone: a loss of this job, not of the sweep.

    The report finds the job by its directory: its run says `running`, and nobody runs it.
    """
    log.error("job %d   killed   %s   %s", number, " ".join(overrides), reason)
    return JobReturn(list(overrides), status=JobStatus.COMPLETED)
