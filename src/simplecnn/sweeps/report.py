"""What came out of a sweep: a table, a picture, the best job and the command that reproduces it.

Everything is read from the directories of the jobs, so a report can be made at any time. No torch.
"""

import csv
import io
import math
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from simplecnn.atomic import atomic_write
from simplecnn.page.sweep import write_sweep_page
from simplecnn.run_directory import as_typed, short, tensorboard
from simplecnn.sweeps.directory import SweepDirectory
from simplecnn.sweeps.jobs import (
    STATUSES,
    SUCCEEDED,
    Job,
    number,
    rank,
    read_jobs,
    seed_groups,
    short_names,
    value_text,
    varied,
)
from simplecnn.table import table

TABLE, TEXT, PICTURE = "sweep.csv", "sweep.md", "sweep.png"
NUM_CURVES = 5


def report(path: Path) -> bool:
    """Show what came out of the sweep in `path`, and write it there. Whether all jobs succeeded."""
    sweep = SweepDirectory.open(path)
    jobs = sorted(read_jobs(sweep), key=lambda job: rank([job]))
    text = report_text(jobs, sweep.record)
    data = page_data(jobs, sweep)
    head = f"# Sweep\n\n    {sweep.record['command']}\n\nStarted {sweep.record['started']}.\n"
    files = {TABLE: csv_text(jobs).encode()}
    if any(job.value is not None for job in jobs):
        files[PICTURE] = picture(jobs, data)
        head += f"\n![The monitored metric against what varied]({PICTURE})\n"
    files[TEXT] = f"{head}\n```\n{text}\n```\n".encode()
    for name, content in files.items():
        atomic_write(sweep.path / name, content)
    print(f"\n{text}\n{'report':12} {', '.join(short(sweep.path / name) for name in files)}")
    if any(any(job.path.glob("events.out*")) for job in jobs):
        print(f"{'tensorboard':12} {tensorboard(sweep.path)}")
    print(f"{'view':12} {short(write_sweep_page(sweep.path, data))}", flush=True)
    return bool(jobs) and all(job.status in SUCCEEDED for job in jobs)


def report_text(jobs: Sequence[Job], record: Mapping[str, Any]) -> str:
    """Tables, failures, and commands to type; `jobs` are sorted, the best first."""
    best = jobs[0] if jobs and jobs[0].value is not None else None
    parts = [
        summary(jobs),
        _table(mean_columns(seed_groups(jobs))) if best else "",
        _table(job_columns(jobs)),
    ]
    parts += [
        f"job {job.name} {job.status}: {job.error or 'see its log'}\n"
        f"    log: {short(job.log) if job.log else 'none'}"
        for job in jobs
        if job.status in ("failed", "interrupted", "killed")
    ]
    lines = [f"{name:12} {text}" for name, text in commands(jobs, record)]
    return "\n\n".join(part for part in [*parts, "\n".join(lines)] if part)


