"""Doing the jobs of a sweep: each leaves a record, and a report ends it, whatever happens."""

import dataclasses
import gc
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException

from simplecnn.config import composition
from simplecnn.config.spelling import word
from simplecnn.console import only_sweep_lines
from simplecnn.errors import log_error, short
from simplecnn.run_directory import RunDirectory, read_record
from simplecnn.signals import was_requeued
from simplecnn.sweeps.directory import SweepDirectory, listed, source_hashes
from simplecnn.sweeps.plan import SweepPlan

Task = Callable[[dict[str, Any], Path], Any]


class JobFailed(CompactHydraException):
    """One job of a multirun failed; its log says why. The others go on."""


def claim(plan: SweepPlan) -> SweepDirectory:
    """The folder of a sweep, from now on the same for all processes, and in its command."""
    path, words = plan.folder, list(plan.command)
    if not any(w.startswith("hydra.sweep.dir=") for w in words):
        if was_requeued():
            path = SweepDirectory.of_slurm_job(path.parent) or path
        overrides = [w for w in words if not w.startswith("-")]
        last = words.index(overrides[-1]) + 1 if overrides else len(words)
        words.insert(last, word("hydra.sweep.dir", short(path)))
    composition.claimed["sweep"] = str(path)
    return SweepDirectory.claim(
        path,
        words=plan.words,
        jobs=plan.jobs,
        command=[short(sys.argv[0]), *words],
        source=source_hashes(*plan.config_folders),
    )


def do_sweep(run: Callable[[], Any], folder: SweepDirectory) -> int:
    """Do all the jobs and show what came out of them, whatever happens. Gives the exit code."""
    from simplecnn.sweeps import report as room

    code = 1
    succeeded = False
    told: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        told.append(128 + signum)
        sys.exit(128 + signum)

    # While a job runs in this process, it has handlers of its own.
    before = signal.signal(signal.SIGTERM, stop)
    try:
        run()
        code = 0
    except SystemExit as end:
        # Ray raises one of its own.
        code = told[0] if told else end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    finally:
        signal.signal(signal.SIGTERM, before)
        folder.release()
        succeeded = room.report(folder.path)
    return code or int(not succeeded)


def do_job(task: Task, config: dict[str, Any], folder: Path) -> Any:
    """Do one job, unless it was done before; one line on it whatever comes of it.

    A failure is told by the job's record, and to a search, which chooses the next values, by
    JobFailed; nothing holds on to the job.
    """
    from simplecnn.sweeps import report as room

    hydra_config = HydraConfig.get()
    sweep = SweepDirectory.open(hydra_config.sweep.dir)
    sources = [s.path for s in hydra_config.runtime.config_sources if s.schema == "file"]
    changed = sweep.changed(source_hashes(*map(Path, sources)))
    if changed:
        reason = f"{listed(changed)} changed since the sweep was started: no further job begins."
        if sweep.record["process"] == os.getpid():
            print(reason, file=sys.stderr)
            sys.exit(2)
        raise JobFailed(reason)  # in a process of a launcher, which would start another one
    only_sweep_lines()
    jobs = sweep.record["jobs"]
    keys = room.swept(sweep.record["words"])
    tell = partial(
        room.line, number=hydra_config.job.num, total=len(jobs) if jobs else None, keys=keys
    )
    run = RunDirectory(folder)
    before = read_record(folder)
    if before.get("status") == "finished" and run.holds(config):
        room.log.info(tell(room.read_job(folder), note="done before"))
        return room.result(before, config["monitor"])
    value, failure = None, ""
    try:
        value = task(config, folder)
    except Exception as error:
        failure = log_error(error, folder)[1]
    # Outside the except block: the traceback, and the model it holds, can be freed.
    record = read_record(folder)
    if failure and (not record or record.get("status") == "running"):
        run.record = record
        run.update(status="failed", error=failure)
    _free_memory()
    job = room.read_job(folder, under_way=True)
    if failure:
        job = dataclasses.replace(job, status="failed", error=failure)
    room.log.info(tell(job))
    if failure and jobs is None:  # a search is told; Hydra's sweeper would only repeat it
        raise JobFailed(failure)
    return value


def _free_memory() -> None:
    """Give back what a job held in circles of references, and on the GPU."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
