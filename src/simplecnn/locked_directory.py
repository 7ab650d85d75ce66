"""A directory with a lock file, so that only one process at a time writes to it."""

from pathlib import Path
from typing import Any

from simplecnn.errors import InputError, relative_path

LOCK = ".lock"


class LockedDirectory:
    """A directory with a record, locked by the process that writes to it.

    The operating system releases the lock when the process ends, even if it is killed. `kind` is
    the noun for the directory in error messages.
    """

    kind: str

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.record: dict[str, Any] = {}
        from filelock import FileLock  # lazily: it takes 0.2 s, which would delay error messages

        self._lock = FileLock(self.path / LOCK)

    def lock(self) -> None:
        """Create the directory and lock it. Raises InputError if either fails."""
        from filelock import Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"The {self.kind} in {relative_path(self.path)} is locked by another process."
            ) from None
        except OSError as error:
            raise InputError(
                f"{relative_path(self.path)} cannot be written: {error.strerror}."
            ) from None

    def release(self) -> None:
        if self._lock.is_locked:
            (self.path / LOCK).unlink(missing_ok=True)
            self._lock.release(force=True)

    def is_locked(self) -> bool:
        """Whether a process holds the lock."""
        if not (self.path / LOCK).exists():
            return False
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.path / LOCK, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a read-only directory
            return False
