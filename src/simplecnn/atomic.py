"""Files that are whole or not there: written under a temporary name, flushed, renamed. No torch."""

import os
from collections.abc import Callable
from pathlib import Path


def atomic_write(
    path: Path, content: bytes | memoryview, before_rename: Callable[[], None] | None = None
) -> None:
    """Put `content` in the file `path`, so that nobody ever sees a part of it.

    A process that is killed, or a disk that is full, leaves the file that was there before.
    `before_rename` is called when the new file is on disk, and not yet in its place. Raises
    OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if before_rename is not None:
            before_rename()
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def _flush_folder(folder: Path) -> None:
    """Have the new name on disk too, where the system can."""
    try:
        number = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(number)
    except OSError:
        pass
    finally:
        os.close(number)