def commands(jobs: Sequence[Job], record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The best job, and what to type; a word and a text each.

    Where seeds are repeated, it is that of the best mean: the best of all jobs may be luck.
    """
    answers = []
    if jobs and jobs[0].value is not None:
        groups = seed_groups(jobs)
        best = groups[0][0] if groups else jobs[0]
        if groups:
            mean = mean_text(best.criterion, (job.value for job in groups[0]))
            keys = [key for key in varied(jobs) if key != "seed"]
            text = f"{value_title(jobs)} {mean}   {typed(best, keys)}".rstrip()
            answers.append(("best mean" if len(groups) > 1 else "mean", text))
        words = [shlex.split(record["command"])[0], *best.overrides]
        if any(word.startswith("hparams_search=") for word in words):
            words.append("hydra.sweeper.params=null")  # what the file sets, but one run of it
        answers.append(("best job", f"{best.name}: {result(best)}   {typed(best, varied(jobs))}"))
        answers.append(("reproduce", as_typed(shlex.join(words))))
    if any(job.status not in SUCCEEDED for job in jobs):
        answers.append(("resume", as_typed(record["command"])))
    return answers


def summary(jobs: Sequence[Job]) -> str:
    """`6 jobs: 5 finished, 1 failed.`"""
    counts = [(sum(job.status == status for job in jobs), status) for status in STATUSES]
    parts = ", ".join(f"{n} {status}" for n, status in counts if n)
    return f"{len(jobs)} job{'s' * (len(jobs) != 1)}: {parts or 'none started'}."


def line(job: Job, record: Mapping[str, Any], *, number: int, note: str = "") -> str:
    """One line on a job that has ended; `record` is that of its sweep."""
    parsed = OverridesParser.create().parse_overrides(record["words"])
    swept = dict.fromkeys(word.key_or_group for word in parsed if word.is_sweep_override())
    place = f"[{number + 1}/{len(record['jobs'])}] " if record["jobs"] else ""
    parts = [
        f"{place}job {number}",
        f"{job.status:8}",
        result(job),
        f"{job.seconds:.1f} s" if job.seconds is not None else "",
        typed(job, [key for key in swept if key in job.words]),
        note,
        job.error,
        f"log: {short(job.log)}" if job.error and job.log else "",
    ]
    return "   ".join(part for part in parts if part)


# ------------------------------------------------------------------------------- cells of tables


def is_share(metric: str) -> bool:
    """Whether a metric is from 0 to 1 and shown in percent."""
    return metric.endswith("acc")


def title(metric: str) -> str:
    return f"{metric} %" if is_share(metric) else metric


def metric_text(metric: str, value: float | None) -> str:
    """98.76 for an accuracy in percent, 0.0412 for anything else."""
    if value is None:
        return ""
    return f"{100 * value:.2f}" if is_share(metric) else f"{value:.4f}"


def mean_text(metric: str, values: Iterable[float | None]) -> str:
    """`98.76 ± 0.08 (3)`: mean, standard deviation of the sample, n; only finite values count."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < 2:
        return metric_text(metric, finite[0]) if finite else ""
    mean, deviation = statistics.fmean(finite), statistics.stdev(finite)
    return f"{metric_text(metric, mean)} ± {metric_text(metric, deviation)} ({len(finite)})"


def result(job: Job) -> str:
    """`val/acc 94.00 %`, or nothing where there is no value."""
    if job.value is None:
        return ""
    unit = " %" if is_share(job.criterion) else ""
    return f"{job.criterion} {metric_text(job.criterion, job.value)}{unit}"


def typed(job: Job, keys: Iterable[str]) -> str:
    return " ".join(f"{key}={value_text(job.words.get(key))}" for key in keys)


# --------------------------------------------------------------------------------------- tables


def job_columns(jobs: Sequence[Job]) -> dict[str, list[str]]:
    """A row a job: what was varied, how it ended, what came out."""
    criterion = criterion_of(jobs)
    names = short_names(varied(jobs))
    columns: dict[str, list[str]] = {"job": [job.name for job in jobs]}
    for key, name in names.items():
        columns[name] = [value_text(job.words[key]) if key in job.words else "" for job in jobs]
    columns["status"] = [job.status for job in jobs]
    columns[f"best {title(criterion)}"] = [
        metric_text(criterion, job.best.get("value")) for job in jobs
    ]
    columns["at epoch"] = [str(job.best.get("epoch", "")) for job in jobs]
    for metric in (criterion, "val/loss", "test/acc", "test/loss"):
        columns[title(metric)] = [metric_text(metric, job.metrics.get(metric)) for job in jobs]
    columns["s"] = ["" if job.seconds is None else f"{job.seconds:.1f}" for job in jobs]
    columns["epochs"] = [str(job.record.get("num_epochs", "")) for job in jobs]
    return columns


def mean_columns(groups: Sequence[Sequence[Job]]) -> dict[str, list[str]]:
    """A row for all jobs that differ in their seed only: mean ± standard deviation (n)."""
    jobs = [job for group in groups for job in group]
    names = short_names([key for key in varied(jobs) if key != "seed"])
    columns = {n: [value_text(g[0].words.get(key)) for g in groups] for key, n in names.items()}
    criterion = criterion_of(jobs)
    columns[value_title(jobs)] = [mean_text(criterion, (j.value for j in g)) for g in groups]
    for metric in ("test/acc", "test/loss"):
        columns[title(metric)] = [
            mean_text(metric, (job.metrics.get(metric) for job in group)) for group in groups
        ]
    columns["jobs"] = [str(len(group)) for group in groups]
    return {name: cells for name, cells in columns.items() if any(cells)}


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    """Aligned text, without the columns that are empty."""
    filled = [[name, *cells] for name, cells in columns.items() if any(cells)]
    return table(list(zip(*filled, strict=True)), gap=2) if filled else ""


def csv_text(jobs: Sequence[Job]) -> str:
    """Everything that is known of the jobs, in full precision."""
    keys = varied(jobs)
    rows: list[dict[str, Any]] = [
        {
            "job": job.name,
            "status": job.status,
            **{key: value_text(job.words[key]) for key in keys if key in job.words},
            "monitor": job.monitor,
            "best": job.best.get("value"),
            "best_epoch": job.best.get("epoch"),
            "seconds": job.seconds,
            "num_epochs": job.record.get("num_epochs"),
            "num_parameters": job.record.get("num_parameters"),
            "error": job.error,
            "log": short(job.log) if job.log else "",
            "folder": short(job.path),
            **job.metrics,
        }
        for job in jobs
    ]
    file = io.StringIO()
    writer = csv.DictWriter(
        file, dict.fromkeys(k for row in rows for k in row), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


def criterion_of(jobs: Sequence[Job]) -> str:
    return next((job.criterion for job in jobs if job.value is not None), "test/acc")


def value_title(jobs: Sequence[Job]) -> str:
    return f"{'best ' * any(job.best for job in jobs)}{title(criterion_of(jobs))}"


# ----------------------------------------------------------------------------- page and picture


def page_data(jobs: Sequence[Job], sweep: SweepDirectory) -> dict[str, Any]:
    """What `write_sweep_page` shows, and `picture` draws."""
    names = short_names(varied(jobs))
    criterion = curve_metric = criterion_of(jobs)
    longest = max((len(job.curve(criterion)) for job in jobs[:NUM_CURVES]), default=0)
    if longest < (2 if criterion.startswith("test/") else 1):
        curve_metric = "train/loss"  # what is tested once has no curve
    columns = {name: cells for name, cells in job_columns(jobs).items() if any(cells)}
    has_best = bool(jobs) and jobs[0].value is not None
    rows = []
    for i, job in enumerate(jobs):
        link = f"{job.name}/report.html"
        curve = job.curve(curve_metric)
        rows.append({
            "name": job.name,
            "status": job.status,
            "link": link if (sweep.path / link).is_file() else None,
            "cells": {name: cells[i] for name, cells in columns.items()},
            "values": [_number_or_text(job.words.get(key)) for key in names],
            "result": _scaled(criterion, job.value),
            "error": "" if job.status in SUCCEEDED else job.error,
            "curve": [[epoch, _scaled(curve_metric, value)] for epoch, value in curve],
        })  # fmt: skip
    path = sweep.path.resolve()
    return {
        # outputs/<name>/<date_time>, unless hydra.sweep.dir says otherwise
        "title": path.parent.name if path.name[:2] == "20" else path.name,
        "folder": short(sweep.path),
        "command": as_typed(sweep.record["command"]),
        "summary": summary(jobs),
        "answers": commands(jobs, sweep.record),
        "means": mean_columns(seed_groups(jobs)) if has_best else {},
        "metric": value_title(jobs),
        "curve_metric": title(curve_metric),
        "mode": jobs[0].mode if jobs else "max",
        "keys": list(names.values()),
        "jobs": rows,
    }


def picture(jobs: Sequence[Job], data: Mapping[str, Any]) -> bytes:
    """A PNG file of `page_data`: the result against what varied, the curves of the best jobs."""
    from simplecnn.figures.raster import encode_png
    from simplecnn.figures.style import drawing
    from simplecnn.figures.sweep import Curve, sweep_figure

    curves = []
    for row in (row for row in data["jobs"][:NUM_CURVES] if row["curve"]):
        values = zip(data["keys"], map(value_text, row["values"]), strict=True)
        label = ", ".join(f"{name} {value}" for name, value in values)
        curves.append(Curve(f"job {row['name']}: {label}", *zip(*row["curve"], strict=True)))
    in_order = sorted(data["jobs"], key=lambda row: number(Path(row["name"])))  # as it was typed
    parameters = {key: [row["values"][i] for row in in_order] for i, key in enumerate(data["keys"])}
    if len(parameters) > 1 and seed_groups(jobs):
        del parameters["seed"]
    with drawing():
        figure = sweep_figure(
            parameters,
            [row["result"] for row in in_order],
            curves,
            metric=data["metric"],
            curve_metric=data["curve_metric"],
            larger_is_better=data["mode"] == "max",
        )
        return encode_png(figure)[0]


def _scaled(metric: str, value: float | None) -> float:
    return math.nan if value is None else (100 if is_share(metric) else 1) * value


def _number_or_text(value: Any) -> float | str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number else value_text(value)
