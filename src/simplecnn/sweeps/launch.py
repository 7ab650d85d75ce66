"""Run the jobs of a sweep: each job writes a record, and a report follows, however they end."""

import dataclasses
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from simplecnn.config.build import target_nodes
from simplecnn.config.spelling import format_override
from simplecnn.config.targets import local_file, working_dir
from simplecnn.console import show_only_sweep_messages
from simplecnn.directories import read_record
from simplecnn.errors import log_error, relative_path
from simplecnn.run_directory import RunDirectory, command_line
from simplecnn.signals import SignalHandler
from simplecnn.slurm import slurm_job, was_requeued
from simplecnn.sweeps import report
from simplecnn.sweeps.directory import RECORD, SweepDirectory, own_hashes, source_hashes
from simplecnn.sweeps.jobs import (
    NOT_STARTED,
    WAS_PRUNED,
    job_command,
    read_job,
    read_jobs,
    threads_prefix,
)
from simplecnn.sweeps.plan import SweepPlan

log = logging.getLogger("simplecnn.sweeps")
SECONDS_TO_RECORD = 6
Task = Callable[[dict[str, Any], Path], Any]


def run_sweep(run: Callable[[], Any], plan: SweepPlan) -> int:
    """Run all jobs by calling `run`, Hydra's main function, and write the report.

    Returns the exit code, 0 if all jobs succeeded. Raises InputError before the first job if the
    directory cannot be locked.
    """
    directory = _lock_directory(plan)
    PrepareSweep.directory = directory.path
    stop = SignalHandler()
    # A job that runs in this process replaces this handler with its own.
    previous_handler = signal.signal(signal.SIGTERM, stop.receive)
    code, succeeded = 1, False
    try:
        print(start_message(directory, plan), flush=True)
        if plan.jobs is None:
            from simplecnn.sweeps.search import check_study

            check_study(directory.path)
        run()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    finally:
        # A second Ctrl-C must not interrupt the report, which says how to resume.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        if code > 128:
            _wait_for_records(directory)
        PrepareSweep.directory = None
        directory.release()
        try:
            succeeded = report.report(directory.path)
        finally:
            signal.signal(signal.SIGINT, interrupt)
            signal.signal(signal.SIGTERM, previous_handler)
    if stop.received:  # takes precedence over Ray's own exit code
        return 128 + stop.received
    return code or int(not succeeded)


def _wait_for_records(directory: SweepDirectory) -> None:
    """Wait while interrupted jobs write their records, as those of submitit's local executor do."""
    end = time.monotonic() + SECONDS_TO_RECORD
    while any(job.status == "running" for job in read_jobs(directory)) and time.monotonic() < end:
        time.sleep(0.1)


def start_message(directory: SweepDirectory, plan: SweepPlan) -> str:
    """The number of jobs and their directory; the progress of a sweep that is resumed."""
    search = plan.configs[0][1].hydra.sweeper if plan.jobs is None else None
    number = report.num_jobs(search.n_trials if search else len(plan.jobs or ()))
    message = f"{number} in {relative_path(directory.path)}, numbered from 0"
    if search:  # the sweeper logs the progress of a resumed study
        return f"{message}; Optuna chooses their values"
    jobs = read_jobs(directory)
    if all(job.status == NOT_STARTED for job in jobs):
        return message
    return f"{message}\nResuming the sweep: {report.counts(jobs)}."


def _lock_directory(plan: SweepPlan) -> SweepDirectory:
    """Lock the directory of a sweep and record the command that resumes the sweep in it."""
    path, arguments = plan.folder, sys.argv[1:]
    if not any(argument.startswith("hydra.sweep.dir=") for argument in arguments):
        if was_requeued():
            path = _directory_of_slurm_job(path.parent) or path
        overrides = [i for i, a in enumerate(arguments) if "=" in a and not a.startswith("-")]
        first_override = min(overrides, default=len(arguments))
        arguments.insert(first_override, format_override("hydra.sweep.dir", relative_path(path)))
    return SweepDirectory.resume_or_create(
        path,
        overrides=plan.overrides,
        jobs=plan.jobs,
        command=[relative_path(sys.argv[0]), *arguments],
        source={**source_hashes(*plan.config_folders), **own_hashes(_own_files(plan), Path.cwd())},
    )


def _own_files(plan: SweepPlan) -> set[Path]:
    """The files below the working directory whose classes the jobs name by `_target_`."""
    nodes = (node for values, _ in plan.configs for _, node in target_nodes(values))
    modules = {str(node["_target_"]).rpartition(".")[0] for node in nodes}
    return {file for module in modules if (file := local_file(module))}


def _directory_of_slurm_job(root: Path) -> Path | None:
    """The sweep below `root` that this SLURM job started before it was requeued."""
    for record in sorted(root.glob(f"*/{RECORD}"), reverse=True):
        if SweepDirectory.open(record.parent).record.get("slurm_job") == slurm_job():
            return record.parent
    return None


class PrepareSweep(Callback):
    """Hydra callback that makes hydra.sweep.dir absolute before the first job.

    Workers may run in another working directory. Configured in conf/hydra/default.yaml.
    """

    directory: ClassVar[Path | None] = None  # of the sweep that this process runs

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        if self.directory is None:  # a command other than train
            return
        path = os.path.abspath(self.directory)
        with read_write(config.hydra), open_dict(config.hydra):
            config.hydra.sweep.dir = path
            # Workers compose the configuration of their jobs from these overrides.
            config.hydra.overrides.hydra.append(format_override("hydra.sweep.dir", path))


def current_sweep() -> SweepDirectory:
    """The sweep of the job that this process runs."""
    hydra = HydraConfig.get()
    return SweepDirectory.open(Path(hydra.runtime.cwd, hydra.sweep.dir))


def own_command() -> str:
    """The command that reproduces the job that this process runs on its own."""
    overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)
    record = current_sweep().record
    threads = threads_prefix(record, os.environ.get("OMP_NUM_THREADS"))
    return threads + command_line(job_command(record, overrides))


def run_job(task: Task, config: dict[str, Any], folder: Path) -> float | None:
    """Run one job, unless it has already finished, and log its result in one line.

    Returns the value by which sweepers compare jobs. A failed job does not raise, so that the
    other jobs run; its record holds the error.
    """
    hydra = HydraConfig.get()
    sweep = current_sweep()
    sources = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]
    show_only_sweep_messages()
    run, error, status = RunDirectory(folder), "", ""
    try:
        if read_record(folder).get("status") == "finished" and run.has_config(config):
            status = "already finished"
        else:
            sweep.check_source(source_hashes(*sources), working_dir())
            task(config, folder)
    except Exception as failure:
        error = log_error(failure)[1]
    finally:
        run.record = read_record(folder)
        if error and run.record.get("status", "running") == "running":
            run.update(status="failed", error=error)
        job = read_job(folder)
        if error:
            job = dataclasses.replace(job, status="failed", error=error)
        if not status and str(run.record.get("ended")).endswith(WAS_PRUNED):
            status = f"pruned after epoch {job.num_epochs}"
        log.info(report.job_line(job, sweep.record, number=hydra.job.num, status=status))
    gc.collect()  # free reference cycles, such as the traceback of a failed job with its model
    return job.value
