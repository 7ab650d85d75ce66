"""The page of one run, or of two runs that are compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simplecnn.atomic import atomic_write
from simplecnn.page.gather import gather
from simplecnn.page.html import render
from simplecnn.run_directory import RunDirectory

PAGE = "report.html"


def write_report(runs: Sequence[RunDirectory], **options: Any) -> Path:
    """Write the page into the directory of the first run, and return its path.

    It is `report.html` for one run, `report_<name of the second>.html` for two. `options` are those
    of `gather`.
    """
    data = gather(runs, **options)
    path = runs[0].path / (PAGE if len(runs) == 1 else f"report_{runs[1].path.name}.html")
    atomic_write(path, render("report", data, title=f"{data['title']} · simplecnn"))
    return path
