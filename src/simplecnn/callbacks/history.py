"""What a callback has recorded: arrays by step, kept in one .npz file."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simplecnn.atomic import atomic_write


class History:
    """A row of named arrays for each of some steps, kept in the file `path`.

    It begins with the rows that the file holds up to `step`: those of a run that is resumed there.
    `arrays` stacks the rows: `step` (n,), and for every name (n, ...). A name that a row lacks is
    NaN there.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        self.rows: dict[int, dict[str, NDArray]] = {}
        if path.is_file():
            with np.load(path) as file:
                arrays = dict(file)
            for i, row_step in enumerate(arrays.pop("step").tolist()):
                if row_step <= step:
                    self.add(row_step, **{name: values[i] for name, values in arrays.items()})

    def add(self, step: int, **values: ArrayLike) -> None:
        self.rows.setdefault(step, {}).update({k: np.asarray(v) for k, v in values.items()})

    def arrays(self) -> dict[str, NDArray]:
        steps = sorted(self.rows)
        names = list(dict.fromkeys(name for step in steps for name in self.rows[step]))
        stacked = {"step": np.array(steps, np.int64)}
        for name in names:
            known = next(self.rows[step][name] for step in steps if name in self.rows[step])
            gap = np.full(known.shape, np.nan)
            stacked[name] = np.stack([self.rows[step].get(name, gap) for step in steps])
        return stacked

    def save(self) -> None:
        if self.rows:
            write_npz(self.path, self.arrays())


def write_npz(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write arrays atomically into a file that NumPy loads without pickle."""
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, buffer.getvalue())
