"""A directory that one process at a time writes into, by a lock file. No torch."""

from pathlib import Path
from typing import Any

from simplecnn.errors import InputError, short

LOCK = ".lock"


class LockedDirectory:
    """A directory with a record, which a process locks before it writes into it.

    The lock ends with the process, however that ends. `kind` is what sentences call the directory.
    """

    kind: str

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.record: dict[str, Any] = {}
        from filelock import FileLock  # a fifth of a second, which no mistake has to wait for

        self._lock = FileLock(self.path / LOCK)

    def lock(self) -> None:
        """Make the directory and lock it. Raises InputError where that cannot be."""
        from filelock import Timeout

        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"The {self.kind} in {short(self.path)} is locked by another process."
            ) from None
        except OSError as error:
            raise InputError(f"{short(self.path)} cannot be written: {error.strerror}.") from None

    def release(self) -> None:
        """Unlock the directory."""
        if self._lock.is_locked:
            (self.path / LOCK).unlink(missing_ok=True)
            self._lock.release(force=True)

    def is_locked(self) -> bool:
        """Whether a process holds it."""
        if not (self.path / LOCK).exists():
            return False
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.path / LOCK, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that can be read only
            return False
