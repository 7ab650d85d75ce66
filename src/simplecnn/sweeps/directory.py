"""One directory a sweep: what was asked, by which source, and which process works on it. No torch.

sweep.json      command, jobs, a hash of every file of conf/ and src/ when the sweep was started
0/ 1/ 2/ …      the run directories of the jobs
sweep.csv       a row a job
sweep.md        the report
sweep.png       the picture of the report
sweep.html      the page of the report
"""

import hashlib
import json
import os
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simplecnn.errors import InputError
from simplecnn.locked_directory import LockedDirectory
from simplecnn.run_directory import RECORD as RUN_RECORD
from simplecnn.run_directory import short, write_json
from simplecnn.slurm import slurm_job

RECORD = "sweep.json"


class SweepDirectory(LockedDirectory):
    """The directory of one sweep, and its record `sweep.json`."""

    kind = "sweep"

    @classmethod
    def claim(
        cls,
        path: str | Path,
        *,
        words: Sequence[str],
        jobs: list[list[str]] | None,
        command: Sequence[str],
        source: dict[str, str],
    ) -> "SweepDirectory":
        """Lock `path` for a new sweep, or to resume the same sweep.

        words: all overrides; jobs: those of each job, None where a search chooses them.
        command: what resumes the sweep; source: a hash for each file.
        Raises InputError, and writes nothing, where `path` holds anything else, where another
        process has locked it, or where the source has changed.
        """
        directory = cls(path)
        asked = {"words": list(words), "jobs": jobs}
        if (directory.path / RECORD).is_file():
            directory = cls.open(path)
            key = "words" if jobs is None else "jobs"
            if directory.record.get(key) != asked[key]:
                raise InputError(
                    f"{short(path)} holds another sweep ({directory.record['command']}): "
                    f"name another hydra.sweep.dir."
                )
            directory.check_source(source)
        elif any(any(directory.path.glob(f"{below}{RUN_RECORD}")) for below in ("", "*/")):
            raise InputError(
                f"{short(path)} holds runs that are no sweep: name another hydra.sweep.dir."
            )
        directory.lock()
        if not directory.record:
            directory.record = {
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": shlex.join(command),
                **asked,
                "source": source,
                "slurm_job": slurm_job(),
            }
            write_json(directory.path / RECORD, directory.record)
        return directory

    @classmethod
    def open(cls, path: str | Path) -> "SweepDirectory":
        """An existing sweep. Raises InputError where it is missing or damaged."""
        directory = cls(path)
        if not directory.path.is_dir():
            raise InputError(f"sweep={path}: there is no such folder. sweep=last is the newest.")
        if not (directory.path / RECORD).is_file():
            raise InputError(f"sweep={path}: not a sweep of simplecnn, {RECORD} is missing.")
        try:
            directory.record = json.loads((directory.path / RECORD).read_text(encoding="utf-8"))
            assert isinstance(directory.record, dict)
            assert {"command", "source"} <= set(directory.record)
        except (ValueError, AssertionError):
            raise InputError(f"{short(directory.path / RECORD)} is damaged.") from None
        return directory

    def check_source(self, source: dict[str, str]) -> None:
        """Raise InputError where a file is not as it was when the sweep was started."""
        before: dict[str, Any] = self.record["source"]
        changed = sorted(f for f in before.keys() | source.keys() if before.get(f) != source.get(f))
        if changed:
            more = f" and {len(changed) - 3} more files" if len(changed) > 3 else ""
            raise InputError(
                f"{', '.join(changed[:3])}{more} changed since the sweep in {short(self.path)} was "
                f"started: its jobs would not be comparable. Restore the old version, or start a "
                f"new sweep in another hydra.sweep.dir."
            )


def source_hashes(*folders: Path) -> dict[str, str]:
    """A short hash of each .py and .yaml file of the package and of `folders`, but for hidden ones
    and those of runs and sweeps."""
    package = Path(__file__).resolve().parents[1]
    hashes = {}
    for root in {package, *(folder.resolve() for folder in folders)}:
        for place, inner, files in os.walk(root):
            inner[:] = [
                name for name in inner
                if not name.startswith(".")
                and not any(Path(place, name, record).exists() for record in (RECORD, RUN_RECORD))
            ]  # fmt: skip
            for path in (Path(place, file) for file in files if file.endswith((".py", ".yaml"))):
                name = f"{root.name}/{path.relative_to(root).as_posix()}"
                hashes[name] = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return hashes
