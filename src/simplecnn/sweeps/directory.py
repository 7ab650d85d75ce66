"""One folder a sweep: what was asked, by which source, and who is at it. No torch.

sweep.json      command, jobs, the hash of every file of conf/ and src/ at the launch
0/ 1/ 2/ …      the run folders of the jobs
sweep.csv       a row a job
sweep.md        the report
sweep.png       the picture of the report
sweep.html      the page of the report
"""

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from simplecnn.errors import InputError
from simplecnn.locked_directory import LockedDirectory
from simplecnn.run_directory import RECORD as RUN_RECORD
from simplecnn.run_directory import short, write_json
from simplecnn.training.signals import slurm_job

RECORD = "sweep.json"
ROOM_OF_A_JOB = 8 << 20  # bytes: two checkpoints, pictures and logs of the default network


class SweepDirectory(LockedDirectory):
    """The folder of one sweep, and its record `sweep.json`."""

    kind = "sweep"

    @classmethod
    def claim(
        cls,
        path: str | Path,
        *,
        words: Sequence[str],
        jobs: Sequence[Sequence[str]] | None,
        command: Sequence[str],
        source: dict[str, str],
    ) -> "SweepDirectory":
        """Take `path` for a new sweep, or take up again the same sweep that it holds.

        `words` are all that was asked, `jobs` the words of each job where they are known before.
        `command` is what to type for the same again, `source` a hash for each file.

        Raises InputError, and writes nothing, where `path` holds something else, where another
        process has locked it, or where the source is not that of the launch.
        """
        folder = cls(path)
        asked = {"words": list(words), "jobs": None if jobs is None else [list(j) for j in jobs]}
        if (folder.path / RECORD).is_file():
            folder.record = _read(folder.path)
            key = "words" if jobs is None else "jobs"
            if folder.record.get(key) != asked[key]:
                raise InputError(
                    f"{short(path)} holds another sweep ({folder.record.get('command')}): "
                    f"name another hydra.sweep.dir."
                )
            changed = folder.changed(source)
            if changed:
                raise InputError(
                    f"{listed(changed)} changed since the sweep in {short(path)} was started: "
                    f"its jobs would not be comparable. Bring the old version back, or start a "
                    f"new sweep in another hydra.sweep.dir."
                )
        elif list(folder.path.glob(RUN_RECORD)) or list(folder.path.glob(f"*/{RUN_RECORD}")):
            raise InputError(
                f"{short(path)} holds runs of no sweep that can be continued: "
                f"name another hydra.sweep.dir."
            )
        num_left = 0 if jobs is None else len(jobs) - len(list(folder.path.glob(f"*/{RUN_RECORD}")))
        free = _free_bytes(folder.path)
        if free < num_left * ROOM_OF_A_JOB:
            raise InputError(
                f"{short(path)}: {num_left} jobs need some {num_left * ROOM_OF_A_JOB >> 20} MB "
                f"on disk, and {free >> 20} MB are free."
            )
        folder.lock()
        if not folder.record:
            folder.record = {
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": shlex.join(command),
                "script": command[0],
                **asked,
                "source": source,
                "slurm_job": slurm_job(),
            }
        folder.record["process"] = os.getpid()
        write_json(folder.path / RECORD, folder.record)
        return folder

    @classmethod
    def of_slurm_job(cls, root: Path) -> Path | None:
        """The sweep in a folder of `root` that this job of SLURM's began before."""
        for record in sorted(root.glob(f"*/{RECORD}"), reverse=True):
            with contextlib.suppress(InputError):
                folder = cls.open(record.parent)
                if folder.record.get("slurm_job") == slurm_job():
                    return folder.path
        return None

    @classmethod
    def open(cls, path: str | Path) -> "SweepDirectory":
        """A sweep that is there. Raises InputError where it is missing or damaged."""
        folder = cls(path)
        if not folder.path.is_dir():
            raise InputError(f"sweep={path}: there is no such folder.{_recent(folder.path)}")
        if not (folder.path / RECORD).is_file():
            raise InputError(
                f"sweep={path}: not a sweep of simplecnn, {RECORD} is missing."
                f"{_recent(folder.path)}"
            )
        folder.record = _read(folder.path)
        return folder

    def changed(self, source: dict[str, str]) -> list[str]:
        """The files that are not as they were when the sweep was started."""
        before: dict[str, str] = self.record["source"]
        return sorted(f for f in before.keys() | source.keys() if before.get(f) != source.get(f))


def source_hashes(*folders: Path) -> dict[str, str]:
    """What each .py and .yaml file of the package and of `folders` holds, as a short hash."""
    package = Path(__file__).resolve().parents[1]
    hashes = {}
    for root in {package, *(folder.resolve() for folder in folders)}:
        for path in sorted([*root.rglob("*.py"), *root.rglob("*.yaml")]):
            name = f"{root.name}/{path.relative_to(root).as_posix()}"
            hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return hashes


def _free_bytes(path: Path) -> int:
    """Free on the disk where `path` is, or would be."""
    there = next(p for p in [path.absolute(), *path.absolute().parents] if p.exists())
    return shutil.disk_usage(there).free


def listed(names: Sequence[str]) -> str:
    """The first of some file names, and how many more there are."""
    more = f" and {len(names) - 3} more files" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _read(path: Path) -> dict[str, Any]:
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        assert isinstance(record, dict) and "source" in record
    except (ValueError, AssertionError):
        raise InputError(f"{short(path / RECORD)} is damaged.") from None
    return record


def _recent(near: Path) -> str:
    """A hint that names the newest sweep below `outputs`, where there is one."""
    found: Iterable[Path] = Path("outputs").glob(f"*/*/{RECORD}")
    records = sorted(found, key=lambda p: p.stat().st_mtime)
    return f" The newest sweep here: sweep={records[-1].parent}" if records else ""
