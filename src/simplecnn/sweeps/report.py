"""Many runs: what became of each, which is the best, and what the values have to do with it.

Everything is read from the folders of the jobs, so that a report can be made again at any time.
No torch.
"""

import csv
import io
import logging
import math
import os
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from simplecnn.page.sweep import PAGE, write_sweep_page
from simplecnn.run_directory import CONFIG, read_record, short, tensorboard
from simplecnn.run_directory import RECORD as RUN_RECORD
from simplecnn.sweeps.directory import SweepDirectory

log = logging.getLogger(__name__)
TABLE, TEXT, PICTURE = "sweep.csv", "sweep.md", "sweep.png"
NUM_CURVES = 5
SUCCEEDED = ("finished", "pruned")
NOT_BEGUN = ("waiting", "not run")
Row = dict[str, str]


@dataclass(frozen=True)
class Job:
    """One job of a sweep, as its folder tells."""

    path: Path
    name: str  # of the folder, below the sweep's
    words: Mapping[str, Any]  # what was typed for it, key and value
    status: str  # finished, failed, interrupted, pruned, running, killed, waiting, not run
    monitor: str | None = None
    mode: str = "max"
    best: float | None = None
    best_epoch: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)  # at the end
    seconds: float | None = None
    num_epochs: int | None = None
    error: str = ""  # its first line
    log: Path | None = None

    @property
    def value(self) -> float | None:
        """What jobs are compared by: the monitor's best value, else its last."""
        value = self.best if self.best is not None else self.metrics.get(self.criterion)
        return value if value is not None and math.isfinite(value) else None

    @property
    def criterion(self) -> str:
        """The metric of `value`; without a monitor, the accuracy on the test set."""
        return self.monitor or "test/acc"

    def rank(self) -> tuple[bool, float]:
        """Best first when sorted; jobs without a value last."""
        value = self.value
        if value is None:
            return True, 0.0
        return False, -value if self.mode == "max" else value


@dataclass(frozen=True)
class Group:
    """Jobs that differ in their seed only."""

    values: Mapping[str, Any]
    jobs: Sequence[Job]

    def mean(self, metric: str | None = None) -> str:
        """Mean ± standard deviation (n) of `metric`, or of what jobs are compared by."""
        numbers = [j.metrics.get(metric) if metric else j.value for j in self.jobs]
        found = [n for n in numbers if n is not None and math.isfinite(n)]
        if not found:
            return ""
        percent = is_share(metric or self.jobs[0].criterion)
        return spread(found, percent=percent)

    def rank(self) -> tuple[bool, float]:
        ranks = [job.rank() for job in self.jobs]
        numbers = [number for nothing, number in ranks if not nothing]
        return not numbers, statistics.fmean(numbers) if numbers else 0.0


def report(folder: Path) -> bool:
    """Show what came out of the sweep in `folder`, and write it there. Whether all succeeded."""
    sweep = SweepDirectory.open(folder)
    jobs = sorted(read_jobs(sweep), key=Job.rank)
    path = sweep.path
    (path / TABLE).write_text(csv_text(jobs), encoding="utf-8", newline="")
    has_picture = any(job.value is not None for job in jobs)
    if has_picture:
        draw(jobs, path / PICTURE)
    text = markdown(jobs, sweep.record, has_picture=has_picture)
    (path / TEXT).write_text(text, encoding="utf-8")
    if jobs:
        write_sweep_page(path, page_data(jobs, sweep.record, path))
    print(screen_text(jobs, sweep.record, path, has_picture=has_picture), flush=True)
    return bool(jobs) and all(job.status in SUCCEEDED for job in jobs)


def read_jobs(sweep: SweepDirectory) -> list[Job]:
    """The jobs in a sweep's folder, and those that have not begun, in their order."""
    under_way = sweep.is_locked()
    found = {
        path.parent.parent if path.parent.name == ".hydra" else path.parent
        for pattern in (f"**/{RUN_RECORD}", "**/.hydra/overrides.yaml")
        for path in sweep.path.glob(pattern)
    }
    jobs = [read_job(path, sweep.path, under_way=under_way) for path in sorted(found, key=_number)]
    planned = [_words(words) for words in sweep.record.get("jobs") or []]
    begun = [dict(job.words) for job in jobs]
    for i, words in enumerate(planned):
        if words not in begun:
            status = "waiting" if under_way else "not run"
            jobs.append(Job(sweep.path / str(i), str(i), words, status))
    return jobs


