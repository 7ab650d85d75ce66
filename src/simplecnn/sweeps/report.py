"""The report of a sweep: a table, a figure, the best job and the command that reproduces it.

All of it is read from the directories of the jobs, so a report is available at any time. Does not
import torch.
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
from simplecnn.config.schema import LOGGED
from simplecnn.page.sweep import write_sweep_page
from simplecnn.run_directory import relative_path, shell_command, tensorboard_command
from simplecnn.sweeps.directory import SweepDirectory
from simplecnn.sweeps.jobs import (
    STATUSES,
    SUCCEEDED,
    Job,
    by_number,
    job_command,
    objectives_of,
    pareto_front,
    rank,
    read_jobs,
    seed_groups,
    short_names,
    threads_prefix,
    value_text,
    varied_keys,
)
from simplecnn.table import is_percentage, table

TABLE, TEXT, FIGURE = "sweep.csv", "sweep.md", "sweep.png"
NUM_CURVES = 5


def report(path: Path) -> bool:
    """Print the report of the sweep in `path` and write it there.

    Returns whether all jobs succeeded.
    """
    sweep = SweepDirectory.open(path)
    jobs = sorted(read_jobs(sweep), key=lambda job: rank([job]))
    text = report_text(jobs, sweep.record)
    data = page_data(jobs, sweep)
    head = f"# Sweep\n\n    {data['command']}\n\nStarted {sweep.record['started']}.\n"
    files = {TABLE: csv_text(jobs).encode()}
    if has_best(jobs):
        files[FIGURE] = figure_png(jobs, data)
        head += f"\n![The monitored metric against the varied parameters]({FIGURE})\n"
    files[TEXT] = f"{head}\n```\n{text}\n```\n".encode()
    try:
        for name, content in files.items():
            atomic_write(sweep.path / name, content)
        page = write_sweep_page(sweep.path, data)
    finally:  # also if the disk is full
        print(f"\n{text}")
    print(f"{'report':12} {', '.join(relative_path(sweep.path / name) for name in files)}")
    if any(any(job.path.glob("events.out*")) for job in jobs):
        print(f"{'tensorboard':12} {tensorboard_command(sweep.path)}")
    print(f"{'view':12} {relative_path(page)}", flush=True)
    return bool(jobs) and all(job.status in SUCCEEDED for job in jobs)


def report_text(jobs: Sequence[Job], record: Mapping[str, Any]) -> str:
    """Tables, failures and commands as text; `jobs` are sorted, the best first."""
    parts, job_table = [summary(jobs)], _table(job_columns(jobs, objectives_of(record)))
    if has_best(jobs):
        if means := _table(mean_columns(seed_groups(jobs))):
            caption = "Means over seeds, the best first: mean ± standard deviation (number of jobs)"
            parts.append(f"{caption}\n{means}")
        order = "highest" if jobs[0].mode == "max" else "lowest"
        job_table = f"Jobs, sorted by {value_title(jobs)}, {order} first\n{job_table}"
    parts.append(job_table)
    for job in (job for job in jobs if job.error):
        log = f"\n    log: {relative_path(job.log)}" if job.log else ""
        parts.append(f"job {job.name} {job.status}: {job.error}{log}")
    lines = [f"{name:12} {text}" for name, text in commands(jobs, record)]
    return "\n\n".join(part for part in [*parts, "\n".join(lines)] if part)


def commands(jobs: Sequence[Job], record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Pairs of label and text: the best job, and the commands to reproduce it and to resume.

    If seeds are repeated, the best job is the best of the group with the best mean: the single best
    value may be chance.
    """
    entries = []
    if has_best(jobs):
        groups = seed_groups(jobs)
        best = groups[0][0] if groups else jobs[0]
        if groups:
            mean = mean_text(best.criterion, (job.value for job in groups[0]))
            keys = [key for key in varied_keys(jobs) if key != "seed"]
            text = f"{value_title(jobs)} {mean}   {overrides_text(best, keys)}".rstrip()
            entries.append(("best mean" if len(groups) > 1 else "mean", text))
        overrides = overrides_text(best, varied_keys(jobs))
        entries.append(("best job", f"{best.name}: {result(best)}   {overrides}"))
        command = shlex.join(job_command(record, best.overrides))
        threads = threads_prefix(record, (best.record.get("device") or {}).get("num_threads"))
        entries.append(("reproduce", threads + shell_command(command)))
    if len(objectives := objectives_of(record)) > 1 and (names := pareto_front(jobs, objectives)):
        entries.append(("Pareto front", f"job{'s' * (len(names) > 1)} {', '.join(names)}"))
    statuses = {job.status for job in jobs}
    if "running" not in statuses and not statuses <= set(SUCCEEDED):
        entries.append(("resume", shell_command(record["command"])))
    return entries


def summary(jobs: Sequence[Job]) -> str:
    """`6 jobs: 5 finished, 1 failed.`"""
    return f"{num_jobs(len(jobs))}: {counts(jobs) or 'none started'}."


