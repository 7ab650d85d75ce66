"""The results of one part of an explanation, and how they are saved: completely or not at all."""

import errno
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.errors import InputError
from simplecnn.figures.raster import encode_png

Figures = Iterable[tuple[str, Figure]]
MAX_ATTEMPTS = 100  # to replace the results, while other processes do so too


class NotApplicable(InputError):
    """A part cannot explain networks of this kind; parts=all leaves it out."""


@dataclass(frozen=True)
class Findings:
    """Lines to print, a JSON record, the arrays behind the figures, and (name, figure) pairs.

    `figures` may be a generator, so that only one of a hundred figures is in memory at a time.
    `write`, if given, is called with the folder to write additional files to it.
    """

    lines: list[str]
    record: Mapping[str, Any]
    arrays: Mapping[str, NDArray]
    figures: Figures
    write: Callable[[Path], None] | None = None

    def save(self, folder: Path, name: str) -> Path:
        """Write everything to `folder/name` and return that path.

        An existing `folder/name` is replaced once all files are written; on an error it is kept.
        Safe to call from several processes at once: the last one is kept.
        """
        path = folder / name
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder, prefix=f".{name}.") as temporary:
            new = Path(temporary, "new")
            new.mkdir()
            (new / f"{name}.json").write_text(json.dumps(self.record, indent=2) + "\n")
            np.savez_compressed(new / f"{name}.npz", **dict(self.arrays))  # type: ignore[arg-type]
            for title, figure in self.figures:
                (new / f"{title}.png").write_bytes(encode_png(figure)[0])
            if self.write is not None:
                self.write(new)
            for attempt in range(MAX_ATTEMPTS):
                with suppress(FileNotFoundError):
                    path.rename(Path(temporary, f"old{attempt}"))
                try:
                    new.rename(path)
                    break
                except OSError as error:  # another process may have put its results there
                    occupied = error.errno in (errno.ENOTEMPTY, errno.EEXIST)
                    if not occupied or attempt + 1 == MAX_ATTEMPTS:
                        raise
        return path


def rounded(values: Iterable[float]) -> list[float | None]:
    """Round to four significant digits for JSON, which has no NaN: None instead."""
    return [None if np.isnan(value) else float(f"{value:.4g}") for value in values]
