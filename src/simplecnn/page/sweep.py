"""The page of a sweep, sweep.html: a table of its jobs, results by parameter, learning curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simplecnn.atomic import atomic_write
from simplecnn.page.html import render

PAGE = "sweep.html"


def write_sweep_page(folder: Path, data: Mapping[str, Any]) -> Path:
    """Write the page of the sweep in `folder`, and return its path.

    Args:
        data: `title`, `folder` (optional), `command`, `summary`, `answers` (pairs of a label and a
            text; those of "reproduce" and "resume" are commands), `means` (over seeds, cells by
            column), `metric`, `curve_metric`, `mode`, `keys` (the varied ones, without averaged
            seeds) and `jobs`, each with `name`, `label` (with its values), `status`, `link` (to its
            page, or None), `cells` (text by column), `values` (one per key), `result` (a number or
            None), `error`, `log` (a link, or None) and `curve` (pairs of epoch and value).
    """
    path = folder / PAGE
    atomic_write(path, render("sweep", data, title=f"{data['title']} · simplecnn"))
    return path
