"""Atomic file writes: to a temporary file, flushed to disk, then renamed."""

import os
from contextlib import suppress
from pathlib import Path


def atomic_write(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path` atomically: readers never see a partial file.

    If the process is killed or the disk is full, an existing file stays intact. Raises OSError,
    whose `filename` is `path`.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with suppress(OSError):  # the folder is not writable
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):  # that of a full disk has no file name
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Flush the renamed directory entry to disk, where the system supports it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows cannot open directories
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