def read_job(path: Path, root: Path | None = None, *, under_way: bool = False) -> Job:
    """The job in the folder `path`. `under_way`: whether a process may still be at it."""
    name = path.relative_to(root).as_posix() if root else path.name
    overrides = path / ".hydra" / "overrides.yaml"
    words = _words(_yaml(overrides) or []) if overrides.is_file() else {}
    record = read_record(path)
    config = _yaml(path / CONFIG) or {}
    status = record.get("status", "running")
    best = record.get("best") or {}
    error = str(record.get("error") or "").strip().splitlines()
    if status == "running" and not under_way:
        status = "killed"
        error = error or ["its process ended without a word: out of memory, or killed"]
    logs = sorted(path.glob("*.log"), key=lambda p: p.stat().st_mtime)
    seconds = record.get("seconds") or {}
    phases = [seconds[phase] for phase in ("fit", "test") if phase in seconds]
    return Job(
        path=path,
        name=name,
        words=words,
        status=status,
        monitor=config.get("monitor"),
        mode=config.get("mode", "max"),
        best=best.get("value"),
        best_epoch=best.get("epoch"),
        metrics=record.get("metrics") or {},
        seconds=round(sum(phases), 1) if phases else None,
        num_epochs=record.get("num_epochs"),
        error=error[0] if error else "",
        log=logs[-1] if logs else None,
    )


def result(record: Mapping[str, Any], monitor: str | None) -> float | None:
    """What a finished run returned, from its record: the monitor's best value, else its last."""
    if record.get("best"):
        return record["best"]["value"]
    return record["metrics"].get(monitor) if monitor else None


def varied(jobs: Sequence[Job]) -> list[str]:
    """The keys whose values differ from job to job, in the order they were typed."""
    keys = list(dict.fromkeys(key for job in jobs for key in job.words))
    return [k for k in keys if len({repr(job.words.get(k)) for job in jobs}) > 1]


def swept(words: Sequence[str]) -> list[str]:
    """The keys that have several values in the words of a sweep."""
    parser = OverridesParser.create()
    parsed = [parser.parse_override(word) for word in words]
    return list(dict.fromkeys(p.key_or_group for p in parsed if p.is_sweep_override()))


def groups(jobs: Sequence[Job]) -> list[Group]:
    """Jobs that differ in nothing but `seed`, best mean first; empty where no seed is repeated."""
    keys = varied(jobs)
    if "seed" not in keys:
        return []
    others = [key for key in keys if key != "seed"]
    together: dict[str, list[Job]] = {}
    for job in jobs:
        together.setdefault(repr([job.words.get(k) for k in others]), []).append(job)
    found = [Group({k: js[0].words.get(k) for k in others}, js) for js in together.values()]
    return sorted(found, key=Group.rank) if any(len(g.jobs) > 1 for g in found) else []


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest ending of each key that no other key shares: `lr`, `batch_size`."""
    names = {}
    for key in keys:
        parts = key.replace("/", ".").split(".")
        for n in range(1, len(parts) + 1):
            ending = ".".join(parts[-n:])
            same = [k for k in keys if f".{k}".replace("/", ".").endswith(f".{ending}")]
            if len(same) == 1:
                break
        names[key] = ending
    return names


def is_share(metric: str) -> bool:
    """Whether a metric is from 0 to 1 and shown in per cent."""
    return metric.endswith("acc")


def number_text(metric: str, value: float | None) -> str:
    """98.76 for an accuracy in per cent, 0.0412 for anything else."""
    if value is None:
        return ""
    return f"{100 * value:.2f}" if is_share(metric) else f"{value:.4f}"


def spread(numbers: Sequence[float], *, percent: bool = False) -> str:
    """`98.76 ± 0.08 (3)`: mean, standard deviation of the sample, n."""
    factor, digits = (100.0, 2) if percent else (1.0, 4)
    mean = factor * statistics.fmean(numbers)
    if len(numbers) == 1:
        return f"{mean:.{digits}f} (1)"
    deviation = factor * statistics.stdev(numbers)
    return f"{mean:.{digits}f} ± {deviation:.{digits}f} ({len(numbers)})"


def value_text(value: Any) -> str:
    """A value as one would type it, without blanks."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def command(job: Job, script: str) -> str:
    """What to type to do this one job again, alone."""
    words = _yaml(job.path / ".hydra" / "overrides.yaml")
    typed = words if words else [f"{k}={value_text(v)}" for k, v in job.words.items()]
    return again(shlex.join([script, *map(str, typed)]))


def again(command: str) -> str:
    """A command of ours as one types it in a checkout."""
    return f"uv run {command}" if command.split(" ", 1)[0].endswith(".py") else command


