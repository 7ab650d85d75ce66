"""The jobs of a sweep, as their directories tell: overrides, status, results. No torch."""

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from simplecnn.run_directory import CONFIG, RunDirectory, read_record
from simplecnn.run_directory import RECORD as RUN_RECORD
from simplecnn.sweeps.directory import SweepDirectory

SUCCEEDED = ("finished", "pruned")
NOT_STARTED = "not started"
STATUSES = (*SUCCEEDED, "failed", "interrupted", "killed", "running", NOT_STARTED)


@dataclass(frozen=True)
class Job:
    """One job of a sweep; `record` is its run.json."""

    path: Path
    name: str  # the directory below that of the sweep
    overrides: Sequence[str]
    status: str  # one of STATUSES
    error: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)
    monitor: str | None = None
    mode: str = "max"

    @cached_property
    def words(self) -> dict[str, Any]:
        """The overrides as keys and values, without those of Hydra itself."""
        parsed = OverridesParser.create().parse_overrides(list(self.overrides))
        values = {word.key_or_group: word.value() for word in parsed}
        return {k: v for k, v in values.items() if not k.startswith(("hydra.", "hydra/"))}

    @property
    def metrics(self) -> Mapping[str, float]:
        """All metrics at the end of the run."""
        return self.record.get("metrics") or {}

    @property
    def best(self) -> Mapping[str, Any]:
        """Of the best checkpoint: `value` of the monitor, `epoch` from 1; empty without one."""
        return self.record.get("best") or {}

    @property
    def criterion(self) -> str:
        """The metric that jobs are compared by; without a monitor, the test accuracy."""
        return self.monitor or "test/acc"

    @property
    def value(self) -> float | None:
        """The best value of the criterion, else its last one; None where it is not finite."""
        value = self.best.get("value", self.metrics.get(self.criterion))
        return value if value is not None and math.isfinite(value) else None

    @property
    def seconds(self) -> float | None:
        """Time of training and test."""
        seconds = self.record.get("seconds") or {}
        phases = [seconds[phase] for phase in ("fit", "test") if phase in seconds]
        return round(sum(phases), 1) if phases else None

    @property
    def log(self) -> Path | None:
        """The newest log in the job's directory."""
        return max(self.path.glob("*.log"), key=lambda p: p.stat().st_mtime, default=None)

    def curve(self, metric: str) -> list[tuple[int, float]]:
        """Epochs (from 1) and values of a metric, from metrics.csv; empty without one."""
        path = self.path / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row.get(metric) and row.get("epoch")]
        return list({int(row["epoch"]) + 1: float(row[metric]) for row in rows}.items())


def read_job(path: Path, root: Path | None = None) -> Job:
    """The job in the directory `path` of the sweep in `root`."""
    record = read_record(path)
    config = _yaml(path / CONFIG) or {}
    status = record.get("status", "running" if (path / RUN_RECORD).exists() else NOT_STARTED)
    error = str(record.get("error") or "").strip().partition("\n")[0]
    if status == "running" and not RunDirectory(path).is_locked():
        status, error = "killed", "its process ended without a record: killed, or out of memory"
    return Job(
        path=path,
        name=path.relative_to(root or path.parent).as_posix(),
        overrides=_yaml(path / ".hydra" / "overrides.yaml") or [],
        status=status,
        error=error,
        record=record,
        monitor=config.get("monitor"),
        mode=config.get("mode", "max"),
    )


def read_jobs(sweep: SweepDirectory) -> list[Job]:
    """The jobs of a sweep in their order, and after them those that were not started."""
    paths = sorted((path.parent for path in sweep.path.glob(f"**/{RUN_RECORD}")), key=number)
    jobs = [read_job(path, sweep.path) for path in paths]
    started = [job.words for job in jobs]
    for i, overrides in enumerate(sweep.record.get("jobs") or []):
        job = Job(sweep.path / str(i), str(i), overrides, NOT_STARTED)
        if job.words not in started:
            jobs.append(job)
    return jobs


def number(path: Path) -> tuple[float, str]:
    """Sorts the directories of jobs: by number, then those with a name."""
    return (int(path.name), "") if path.name.isdigit() else (math.inf, str(path))


def rank(jobs: Sequence[Job]) -> tuple[bool, float]:
    """Sorts jobs, or groups of jobs: the best mean first, those without a value last."""
    values = [job.value for job in jobs if job.value is not None]
    mean = statistics.fmean(values) if values else 0.0
    return not values, -mean if jobs[0].mode == "max" else mean


def varied(jobs: Sequence[Job]) -> list[str]:
    """The keys whose values differ from job to job, in the order they were typed."""
    keys = dict.fromkeys(key for job in jobs for key in job.words)
    return [k for k in keys if len({repr(job.words.get(k)) for job in jobs}) > 1]


def seed_groups(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs that differ in nothing but `seed`, best mean first; empty where no seed is repeated."""
    keys = [key for key in varied(jobs) if key != "seed"]
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(repr([job.words.get(k) for k in keys]), []).append(job)
    if "seed" not in varied(jobs) or len(groups) == len(jobs):
        return []
    return sorted(groups.values(), key=rank)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each key, `lr` or `batch_size`; the whole key where two end alike."""
    last = {key: key.replace("/", ".").rpartition(".")[2] for key in keys}
    names = list(last.values())
    return {key: name if names.count(name) == 1 else key for key, name in last.items()}


def value_text(value: Any) -> str:
    """A value as one would type it, without blanks."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _yaml(path: Path) -> Any:
    """What a YAML file holds; None where it cannot be read."""
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except Exception:
        return None