def num_jobs(number: int) -> str:
    return f"{number} job{'s' * (number != 1)}"


def counts(jobs: Sequence[Job]) -> str:
    """`5 finished, 1 failed`"""
    numbers = [(sum(job.status == status for job in jobs), status) for status in STATUSES]
    return ", ".join(f"{number} {status}" for number, status in numbers if number)


def job_line(job: Job, record: Mapping[str, Any], *, number: int, status: str = "") -> str:
    """The log line of a job that has ended.

    record: that of its sweep.
    number: Hydra's number of the job, from 0.
    status: shown instead of the status of the job.
    """
    parsed = OverridesParser.create().parse_overrides(record["words"])
    swept = dict.fromkeys(o.key_or_group for o in parsed if o.is_sweep_override())
    parts = [
        f"job {number}",
        f"{status or job.status:8}",
        result(job),
        f"{job.seconds:.1f} s" if job.seconds is not None else "",
        overrides_text(job, [key for key in swept if key in job.params]),
        job.error,
    ]
    return "   ".join(part for part in parts if part)


# ----------------------------------------------------------------------------------- table cells


def title(metric: str) -> str:
    return f"{metric} %" if is_percentage(metric) else metric


def metric_text(metric: str, value: float | None) -> str:
    """`98.76` for an accuracy of 0.9876, `98,442` parameters, `0.0412` for other metrics."""
    if value is None:
        return ""
    if metric == "num_parameters":
        return f"{value:,}"
    return f"{100 * value:.2f}" if is_percentage(metric) else f"{value:.4f}"