# The table: one row a job, the same on the screen, in the text and, whole, in the CSV file.


def job_rows(jobs: Sequence[Job]) -> list[Row]:
    """What a person reads of each job: what varied, how it went, what came out."""
    keys = varied(jobs)
    names = short_names(keys)
    criterion = _criterion(jobs)
    finals = [m for m in (criterion, "val/loss", "test/acc", "test/loss") if _is_there(jobs, m)]
    rows = []
    for job in jobs:
        row = {"job": job.name}
        row |= {names[k]: value_text(job.words[k]) if k in job.words else "" for k in keys}
        row["status"] = job.status
        if any(j.best is not None for j in jobs):
            row[f"best {_title(criterion)}"] = number_text(criterion, job.best)
            row["at epoch"] = "" if job.best_epoch is None else str(job.best_epoch)
        for metric in dict.fromkeys(finals):
            row[_title(metric)] = number_text(metric, job.metrics.get(metric))
        row["s"] = "" if job.seconds is None else f"{job.seconds:.1f}"
        row["epochs"] = "" if job.num_epochs is None else str(job.num_epochs)
        row["folder"] = short(job.path) if job.status not in NOT_BEGUN else ""
        rows.append(row)
    return rows


def group_rows(found: Sequence[Group]) -> list[Row]:
    """A row for all jobs that differ in their seed only."""
    names = short_names(list(found[0].values))
    jobs = [job for group in found for job in group.jobs]
    criterion = _criterion(jobs)
    title = f"best {_title(criterion)}" if any(j.best is not None for j in jobs) else ""
    rows = []
    for group in found:
        row = {names[key]: value_text(value) for key, value in group.values.items()}
        row[title or _title(criterion)] = group.mean()
        for metric in ("test/acc", "test/loss"):
            if _is_there(jobs, metric) and not (metric == criterion and not title):
                row[_title(metric)] = group.mean(metric)
        seconds = [job.seconds for job in group.jobs if job.seconds is not None]
        row["s"] = f"{statistics.fmean(seconds):.1f}" if seconds else ""
        row["unfinished"] = str(sum(j.status not in SUCCEEDED for j in group.jobs) or "")
        rows.append(row)
    for column in (title or _title(criterion), "unfinished"):
        if not any(row[column] for row in rows):
            for row in rows:
                del row[column]
    return rows


def csv_text(jobs: Sequence[Job]) -> str:
    """Everything that is known of the jobs, in full precision."""
    keys = varied(jobs)
    metrics = sorted({metric for job in jobs for metric in job.metrics})
    head = ["job", "status", *keys, "monitor", "best", "best_epoch", *metrics]
    head += ["seconds", "num_epochs", "error", "log", "folder"]
    file = io.StringIO()
    writer = csv.DictWriter(file, head, lineterminator="\n")
    writer.writeheader()
    for job in jobs:
        writer.writerow(
            {
                "job": job.name,
                "status": job.status,
                **{k: value_text(job.words[k]) for k in keys if k in job.words},
                "monitor": job.monitor,
                "best": job.best,
                "best_epoch": job.best_epoch,
                **job.metrics,
                "seconds": job.seconds,
                "num_epochs": job.num_epochs,
                "error": job.error,
                "log": short(job.log) if job.log else "",
                "folder": short(job.path),
            }
        )
    return file.getvalue()


def screen_text(
    jobs: Sequence[Job], record: Mapping[str, Any], path: Path, *, has_picture: bool
) -> str:
    """The report for a terminal."""
    parts = ["", summary(jobs)]
    found = groups(jobs)
    if found:
        parts += ["", *_aligned(group_rows(found))]
    parts += ["", *_aligned(job_rows(jobs)), ""]
    trouble = [text for job in _troubled(jobs) for text in _trouble(job)]
    parts += [*trouble, ""] if trouble else []
    for name, text in _answers(jobs, found, record):
        parts.append(f"{name:12} {text}")
    files = [TABLE, TEXT, *([PICTURE] if has_picture else [])]
    parts.append(f"{'report':12} {', '.join(short(path / name) for name in files)}")
    if any(list(job.path.glob("events.out*")) for job in jobs):
        parts.append(f"{'tensorboard':12} {tensorboard(path)}")
    if jobs:
        parts.append(f"{'view':12} {short(path / PAGE)}")
    return "\n".join(parts)


