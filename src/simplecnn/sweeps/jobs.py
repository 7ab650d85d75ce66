"""The jobs of a sweep in processes of their own: what their launchers share. Hydra only.

Hydra reads the launchers at each start, and this with them: nothing heavy is imported here.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

log = logging.getLogger("simplecnn.sweeps.report")
SECONDS_TO_END = 20  # for jobs that are interrupted to write how far they came


def job_config(
    hydra_context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int
) -> DictConfig:
    """The configuration of job `number`."""
    job = hydra_context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(job):
        job.hydra.job.id = job.hydra.job.num = number
    return job


class JobLauncher(Launcher):
    """Keeps what Hydra gives every launcher. Subclasses give `launch`."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def lost(self, number: int, overrides: Sequence[str], *, error: str | None) -> JobReturn:
        """Record in a job's folder that its process is gone, and say so.

        `error` is None where the job itself has written how it ended. What is returned does not
        raise: the sweep goes on, and its report tells from the record.
        """
        from simplecnn.run_directory import RunDirectory, read_record
        from simplecnn.sweeps import report as sweep
        from simplecnn.sweeps.directory import SweepDirectory

        config = job_config(self.hydra_context, self.config, overrides, number)
        hydra = config.hydra
        run = RunDirectory(Path(str(hydra.sweep.dir), str(hydra.sweep.subdir)).absolute())
        run.record = read_record(run.path)
        if run.record and error:
            run.update(status="interrupted", error=error)
        record = SweepDirectory.open(hydra.sweep.dir).record
        total = len(record["jobs"]) if record["jobs"] else None
        job = sweep.read_job(run.path)
        log.error(sweep.line(job, number=number, total=total, keys=sweep.swept(record["words"])))
        result = JobReturn(list(overrides), hydra_cfg=config, status=JobStatus.COMPLETED)
        with open_dict(config):
            config.hydra.runtime.output_dir = str(run.path)
        return result
