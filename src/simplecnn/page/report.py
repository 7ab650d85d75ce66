"""The page of one run, or of two that are compared, as a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simplecnn.atomic import atomic_write
from simplecnn.page.gather import gather
from simplecnn.page.html import render
from simplecnn.run_directory import RunDirectory

PAGE = "report.html"


def write_report(runs: Sequence[RunDirectory], **options: Any) -> Path:
    """Write `report.html` into the folder of the first run; options as for `gather`.

    The page of two runs is named for the second, `report_<name>.html`. Gives its path.
    """
    data = gather(runs, **options)
    path = runs[0].path / (PAGE if len(runs) == 1 else f"report_{runs[1].path.name}.html")
    title = " and ".join(str(run["title"]) for run in data["runs"])
    atomic_write(path, render("report", data, title=f"{title} · simplecnn"))
    return path