def markdown(jobs: Sequence[Job], record: Mapping[str, Any], *, has_picture: bool) -> str:
    """The report as a page."""
    parts = ["# Sweep", "", f"    {record.get('command')}", ""]
    parts += [f"Started {record.get('started')}. {summary(jobs)}", ""]
    found = groups(jobs)
    for name, text in _answers(jobs, found, record):
        parts += [f"{name.capitalize()}:", "", f"    {text}", ""]
    if has_picture:
        parts += [f"![The monitored metric against what varied]({PICTURE})", ""]
    if found:
        parts += ["## Over the seeds: mean ± standard deviation (n)", ""]
        parts += [*_piped(group_rows(found)), ""]
    parts += ["## Jobs", "", *_piped(job_rows(jobs)), ""]
    troubled = _troubled(jobs)
    if troubled:
        parts += ["## What went wrong", ""]
        parts += ["```", *(text for job in troubled for text in _trouble(job)), "```", ""]
    return "\n".join(parts)


def summary(jobs: Sequence[Job]) -> str:
    """`6 jobs: 5 finished, 1 failed.`"""
    order = ("finished", "pruned", "failed", "interrupted", "killed", "running", *NOT_BEGUN)
    counts = [(sum(job.status == status for job in jobs), status) for status in order]
    told = ", ".join(f"{n} {status}" for n, status in counts if n)
    return f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}: {told or 'none began'}."


def line(job: Job, *, number: int, total: int | None, keys: Sequence[str], note: str = "") -> str:
    """One line on a job that has ended, while the others go on. `keys` are those that vary."""
    place = "" if total is None else f"[{number + 1}/{total}] "
    parts = [f"{place}job {number}", f"{job.status:8}"]
    if job.value is not None:
        unit = " %" if is_share(job.criterion) else ""
        parts.append(f"{job.criterion} {number_text(job.criterion, job.value)}{unit}")
    if job.seconds is not None:
        parts.append(f"{job.seconds:.1f} s")
    parts.append(" ".join(f"{k}={value_text(job.words[k])}" for k in keys if k in job.words))
    if note:
        parts.append(note)
    if job.error and job.status != "finished":
        parts.append(job.error)
        if job.log:
            parts.append(f"log: {short(job.log)}")
    return "   ".join(parts)


# The page and the picture.


def page_data(jobs: Sequence[Job], record: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """What `write_sweep_page` shows."""
    keys, criterion = varied(jobs), _criterion(jobs)
    factor = 100.0 if is_share(criterion) else 1.0
    shown = []
    for job, row in zip(jobs, job_rows(jobs), strict=True):
        link = f"{job.name}/report.html"
        epochs, values = learning_curve(job, criterion)
        shown.append({
            "name": job.name,
            "status": job.status,
            "link": link if (path / link).is_file() else None,
            "cells": {column: text for column, text in row.items() if column != "folder"},
            "values": [_plottable(job.words.get(key)) for key in keys],
            "result": None if job.value is None else factor * job.value,
            "error": "" if job.status in SUCCEEDED else job.error,
            "curve": [[epoch, factor * value] for epoch, value in zip(epochs, values, strict=True)],
        })  # fmt: skip
    return {
        "title": path.name,
        "command": again(str(record.get("command"))),
        "summary": summary(jobs),
        "answers": _answers(jobs, groups(jobs), record),
        "metric": ("best " if any(j.best is not None for j in jobs) else "") + _title(criterion),
        "curve_metric": _title(criterion),
        "mode": jobs[0].mode,
        "keys": list(short_names(keys).values()),
        "jobs": shown,
    }


def draw(jobs: Sequence[Job], path: Path) -> None:
    """The monitored metric against what varied, and the learning curves of the best jobs."""
    from simplecnn.figures.sweep import Curve, sweep_figure

    keys = varied(jobs)
    if groups(jobs):
        keys = [key for key in keys if key != "seed"] or keys
    names = short_names(keys)
    criterion = _criterion(jobs)
    factor = 100.0 if is_share(criterion) else 1.0
    best, learned = jobs[:NUM_CURVES], criterion
    found = [learning_curve(job, criterion) for job in best]
    if all(len(epochs) < 2 for epochs, _ in found):  # what is tested once has no curve
        losses = [learning_curve(job, "train/loss") for job in best]
        if any(len(epochs) > 1 for epochs, _ in losses):
            learned, found = "train/loss", losses
    curves = []
    for job, (epochs, values) in zip(best, found, strict=True):
        if values:
            label = ", ".join(
                f"{short_names(varied(jobs))[k]} {value_text(job.words[k])}"
                for k in varied(jobs)
                if k in job.words
            )
            scaled = [(100.0 if is_share(learned) else 1.0) * value for value in values]
            curves.append(Curve(f"job {job.name}: {label}", epochs, scaled))
    in_order = sorted(jobs, key=lambda job: _number(job.path))  # of the values as they were typed
    figure = sweep_figure(
        {names[k]: [_plottable(job.words.get(k)) for job in in_order] for k in keys},
        [math.nan if job.value is None else factor * job.value for job in in_order],
        curves,
        metric=("best " if any(j.best is not None for j in jobs) else "") + _title(criterion),
        curve_metric=_title(learned),
        larger_is_better=jobs[0].mode == "max",
    )
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    figure.savefig(temporary)
    temporary.replace(path)


def learning_curve(job: Job, metric: str) -> tuple[list[int], list[float]]:
    """Epochs (from 1) and values of a metric, from the job's metrics.csv; empty without one."""
    path = job.path / "metrics.csv"
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get(metric) and row.get("epoch")]
    values = {int(row["epoch"]) + 1: float(row[metric]) for row in rows}
    return list(values), list(values.values())


