"""One folder a run: what is in it, how it is written, and how it is read again. No torch.

report.html      all of it on one page, for a browser
config.yaml      everything composed and resolved: the run can be built again from it
run.json         status, command, seed, versions, device, seconds, metrics, checksums
metrics.csv      every logged number
checkpoints/     best.ckpt and last.ckpt
images/          filters and feature maps as PNG
train.log        what was printed, Lightning's messages included
events.out.*     pictures and hyperparameters for TensorBoard
train/ val/ test/    the scalars of each stage for TensorBoard
"""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from simplecnn.atomic import atomic_write
from simplecnn.checkpoint_file import check_checkpoint, problem
from simplecnn.errors import InputError, short
from simplecnn.locked_directory import LockedDirectory
from simplecnn.old_runs import upgrade_config

RECORD = "run.json"
FORMAT = 3  # of the run directory: what can be resumed
CONFIG = "config.yaml"
VERSIONED = ("simplecnn", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")


class RunDirectory(LockedDirectory):
    """The folder of one run, and its record `run.json`, which every `update` writes at once."""

    kind = "run"
    writes = True  # False in the further processes of a run

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> "RunDirectory":
        """Lock `path` for a new run. Raises InputError where a run already lies there."""
        folder = cls(path)
        folder.lock()
        if (folder.path / RECORD).exists():
            folder.release()
            raise InputError(already_exists(folder.path))
        folder._remove_temporary_files()
        return folder._begin(config)

    @classmethod
    def resume_or_create(
        cls, path: str | Path, config: Mapping[str, Any], *, requested: bool = False
    ) -> "RunDirectory":
        """Take up the run of `config` in `path`, or begin it where there is none.

        What an interrupted run wrote stays, and it resumes from `last_checkpoint`. A run without
        a checkpoint starts over; so does one that failed, or whose checkpoint is damaged, unless
        its resume was `requested`. Raises InputError where the folder holds another run, or where
        another process has locked it.
        """
        folder = cls(path)
        if not (folder.path / RECORD).exists():
            return cls.create(path, config)
        folder.lock()
        try:
            record = read_record(folder.path)
            if record and not folder.holds(config):
                raise InputError(already_exists(folder.path))
            folder._remove_temporary_files()
            last = folder.last_checkpoint()
            if last and requested:
                check_checkpoint(last)
            lost = record.get("status") == "failed" or (last and problem(last))
            if last is None or (lost and not requested):
                folder._clear()
                return folder._begin(config, command=record.get("command"))
        except BaseException:
            folder.release()
            raise
        folder.record = record
        times = [*record.get("continued", []), time.strftime("%Y-%m-%dT%H:%M:%S%z")]
        folder.update(status="running", error=None, continued=times)
        return folder

    @classmethod
    def to_resume(cls, path: str | Path) -> "RunDirectory":
        """A run that can be resumed. Raises InputError where it cannot, with what can be done."""
        folder = cls.open(path, key="resume")
        last = folder.last_checkpoint()
        if folder.record.get("status") == "finished":
            raise InputError(
                f"resume={path}: this run is finished. To train on from its end, type its command "
                f"again with ckpt_path={short(last or 'FILE')} and another trainer.max_epochs."
            )
        if folder.record.get("format") != FORMAT:
            raise InputError(
                f"resume={path}: this run was made by another version of simplecnn. It can be "
                f"evaluated, explained and exported; to train on, begin a new run."
            )
        if folder.is_locked():
            raise InputError(f"resume={path}: this run is locked by another process.")
        if last is not None:
            check_checkpoint(last)
        return folder

    def _begin(self, config: Mapping[str, Any], command: str | None = None) -> "RunDirectory":
        text = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
        atomic_write(self.path / CONFIG, text.encode())
        self.update(
            format=FORMAT,
            status="running",
            started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            command=command or command_line(),
            seed=config.get("seed"),
            git=git_revision(),
            versions={"python": platform.python_version()} | {v: version(v) for v in VERSIONED},
            seconds={},
        )
        return self

    @classmethod
    def open(cls, path: str | Path, *, key: str = "run") -> "RunDirectory":
        """A run that is there, named by `key`. Raises InputError where it is missing, incomplete
        or not ours."""
        folder = cls(path)
        if folder.path.is_file():
            raise InputError(f"{key}={path}: this is a file, name the folder of a run.")
        if not folder.path.is_dir():
            raise InputError(f"{key}={path}: there is no such folder.{_newest_run(key)}")
        for name in (CONFIG, RECORD):
            if not (folder.path / name).is_file():
                raise InputError(
                    f"{key}={path}: not a run of simplecnn, {name} is missing.{_newest_run(key)}"
                )
        folder.record = read_record(folder.path)
        if not folder.record:
            raise InputError(f"{key}={path}: {RECORD} is damaged (not a JSON object).")
        return folder

    def config(self) -> dict[str, Any]:
        """The run's configuration as plain dicts and lists."""
        try:
            config: Any = OmegaConf.to_container(_load(self.path / CONFIG), resolve=True)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.path / CONFIG} cannot be read: {reason}") from None
        if not {"model", "data", "trainer"} <= set(config):
            raise InputError(f"{self.path / CONFIG} is not the configuration of a run.")
        return upgrade_config(config)

    def config_here(self) -> dict[str, Any]:
        """The run's configuration, with the paths into its folder where the folder lies now."""
        return _placed(self.config(), str(self.path.absolute()))

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Whether the run here is that of `config`, wherever the folder lies."""
        try:
            mine = self.config()
        except InputError:
            return False
        return bool(_placed(mine, "") == _placed(config, ""))

    def last_checkpoint(self) -> Path | None:
        """The last state that was saved, if one was."""
        path = self.path / "checkpoints" / "last.ckpt"
        return path if path.is_file() else None

    def checkpoint(self, which: str = "best") -> Path:
        """The file behind `best`, `last` or a path, whole.

        The best of a run that chose none (`monitor: null`) is its last. Raises InputError, with
        what there is, where it is missing or damaged.
        """
        if which == "best" and self.config().get("monitor", "") is None:
            which = "last"
        named = self.path / "checkpoints" / f"{which}.ckpt"
        path = named if which in ("best", "last") else Path(which)
        if path.is_file():
            check_checkpoint(path)
            return path
        there = sorted(p.name for p in self.path.glob("checkpoints/*.ckpt"))
        names = ", ".join(there) or "none"
        raise InputError(f"checkpoint={which}: {path} does not exist. In this run: {names}.")

    def any_checkpoint(self) -> Path:
        """The best checkpoint, or the last one of a run that chose none."""
        best = self.path / "checkpoints" / "best.ckpt"
        return self.checkpoint("best" if best.is_file() else "last")

    def update(self, **entries: Any) -> None:
        """Add entries to the record and write it, so that a reader never sees half a file."""
        self.record |= entries
        if self.writes:
            write_json(self.path / RECORD, self.record)

    def _remove_temporary_files(self) -> None:
        """Remove what a process that was killed while it wrote has left."""
        for path in self.path.rglob(".*"):
            if re.fullmatch(r"\..+\.\d+", path.name) and path.is_file():
                path.unlink()

    def _clear(self) -> None:
        """Remove what a run writes, but for its log."""
        for name in ("checkpoints", "images", "train", "val", "test"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for pattern in ("events.out.*", "metrics.csv", "report.html", CONFIG, RECORD):
            for path in self.path.glob(pattern):
                path.unlink()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of the run into `seconds` of the record, also when it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.record["seconds"]
            seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - start, 3)
            self.update()


def _load(path: Path) -> DictConfig:
    """A YAML file of a run. It may come from someone else: aliases could unfold without end."""
    text = path.read_text(encoding="utf-8")
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ValueError("it has aliases, which no run writes")
    config = OmegaConf.create(text)
    if not isinstance(config, DictConfig):
        raise ValueError("it is not a mapping of keys")
    return config


def read_record(path: Path) -> dict[str, Any]:
    """run.json of the folder `path`; empty where it is missing or damaged."""
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _placed(config: Mapping[str, Any], place: str) -> Any:
    """A configuration whose run folder lies in `place`; with "", one that does not say where."""
    folder = (config.get("paths") or {}).get("output_dir")
    return moved(config, folder, place) if folder else config


def moved(value: Any, before: str, here: str) -> Any:
    """The same value, with `here` for `before` in each text of it."""
    if isinstance(value, Mapping):
        return {moved(k, before, here): moved(v, before, here) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [moved(part, before, here) for part in value]
    return value.replace(before, here) if isinstance(value, str) else value


def already_exists(path: Path) -> str:
    return f"{path} holds a run already, and none is ever overwritten: name another hydra.run.dir."


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader never sees half of it."""
    atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())


def command_line() -> str:
    """The command of this process, to be typed again."""
    return as_typed(shlex.join([short(sys.argv[0]), *sys.argv[1:]]))


def as_typed(command: str) -> str:
    """A command as one would type it: a script behind `python`, or all behind `uv run` where this
    process runs under it."""
    if "UV" in os.environ:
        return f"uv run {command}"
    return f"python {command}" if shlex.split(command)[0].endswith(".py") else command


def tensorboard(folder: Path) -> str:
    """The command that shows `folder` in TensorBoard, every picture of it, on this machine only."""
    return as_typed(
        f"tensorboard --samples_per_plugin images=500 --logdir {shlex.quote(short(folder))}"
    )


def git_revision() -> dict[str, Any] | None:
    """The commit of the source and whether it was changed; None for an installed package."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=10, check=True
        )
        return result.stdout.strip()

    try:
        if not git("ls-files", __file__):
            return None
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _newest_run(key: str) -> str:
    """A hint that names the newest run here, where there is one."""
    records = [path for depth in ("*", "*/*") for path in Path("outputs").glob(f"{depth}/{RECORD}")]
    records.sort(key=lambda path: path.stat().st_mtime)
    return f" The newest run here: {key}={records[-1].parent}" if records else ""