def mean_text(metric: str, values: Iterable[float | None]) -> str:
    """`98.76 ± 0.08 (3)`: mean, sample standard deviation and n of the finite values."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if not finite:
        return ""
    mean = metric_text(metric, statistics.fmean(finite))
    if len(finite) > 1:
        mean += f" ± {metric_text(metric, statistics.stdev(finite))}"
    return f"{mean} ({len(finite)})"


def result(job: Job) -> str:
    """`val/acc 94.00 %`; empty for a job without a value."""
    if job.value is None:
        return ""
    unit = " %" if is_percentage(job.criterion) else ""
    return f"{job.criterion} {metric_text(job.criterion, job.value)}{unit}"


def overrides_text(job: Job, keys: Iterable[str]) -> str:
    return " ".join(f"{key}={value_text(job.params.get(key))}" for key in keys)


# --------------------------------------------------------------------------------------- tables


def job_columns(jobs: Sequence[Job], objectives: Iterable[str] = ()) -> dict[str, list[str]]:
    """One row per job, by column: varied parameters, status, metrics; without empty columns."""
    criterion = criterion_of(jobs)
    names = short_names(varied_keys(jobs))
    columns: dict[str, list[str]] = {"job": [job.name for job in jobs]}
    for key, name in names.items():
        columns[name] = [value_text(job.params[key]) if key in job.params else "" for job in jobs]
    columns["status"] = [job.status for job in jobs]
    columns[f"best {title(criterion)}"] = [
        metric_text(criterion, job.best.get("value")) for job in jobs
    ]
    columns["at epoch"] = [str(job.best.get("epoch", "")) for job in jobs]
    metrics = (criterion, "val/loss", "test/acc", "test/loss", *further_metrics(jobs), *objectives)
    for metric in metrics:
        values = (job.metrics.get(metric, job.record.get(metric)) for job in jobs)
        columns[title(metric)] = [metric_text(metric, value) for value in values]
    columns["seconds"] = ["" if job.seconds is None else f"{job.seconds:.1f}" for job in jobs]
    columns["epochs"] = ["" if job.num_epochs is None else str(job.num_epochs) for job in jobs]
    return {name: cells for name, cells in columns.items() if any(cells)}


def further_metrics(jobs: Sequence[Job]) -> list[str]:
    """The metrics that a custom class adds: of the test, or of the validation if not tested."""
    metrics = {metric for job in jobs for metric in job.metrics} - {*LOGGED, criterion_of(jobs)}
    tested = {m.replace("test/", "val/") for m in metrics if m.startswith("test/")}
    return sorted(m for m in metrics - tested if m.startswith(("test/", "val/")))


def mean_columns(groups: Sequence[Sequence[Job]]) -> dict[str, list[str]]:
    """One row per group of jobs that differ only in their seed: mean ± standard deviation (n)."""
    jobs = [job for group in groups for job in group]
    names = short_names([key for key in varied_keys(jobs) if key != "seed"])
    columns = {n: [value_text(g[0].params.get(key)) for g in groups] for key, n in names.items()}
    criterion = criterion_of(jobs)
    columns[value_title(jobs)] = [mean_text(criterion, (j.value for j in g)) for g in groups]
    for metric in ("test/acc", "test/loss", *further_metrics(jobs)):
        columns[title(metric)] = [
            mean_text(metric, (j.metrics.get(metric) for j in group if j.status in SUCCEEDED))
            for group in groups
        ]
    columns["jobs"] = [str(len(group)) for group in groups]
    return {name: cells for name, cells in columns.items() if any(cells)}


def _table(columns: Mapping[str, Sequence[str]]) -> str:
    """Columns as aligned text."""
    titled = [[name, *cells] for name, cells in columns.items()]
    return table(list(zip(*titled, strict=True)), gap=2) if titled else ""


def csv_text(jobs: Sequence[Job]) -> str:
    """One row per job, with all values and metrics in full precision."""
    keys = varied_keys(jobs)
    rows: list[dict[str, Any]] = [
        {
            "job": job.name,
            "status": job.status,
            **{key: _exact_text(job.params[key]) for key in keys if key in job.params},
            "monitor": job.monitor,
            "best": job.best.get("value"),
            "best_epoch": job.best.get("epoch"),
            "seconds": job.seconds,
            "num_epochs": job.num_epochs,
            "num_parameters": job.record.get("num_parameters"),
            "error": job.error,
            "log": relative_path(job.log) if job.log else "",
            "folder": relative_path(job.path),
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


def _exact_text(value: Any) -> str:
    return repr(value) if isinstance(value, float) else value_text(value)


def has_best(jobs: Sequence[Job]) -> bool:
    """Whether any of the sorted jobs has a value: then the first one does."""
    return bool(jobs) and jobs[0].value is not None


def criterion_of(jobs: Sequence[Job]) -> str:
    return next((job.criterion for job in jobs if job.monitor), "test/acc")


def value_title(jobs: Sequence[Job]) -> str:
    return f"{'best ' * any(job.best for job in jobs)}{title(criterion_of(jobs))}"


# ------------------------------------------------------------------------------ page and figure


def page_data(jobs: Sequence[Job], sweep: SweepDirectory) -> dict[str, Any]:
    """The data of the sweep page (see `write_sweep_page`) and of the figure."""
    names = short_names(varied_keys(jobs))
    is_averaged = len(names) > 1 and bool(seed_groups(jobs))  # then the seed is no axis
    axes = {key: name for key, name in names.items() if key != "seed" or not is_averaged}
    criterion = curve_metric = criterion_of(jobs)
    longest = max((len(job.curve(criterion)) for job in jobs[:NUM_CURVES]), default=0)
    if longest < (2 if criterion.startswith("test/") else 1):
        curve_metric = "train/loss"  # the criterion was not logged every epoch
    columns = job_columns(jobs, objectives_of(sweep.record))
    rows = []
    for i, job in enumerate(jobs):
        link = f"{job.name}/report.html"
        curve = job.curve(curve_metric)
        settings = [f"{name} {value_text(job.params.get(key))}" for key, name in names.items()]
        rows.append({
            "name": job.name,
            "label": f"job {job.name}: {', '.join(settings)}".removesuffix(": "),
            "status": job.status,
            "link": link if (sweep.path / link).is_file() else None,
            "cells": {name: cells[i] for name, cells in columns.items()},
            "values": [_number_or_text(job.params.get(key)) for key in axes],
            "result": _scaled(criterion, job.value),
            "error": job.error,
            "log": job.log.relative_to(sweep.path).as_posix() if job.error and job.log else None,
            "curve": [[epoch, _scaled(curve_metric, value)] for epoch, value in curve],
        })  # fmt: skip
    path = sweep.path.resolve()
    return {
        # <name> of the default directory, outputs/<name>/<date_time>
        "title": path.parent.name if path.name[:2] == "20" else path.name,
        "folder": relative_path(sweep.path),
        "command": shell_command(sweep.record["command"]),
        "summary": summary(jobs),
        "answers": commands(jobs, sweep.record),
        "means": mean_columns(seed_groups(jobs)) if has_best(jobs) else {},
        "metric": value_title(jobs),
        "curve_metric": title(curve_metric),
        "mode": jobs[0].mode if jobs else "max",
        "keys": list(axes.values()),
        "jobs": rows,
    }


def figure_png(jobs: Sequence[Job], data: Mapping[str, Any]) -> bytes:
    """Draw `page_data` as PNG: the result against each varied parameter, and the best curves."""
    from simplecnn.figures.raster import encode_png
    from simplecnn.figures.style import drawing
    from simplecnn.figures.sweep import sweep_figure

    curves = {
        row["label"]: row["curve"]
        for row in data["jobs"][:NUM_CURVES]
        if row["curve"] and not math.isnan(row["result"])
    }
    in_order = sorted(data["jobs"], key=lambda row: by_number(Path(row["name"])))
    parameters = {key: [row["values"][i] for row in in_order] for i, key in enumerate(data["keys"])}
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
    return math.nan if value is None else (100 if is_percentage(metric) else 1) * value


def _number_or_text(value: Any) -> float | str:
    return value if type(value) in (int, float) else value_text(value)
