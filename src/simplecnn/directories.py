"""Directories of runs and sweeps: found by their record, locked by the process that writes."""

import json
from pathlib import Path
from typing import Any

from simplecnn.errors import InputError, relative_path

LOCK = ".lock"
RECORD = "run.json"
SWEEP_RECORD = "sweep.json"
CHECKPOINTS = "checkpoints/*.ckpt"  # in the directory of a run


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
            self._lock.acquire(timeout=0.5)  # `is_locked` of another process takes it for a moment
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


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of run.json in directory `path`; empty if it is missing or damaged.

    Entries that a damaged or edited file has instead of texts and numbers are left out.
    """
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    if not isinstance(record.get("status", ""), str):
        del record["status"]
    for key in ("metrics", "best", "seconds"):
        entry = record.get(key)
        if isinstance(entry, dict):
            record[key] = {k: v for k, v in entry.items() if isinstance(v, int | float)}
        elif entry is not None:
            del record[key]
    return record


def latest(name: str, record: str = RECORD, *, needs: str = "") -> str:
    """The newest run for `last` or for a directory of runs; any other `name` unchanged.

    needs: a glob of files; runs that have them are preferred. Runs that failed before the end of
    their first epoch are taken only if there is no other. Raises InputError for a sweep, unless its
    `record` is asked for.
    """
    top = Path("outputs" if name == "last" else name)
    if (top / record).exists():
        return str(top)
    if not top.is_dir():
        return name
    if (top / SWEEP_RECORD).exists():
        raise InputError(
            f"{name} is a sweep: choose one of its jobs, such as {top / '0'}. To resume the sweep, "
            f"type its command again."
        )
    runs = runs_below(top, record)
    started = [run for run in runs if not _failed_at_start(run)]
    preferred = [run for run in runs if any(run.glob(needs))] if needs else []
    chosen = preferred or started or runs
    return str(chosen[-1]) if chosen else name


def _failed_at_start(run: Path) -> bool:
    return read_record(run).get("status") == "failed" and not any(run.glob(CHECKPOINTS))


def runs_below(folder: Path, record: str = RECORD) -> list[Path]:
    """The runs in a directory of runs, the newest last; sweeps for their `record`."""
    records = [path for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{record}")]
    return [path.parent for path in sorted(records, key=lambda path: path.stat().st_mtime)]
