"""The page of a sweep, sweep.html: a table of its jobs, each value against the result, curves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from simplecnn.atomic import atomic_write
from simplecnn.page.html import render

PAGE = "sweep.html"


def write_sweep_page(folder: Path, data: Mapping[str, Any]) -> Path:
    """Write the page of the sweep in `folder`; gives its path.

    data: `title`, `folder` (or none), `command`, `summary`, `answers` (pairs of a word and a text;
    those of "reproduce" and "resume" are commands), `means` (over seeds, cells by column),
    `metric`, `mode`, `keys` (what varied) and `jobs`, each with `name`, `status`, `link` (to its
    own page, or None), `cells` (text by column), `values` (one a key), `result` (a number or None),
    `error` and `curve` (pairs of epoch and value).
    """
    path = folder / PAGE
    atomic_write(path, render("sweep", data, title=f"{data['title']} · simplecnn"))
    return path