def _plottable(value: Any) -> Any:
    return (
        value
        if isinstance(value, int | float) and not isinstance(value, bool)
        else value_text(value)
    )


def _criterion(jobs: Sequence[Job]) -> str:
    return next((job.criterion for job in jobs if job.value is not None), "test/acc")


def _title(metric: str) -> str:
    return f"{metric} %" if is_share(metric) else metric


def _is_there(jobs: Sequence[Job], metric: str) -> bool:
    return any(metric in job.metrics for job in jobs)


def _troubled(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if job.status not in (*SUCCEEDED, *NOT_BEGUN, "running")]


def _trouble(job: Job) -> list[str]:
    lines = [f"job {job.name} {job.status}: {job.error or 'see its log'}"]
    return lines + ([f"    log: {short(job.log)}"] if job.log else [])


def _answers(
    jobs: Sequence[Job], found: Sequence[Group], record: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """The best run and how to have it again, and how to go on where jobs are missing."""
    answers = []
    best = next((job for job in jobs if job.value is not None), None)
    if best is not None:
        values = " ".join(f"{k}={value_text(best.words.get(k))}" for k in varied(jobs))
        unit = " %" if is_share(best.criterion) else ""
        number = number_text(best.criterion, best.value) + unit
        answers.append(("best job", f"{best.name}: {best.criterion} {number}   {values}".rstrip()))
        if found and found[0].values:
            values = " ".join(f"{k}={value_text(v)}" for k, v in found[0].values.items())
            answers.append(("best mean", f"{found[0].mean()}   {values}"))
        answers.append(("again", command(best, str(record.get("script")))))
    if any(job.status not in SUCCEEDED for job in jobs):
        answers.append(("to go on", again(str(record.get("command")))))
    return answers


def _aligned(rows: Sequence[Row]) -> list[str]:
    """Rows as text: numbers to the right, words to the left."""
    titles = list(rows[0]) if rows else []
    widths = {t: max(len(t), *(len(row[t]) for row in rows)) for t in titles}
    left = {t for t in titles if t in ("status", "folder")}

    def text(cells: Mapping[str, str]) -> str:
        return "  ".join(
            cells[t].ljust(widths[t]) if t in left else cells[t].rjust(widths[t]) for t in titles
        ).rstrip()

    return [text({t: t for t in titles}), *(text(row) for row in rows)]


def _piped(rows: Sequence[Row]) -> list[str]:
    """Rows as a table of Markdown."""
    titles = list(rows[0]) if rows else []
    lines = ["| " + " | ".join(titles) + " |"]
    lines.append("|" + "|".join(" --- " if t in ("status", "folder") else " ---: " for t in titles))
    lines[-1] += "|"
    cells = [[row[t].replace("|", "\\|") for t in titles] for row in rows]
    return lines + ["| " + " | ".join(row) + " |" for row in cells]


def _words(words: Sequence[str]) -> dict[str, Any]:
    """`["+a.b=3", "c=[1,2]"]` as keys and values; Hydra's own settings left out."""
    parser = OverridesParser.create()
    parsed = [parser.parse_override(str(word)) for word in words]
    found = {p.key_or_group: p.value() for p in parsed}
    return {k: v for k, v in found.items() if not k.startswith(("hydra.", "hydra/"))}


def _number(path: Path) -> tuple[int, str]:
    return (int(path.name), "") if path.name.isdigit() else (10**9, str(path))


def _yaml(path: Path) -> Any:
    """What a YAML file holds; None where it cannot be read."""
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except Exception:
        return None
