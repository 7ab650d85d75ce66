"""What one part of an explanation found, and how it is written: all of it, or nothing."""

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures.raster import encode_png

Figures = Iterable[tuple[str, Figure]]


@dataclass(frozen=True)
class Findings:
    """Pictures by name, the arrays they are drawn from, numbers for a record, lines to print.

    `figures` may draw only when it is read, so that a hundred of them are never held at once.
    `write`, where given, puts further files into the folder that it is called with.
    """

    lines: list[str]
    record: Mapping[str, Any]
    arrays: Mapping[str, NDArray]
    figures: Figures
    write: Callable[[Path], None] | None = None

    def save(self, folder: Path, name: str) -> Path:
        """Write all of it to `folder/name`, in the place of what was there. Gives that path."""
        with replaced_folder(folder / name) as new:
            (new / f"{name}.json").write_text(json.dumps(self.record, indent=2) + "\n")
            np.savez_compressed(new / f"{name}.npz", **dict(self.arrays))  # type: ignore[arg-type]
            for title, figure in self.figures:
                (new / f"{title}.png").write_bytes(encode_png(figure)[0])
            if self.write is not None:
                self.write(new)
        return folder / name


@contextmanager
def replaced_folder(path: Path) -> Iterator[Path]:
    """An empty folder that takes the place of `path` when the block ends well, else vanishes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new.{os.getpid()}")
    old = path.with_name(f".{path.name}.old.{os.getpid()}")
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    try:
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
