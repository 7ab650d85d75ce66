"""The page of one run, or of two runs that are compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simplecnn.atomic import atomic_write
from simplecnn.errors import InputError, relative_path
from simplecnn.page.gather import gather
from simplecnn.page.html import render
from simplecnn.run_directory import RunDirectory, name_from

NO_IMAGES = b'"images":null'  # in a page


def write_report(runs: Sequence[RunDirectory], **options: Any) -> Path:
    """Write the page into the directory of the first run, and return its path.

    It is `report.html` for one run, `report_<name of the second>.html` for two (see `name_from`).
    `options` are those of `gather`. Raises InputError instead of replacing a page with images by
    one without.
    """
    data = gather(runs, **options)
    others = [name_from(runs[0].path.parent, run.path) for run in runs[1:]]
    path = runs[0].path / f"{'_'.join(('report', *others))}.html"
    if data["images"] is None and path.is_file() and NO_IMAGES not in path.read_bytes():
        raise InputError(
            f"{relative_path(path)} shows images that cannot be read now, and was not replaced. "
            f"Relative paths, such as paths.data_dir and data.root, start where the command is "
            f"typed: type it where the run was started, or delete the page first."
        )
    atomic_write(path, render("report", data, title=f"{data['title']} · simplecnn"))
    return path
