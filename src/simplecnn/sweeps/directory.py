"""The directory of a sweep: its lock, its record and its layout. Does not import torch.

sweep.json      command, jobs, and a hash of each file of conf/ and src/ and of each file with a
                class of the user's own, at the start of the sweep
0/ 1/ 2/ …      the run directories of the jobs
sweep.csv       one row per job
sweep.md        the report as Markdown
sweep.png       the figure of the report
sweep.html      the report as an interactive page
"""

import hashlib
import json
import os
import shlex
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from simplecnn.directories import RECORD as RUN_RECORD
from simplecnn.directories import SWEEP_RECORD as RECORD
from simplecnn.directories import LockedDirectory
from simplecnn.errors import InputError
from simplecnn.run_directory import relative_path, write_json
from simplecnn.slurm import slurm_job


class SweepDirectory(LockedDirectory):
    """The directory of one sweep and its record, `sweep.json`."""

    kind = "sweep"

    @classmethod
    def resume_or_create(
        cls,
        path: str | Path,
        *,
        overrides: Sequence[str],
        jobs: list[list[str]] | None,
        command: Sequence[str],
        source: dict[str, str],
    ) -> "SweepDirectory":
        """Lock `path` for a new sweep, or to resume the same sweep.

        overrides: those of the whole sweep.
        jobs: the overrides of each job; None if a search chooses them.
        command: the command line that resumes the sweep.
        source: the hash of each source file, by name; `./` begins the names of the user's own.

        Raises InputError, and writes nothing, if `path` holds other runs or another sweep, if
        another process has locked it, or if the source has changed.
        """
        directory = cls(path)
        request = {"words": list(overrides), "jobs": jobs}
        if (directory.path / RECORD).is_file():
            directory = cls.open(path)
            key = "words" if jobs is None else "jobs"
            if directory.record.get(key) != request[key]:
                raise InputError(
                    f"{relative_path(path)} holds another sweep ({directory.record['command']}): "
                    f"name another hydra.sweep.dir."
                )
            directory.check_source(source, Path.cwd())
        elif any(any(directory.path.glob(pattern)) for pattern in (RUN_RECORD, f"*/{RUN_RECORD}")):
            raise InputError(
                f"{relative_path(path)} holds runs that do not belong to a sweep: name another "
                f"hydra.sweep.dir."
            )
        directory.lock()
        if not directory.record:
            directory.record = {
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "command": shlex.join(command),
                **request,
                "source": source,
                "slurm_job": slurm_job(),
            }
            write_json(directory.path / RECORD, directory.record)
        elif jobs is None:  # a search, perhaps continued with more trials
            directory.record["command"] = shlex.join(command)
            write_json(directory.path / RECORD, directory.record)
        return directory

    @classmethod
    def open(cls, path: str | Path) -> "SweepDirectory":
        """Open an existing sweep. Raises InputError if it is missing or damaged."""
        directory = cls(path)
        if not directory.path.is_dir():
            raise InputError(f"sweep={path}: there is no such folder. sweep=last is the newest.")
        if not (directory.path / RECORD).is_file():
            raise InputError(f"sweep={path}: not a sweep of simplecnn, {RECORD} is missing.")
        try:
            record = json.loads((directory.path / RECORD).read_text(encoding="utf-8"))
        except ValueError:
            record = None
        if not isinstance(record, dict) or not {"started", "command", "source"} <= record.keys():
            raise InputError(f"{relative_path(directory.path / RECORD)} is damaged.")
        directory.record = record
        return directory

    def check_source(self, source: dict[str, str], working_dir: Path) -> None:
        """Raise InputError if a source file has changed since the sweep was started.

        The user's own files are those of the record, below `working_dir`; one that is missing there
        counts as unchanged, since a worker on a cluster may import it from elsewhere.
        """
        recorded: dict[str, Any] = self.record["source"]
        own = {name: working_dir / name for name in recorded if name.startswith("./")}
        hashes = {n: _hash(path) if path.is_file() else recorded[n] for n, path in own.items()}
        source = {**source, **hashes}
        files = recorded.keys() | source.keys()
        changed = sorted(file for file in files if recorded.get(file) != source.get(file))
        if changed:
            more = f" and {len(changed) - 3} more files" if len(changed) > 3 else ""
            raise InputError(
                f"{', '.join(changed[:3])}{more} changed since the sweep in "
                f"{relative_path(self.path)} was started: its jobs would not be comparable. "
                f"Restore the old version, or start a new sweep in another hydra.sweep.dir."
            )


def source_hashes(*folders: Path) -> dict[str, str]:
    """Hash each .py and .yaml file of the package and of `folders`.

    Skips hidden directories and the directories of runs and sweeps. A file is named by its folder,
    as `conf/a.yaml`; a second folder of that name by as many of its parents as it takes.
    """
    package = Path(__file__).resolve().parents[1]
    hashes = {}
    names: set[str] = set()
    for root in dict.fromkeys((package, *(folder.resolve() for folder in folders))):
        length = 1
        while (root_name := "/".join(root.parts[-length:])) in names:
            length += 1
        names.add(root_name)
        for parent, subfolders, files in os.walk(root):
            subfolders[:] = [
                name for name in subfolders
                if not name.startswith(".")
                and not any(Path(parent, name, record).exists() for record in (RECORD, RUN_RECORD))
            ]  # fmt: skip
            for path in (Path(parent, file) for file in files if file.endswith((".py", ".yaml"))):
                name = f"{root_name}/{path.relative_to(root).as_posix()}"
                hashes[name] = _hash(path)
    return hashes


def own_hashes(files: Iterable[Path], working_dir: Path) -> dict[str, str]:
    """Hash the user's own files below the working directory, such as that of a custom network."""
    return {f"./{path.relative_to(working_dir).as_posix()}": _hash(path) for path in files}


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
