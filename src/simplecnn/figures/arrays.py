"""The arrays behind a figure, saved beside it in an `.npz` file."""

import logging
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from simplecnn.atomic import atomic_write
from simplecnn.errors import first_line, relative_path

log = logging.getLogger(__name__)


def read_npz(path: Path) -> dict[str, NDArray]:
    """Read all arrays of a file; empty if it is missing or, with a warning, if it is damaged."""
    if not path.is_file():
        return {}
    try:
        with path.open("rb") as content, np.load(content) as file:
            return dict(file)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read and is left out: %s", relative_path(path), first_line(error))
        return {}


def write_npz(path: Path, arrays: Mapping[str, NDArray]) -> None:
    """Write arrays atomically, without pickle."""
    buffer = BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, buffer.getvalue())
