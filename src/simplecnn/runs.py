"""Find runs and sweeps on disk by their records."""

import json
from pathlib import Path
from typing import Any

from simplecnn.errors import InputError

RECORD = "run.json"
SWEEP_RECORD = "sweep.json"


def read_record(path: Path) -> dict[str, Any]:
    """Return the content of run.json in directory `path`; empty if it is missing or damaged."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def latest(name: str, record: str = RECORD, *, needs: str = "") -> str:
    """The newest run for `last` or for a directory of runs; any other `name` unchanged.

    needs: a glob of files; runs that have them are preferred. Raises InputError for a sweep, unless
    its `record` is asked for.
    """
    top = Path("outputs" if name == "last" else name)
    if (top / record).exists() or not top.is_dir():
        return name
    if (top / SWEEP_RECORD).exists():
        raise InputError(
            f"{name} is a sweep: choose one of its jobs, such as {top / '0'}. To resume the sweep, "
            f"type its command again."
        )
    runs = runs_below(top, record)
    preferred = [run for run in runs if any(run.glob(needs))] if needs else []
    chosen = preferred or runs
    return str(chosen[-1]) if chosen else name


def runs_below(folder: Path, record: str = RECORD) -> list[Path]:
    """The runs in a directory of runs, the newest last; sweeps for their `record`."""
    records = [path for depth in ("*", "*/*") for path in folder.glob(f"{depth}/{record}")]
    return [path.parent for path in sorted(records, key=lambda path: path.stat().st_mtime)]
