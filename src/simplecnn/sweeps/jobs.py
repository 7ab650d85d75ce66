"""The jobs of a sweep, read from their directories: overrides, status, results.

Does not import torch.
"""

import math
import re
import shlex
import statistics
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from operator import le
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from simplecnn.directories import RECORD as RUN_RECORD
from simplecnn.directories import read_record
from simplecnn.run_directory import CONFIG, RunDirectory
from simplecnn.sweeps.directory import SweepDirectory

SUCCEEDED = ("finished", "pruned")
NOT_STARTED = "not started"
WAS_PRUNED = "pruned by Optuna"  # why the training of a trial ended
STATUSES = (*SUCCEEDED, "failed", "interrupted", "killed", "running", NOT_STARTED)


@dataclass(frozen=True)
class Job:
    """One job of a sweep; `record` is its run.json."""

    path: Path
    name: str  # its directory, relative to that of the sweep
    overrides: Sequence[str]
    status: str  # one of STATUSES
    error: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    monitor: str | None = None
    mode: str = "max"

    @cached_property
    def params(self) -> dict[str, Any]:
        """The overrides as a dict, without those of Hydra itself."""
        parsed = OverridesParser.create().parse_overrides(list(self.overrides))
        values = {override.key_or_group: override.value() for override in parsed}
        return {k: v for k, v in values.items() if not k.startswith(("hydra.", "hydra/"))}

    @property
    def metrics(self) -> Mapping[str, float]:
        """All metrics at the end of the run."""
        return self.record.get("metrics") or {}

    @property
    def best(self) -> Mapping[str, Any]:
        """The monitored `value` and the `epoch` (from 1) of the best checkpoint, {} without one."""
        return self.record.get("best") or {}

    @property
    def criterion(self) -> str:
        """The metric by which jobs are compared: the monitor, or the test accuracy without one."""
        return self.monitor or "test/acc"

    def objective(self, name: str) -> Any:
        """The best value of the monitor, the last of another metric, or num_parameters."""
        last = self.metrics.get(name, self.record.get(name))
        return self.best.get("value", last) if name == self.monitor else last

    @property
    def value(self) -> float | None:
        """The best value of the criterion, else its last value.

        None if it is not finite, or if the job did not succeed: its value would be that of fewer
        epochs than the others.
        """
        value = self.objective(self.criterion)
        is_valid = self.status in SUCCEEDED and value is not None and math.isfinite(value)
        return value if is_valid else None

    @property
    def num_epochs(self) -> int | None:
        """The number of finished epochs; of a job that has no record of its end, as logged."""
        if self.status in ("running", "killed"):
            return max((epoch for epoch, _ in self.curve(self.criterion)), default=None)
        return self.record.get("num_epochs")

    @property
    def seconds(self) -> float | None:
        """Duration of training and testing."""
        seconds = self.record.get("seconds") or {}
        phases = [seconds[phase] for phase in ("fit", "test") if phase in seconds]
        return round(sum(phases), 1) if phases else None

    @property
    def log(self) -> Path | None:
        """The newest log file in the job's directory."""
        return max(self.path.glob("*.log"), key=lambda p: p.stat().st_mtime, default=None)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Pairs of epoch (from 1) and value of a metric, from metrics.csv; [] without that file."""
        values = {}
        with suppress(ValueError):  # damaged: the report of the other jobs is worth more
            for row in RunDirectory(self.path).metric_rows():
                if row.get(metric):
                    values[int(row["epoch"]) + 1] = float(row[metric])
        return list(values.items())


def read_job(path: Path, root: Path | None = None) -> Job:
    """Read the job in the directory `path` of the sweep in `root`."""
    record = read_record(path)
    config = _read_yaml(path / CONFIG)
    config = config if isinstance(config, dict) else {}
    status = record.get("status", "running" if (path / RUN_RECORD).exists() else NOT_STARTED)
    error = str(record.get("error") or "").strip().partition("\n")[0]
    error = re.sub("^(Input|Run)Error: ", "", error)  # their messages are sentences
    if status == "running" and not RunDirectory(path).is_locked():
        status, error = "killed", "its process ended suddenly (kill -9, or out of memory)"
    return Job(
        path=path,
        name=path.relative_to(root or path.parent).as_posix(),
        overrides=_read_yaml(path / ".hydra" / "overrides.yaml") or [],
        status=status,
        error=error,
        record=record,
        monitor=config.get("monitor"),
        mode=config.get("mode", "max"),
    )


def read_jobs(sweep: SweepDirectory) -> list[Job]:
    """Read the jobs of a sweep in their order, followed by those that were not started."""
    paths = sorted((path.parent for path in sweep.path.glob(f"**/{RUN_RECORD}")), key=by_number)
    jobs = [read_job(path, sweep.path) for path in paths]
    started = [job.params for job in jobs]
    for i, overrides in enumerate(sweep.record.get("jobs") or []):
        job = Job(sweep.path / str(i), str(i), overrides, NOT_STARTED)
        if job.params not in started:
            jobs.append(job)
    return jobs


def job_command(sweep: Mapping[str, Any], overrides: Sequence[str]) -> list[str]:
    """The words of the command that reproduces a job on its own.

    sweep: the record of its sweep.
    """
    program, *words = shlex.split(sweep["command"])
    options = [  # the names of the configuration and of its folder
        part
        for word, following in zip(words, [*words[1:], ""], strict=True)
        if word.partition("=")[0] in ("--config-dir", "-cd", "--config-name", "-cn")
        for part in ([word] if "=" in word else [word, following])
    ]
    command = [program, *options, *overrides]
    if any(argument.startswith("hparams_search=") for argument in command):
        command.append("hydra.sweeper.params=null")  # drop the sweeps of that config
    return command


def threads_prefix(sweep: Mapping[str, Any], num_threads: Any) -> str:
    """What precedes the command that reproduces a job of a parallel sweep bit for bit.

    Parallel jobs have fewer threads each, and another number of threads rounds sums differently.
    """
    is_parallel = "hydra/launcher=" in sweep["command"]
    return f"OMP_NUM_THREADS={num_threads} " if is_parallel and num_threads else ""


def by_number(path: Path) -> tuple[float, str]:
    """Sort key of job directories: numbered directories first, then those with a name."""
    return (int(path.name), "") if path.name.isdigit() else (math.inf, str(path))


def rank(jobs: Sequence[Job]) -> tuple[bool, float]:
    """Sort key of groups of jobs: the best mean value first, groups without a value last."""
    values = [job.value for job in jobs if job.value is not None]
    mean = statistics.fmean(values) if values else 0.0
    return not values, -mean if jobs[0].mode == "max" else mean


def objectives_of(sweep: Mapping[str, Any]) -> dict[str, Any]:
    """The direction, max or min, of each objective in the record of a search; {} without one."""
    parsed = OverridesParser.create().parse_overrides(sweep.get("words") or [])
    values: dict[str, Any] = {override.key_or_group: override.value() for override in parsed}
    return values.get("hydra.sweeper.objectives") or {}


def pareto_front(jobs: Sequence[Job], objectives: Mapping[str, str]) -> list[str]:
    """The names of the finished jobs that no other one beats: as good in all, better in one."""
    points = {}
    for job in jobs:
        values = {name: job.objective(name) for name in objectives}
        if job.status == "finished" and None not in values.values():
            points[job.name] = [v if objectives[n] == "max" else -v for n, v in values.items()]
    return [
        name for name, a in points.items()
        if not any(a != b and all(map(le, a, b)) for b in points.values())
    ]  # fmt: skip


def varied_keys(jobs: Sequence[Job]) -> list[str]:
    """The keys whose values differ between jobs, in the order of the command line."""
    keys = dict.fromkeys(key for job in jobs for key in job.params)
    return [k for k in keys if len({repr(job.params.get(k)) for job in jobs}) > 1]


def seed_groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Group jobs that differ only in `seed`, the best mean first.

    Returns an empty list if no two jobs differ only in `seed`.
    """
    keys = [key for key in varied_keys(jobs) if key != "seed"]
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(repr([job.params.get(k) for k in keys]), []).append(job)
    if "seed" not in varied_keys(jobs) or len(groups) == len(jobs):
        return []
    return sorted(groups.values(), key=rank)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """Map each key to its last part, as `lr`, or to the whole key if two keys share that part.

    A `_target_` is named by its parent: it says little, and matplotlib hides labels with a leading
    underscore from legends.
    """
    plain = {key: key.replace("/", ".").removesuffix("._target_") for key in keys}
    last_parts = {key: name.rpartition(".")[2] for key, name in plain.items()}
    names = list(last_parts.values())
    return {key: name if names.count(name) == 1 else key for key, name in last_parts.items()}


def value_text(value: Any) -> str:
    """Format a value as in an override, without spaces; floats have 4 significant digits."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _read_yaml(path: Path) -> Any:
    """The content of a YAML file; None if it cannot be read."""
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except Exception:
        return None
