"""Running the jobs of a sweep: each leaves a record, and a report ends it, whatever happens."""

import dataclasses
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict, read_write

from simplecnn.config.spelling import word
from simplecnn.console import only_sweep_lines
from simplecnn.errors import log_error, short
from simplecnn.run_directory import RunDirectory, read_record
from simplecnn.signals import Stop
from simplecnn.slurm import slurm_job, was_requeued
from simplecnn.sweeps import report
from simplecnn.sweeps.directory import RECORD, SweepDirectory, source_hashes
from simplecnn.sweeps.jobs import read_job
from simplecnn.sweeps.plan import SweepPlan

log = logging.getLogger("simplecnn.sweeps")
Task = Callable[[dict[str, Any], Path], Any]


def run_sweep(run: Callable[[], Any], plan: SweepPlan) -> int:
    """Run all jobs by `run`, which is Hydra's, and report on them however they ended.

    Returns the exit code, 0 where all jobs succeeded. Raises InputError before the first job
    where the directory cannot be locked.
    """
    directory = claim(plan)
    PrepareSweep.directory = directory.path
    stop = Stop()
    # While a job runs in this process, it has handlers of its own.
    before = signal.signal(signal.SIGTERM, stop.receive)
    code, succeeded = 1, False
    try:
        run()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)
        PrepareSweep.directory = None
        directory.release()
        succeeded = report.report(directory.path)
    if stop.received:  # Ray exits with a code of its own
        return 128 + stop.received
    return code or int(not succeeded)


def claim(plan: SweepPlan) -> SweepDirectory:
    """Lock the directory of a sweep, and name it in the command that resumes the sweep."""
    path, words = plan.folder, list(plan.command)
    if not any(w.startswith("hydra.sweep.dir=") for w in words):
        if was_requeued():
            path = _directory_of_slurm_job(path.parent) or path
        overrides = [i for i, w in enumerate(words) if "=" in w and not w.startswith("-")]
        words.insert(min(overrides, default=len(words)), word("hydra.sweep.dir", short(path)))
    return SweepDirectory.claim(
        path,
        words=plan.words,
        jobs=plan.jobs,
        command=[short(sys.argv[0]), *words],
        source=source_hashes(*plan.config_folders),
    )


def _directory_of_slurm_job(root: Path) -> Path | None:
    """The sweep below `root` that this SLURM job began before it was requeued."""
    for record in sorted(root.glob(f"*/{RECORD}"), reverse=True):
        if SweepDirectory.open(record.parent).record.get("slurm_job") == slurm_job():
            return record.parent
    return None


class PrepareSweep(Callback):
    """Hydra's callback, named in conf/hydra/default.yaml: what is done once, before the jobs.

    Names the sweep's directory from the root, for jobs in processes of another working directory.
    """

    directory: ClassVar[Path | None] = None  # of the sweep of this process

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self.directory is None:  # another command than train
            return
        path = os.path.abspath(self.directory)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweep.dir = path
            # Each job is composed from these words, in its own process.
            config.hydra.overrides.hydra.append(word("hydra.sweep.dir", path))


def run_job(task: Task, config: dict[str, Any], folder: Path) -> float | None:
    """Do one job, unless it has finished before, and log one line on it however it ended.

    A job that fails raises nothing: its record says why, and the others run. Returns what jobs
    are compared by, for sweepers that search.
    """
    hydra = HydraConfig.get()
    sweep = SweepDirectory.open(Path(hydra.runtime.cwd, hydra.sweep.dir))
    sources = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]
    only_sweep_lines()
    run, error, note = RunDirectory(folder), "", ""
    try:
        if read_record(folder).get("status") == "finished" and run.holds(config):
            note = "finished before"
        else:
            sweep.check_source(source_hashes(*sources))
            task(config, folder)
    except Exception as failure:
        error = log_error(failure, folder)[1]
    finally:
        run.record = read_record(folder)
        if error and run.record.get("status", "running") == "running":
            run.update(status="failed", error=error)
        job = read_job(folder)
        if error:
            job = dataclasses.replace(job, status="failed", error=error)
        log.info(report.line(job, sweep.record, number=hydra.job.num, note=note))
    gc.collect()  # what the job held in reference cycles, a failed one's model with its traceback
    return job.value
