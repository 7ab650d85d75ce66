"""What one part of an explanation found, and how it is written: all of it, or nothing."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
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
            if path.exists():
                path.rename(Path(temporary, "old"))
            new.rename(path)
        return path


def rounded(values: Iterable[float]) -> list[float | None]:
    """Four digits of each, for a JSON file, which knows no NaN."""
    return [None if np.isnan(value) else float(f"{value:.4g}") for value in values]
