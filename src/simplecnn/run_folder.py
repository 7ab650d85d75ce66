"""One folder a run: what is in it, how it is written, and how it is read again. No torch.

config.yaml      everything composed and resolved: the run can be built again from it
run.json         status, command, seed, versions, device, seconds, metrics
metrics.csv      every logged number
checkpoints/     best.ckpt and last.ckpt
images/          filters and feature maps as PNG
train.log        what was printed, Lightning's messages included
events.out.*     the same for TensorBoard
"""

import json
import os
import platform
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

from simplecnn import secrets
from simplecnn.errors import InputError

RECORD = "run.json"
CONFIG = "config.yaml"
VERSIONED = ("simplecnn", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")


class RunFolder:
    """The folder of one run, and its record `run.json`, which every `update` writes at once."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.record: dict[str, Any] = {}

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> "RunFolder":
        """Claim `path` for a new run. Raises InputError where a run already lies there."""
        folder = cls(path)
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            (folder.path / RECORD).touch(exist_ok=False)
        except FileExistsError:
            raise InputError(taken(folder.path)) from None
        OmegaConf.save(OmegaConf.create(dict(config)), folder.path / CONFIG)
        folder.update(
            status="running",
            started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            command=command_line(),
            seed=config.get("seed"),
            git=git_revision(),
            versions={"python": platform.python_version()} | {v: version(v) for v in VERSIONED},
            seconds={},
        )
        return folder

    @classmethod
    def again(cls, path: str | Path, config: Mapping[str, Any]) -> "RunFolder":
        """Take up the run of `config` in `path`, or begin it where there is none.

        What an interrupted run wrote stays, and `last_checkpoint` says where it goes on. A failed
        one, or one without a checkpoint, starts over. Raises InputError where the folder holds
        another run.
        """
        folder = cls(path)
        if not (folder.path / RECORD).exists():
            return cls.create(path, config)
        record = read_record(folder.path)
        if record and not folder.holds(config):
            raise InputError(taken(folder.path))
        if record.get("status") == "failed" or not folder.last_checkpoint():
            folder._clear()
            return cls.create(path, config)
        folder.record = record
        times = [*record.get("continued", []), time.strftime("%Y-%m-%dT%H:%M:%S%z")]
        folder.update(status="running", error=None, continued=times)
        return folder

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """A run that is there. Raises InputError where it is missing, incomplete or not ours."""
        folder = cls(path)
        if not folder.path.is_dir():
            raise InputError(f"run={path}: there is no such folder.{_recent_runs(folder.path)}")
        for name in (CONFIG, RECORD):
            if not (folder.path / name).is_file():
                raise InputError(
                    f"run={path}: not a run of simplecnn, {name} is missing."
                    f"{_recent_runs(folder.path)}"
                )
        try:
            folder.record = json.loads((folder.path / RECORD).read_text(encoding="utf-8"))
            assert isinstance(folder.record, dict)
        except (OSError, ValueError, AssertionError, RecursionError):
            raise InputError(f"run={path}: {RECORD} is damaged (not a JSON object).") from None
        return folder

    def config(self) -> dict[str, Any]:
        """The run's configuration as plain dicts and lists."""
        try:
            config = secrets.plain(_load(self.path / CONFIG))
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"{self.path / CONFIG} cannot be read: {reason}") from None
        if not {"model", "data", "trainer"} <= set(config):
            raise InputError(f"{self.path / CONFIG} is not the configuration of a run.")
        return config

    def holds(self, config: Mapping[str, Any]) -> bool:
        """Whether the run here is that of `config`, wherever the folder lies."""
        try:
            mine = self.config()
        except InputError:
            return False
        given = OmegaConf.to_container(OmegaConf.create(dict(config)))
        assert isinstance(given, dict)
        return _without_place(mine) == _without_place({str(k): v for k, v in given.items()})

    def last_checkpoint(self) -> Path | None:
        """The state after the last finished epoch, where it was saved."""
        path = self.path / "checkpoints" / "last.ckpt"
        return path if path.is_file() else None

    def checkpoint(self, which: str = "best") -> Path:
        """The file behind `best`, `last` or a path. Raises InputError with what there is."""
        named = self.path / "checkpoints" / f"{which}.ckpt"
        path = named if which in ("best", "last") else Path(which)
        if path.is_file():
            return path
        there = sorted(p.name for p in self.path.glob("checkpoints/*.ckpt"))
        names = ", ".join(there) or "none"
        raise InputError(f"checkpoint={which}: {path} does not exist. In this run: {names}.")

    def any_checkpoint(self) -> Path:
        """The best checkpoint, or the last one of a run that chose none."""
        best = self.path / "checkpoints" / "best.ckpt"
        return best if best.is_file() else self.checkpoint("last")

    def update(self, **entries: Any) -> None:
        """Add entries to the record and write it, so that a reader never sees half a file."""
        self.record |= entries
        write_json(self.path / RECORD, self.record)

    def _clear(self) -> None:
        """Remove what a run writes, but for its log."""
        for name in ("checkpoints", "images"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for pattern in ("events.out.*", "metrics.csv", CONFIG, RECORD):
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


def _without_place(config: Mapping[str, Any]) -> Any:
    """A configuration that does not say where its run folder lies."""
    place = str((config.get("paths") or {}).get("output_dir"))
    return json.loads(json.dumps(config).replace(json.dumps(place)[1:-1], ""))


def taken(path: Path) -> str:
    return f"{path} holds a run already, and none is ever overwritten: name another hydra.run.dir."


def write_json(path: Path, content: Any) -> None:
    """Write JSON under a temporary name beside `path`, then rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def command_line() -> str:
    """The command of this process, to be typed again."""
    return with_uv(shlex.join([short(sys.argv[0]), *sys.argv[1:]]))


def with_uv(command: str) -> str:
    """A command as one would type it again: behind `uv run` where this process runs under it."""
    return f"uv run {command}" if "UV" in os.environ else command


def short(path: str | Path) -> str:
    """A path as one would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


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


def _recent_runs(near: Path) -> str:
    """A hint that names the newest run below the same top folder, where there is one."""
    top = Path(near.parts[0]) if near.parts else Path("outputs")
    if near.is_absolute() or not top.is_dir():
        top = Path("outputs")
    records = sorted(top.glob(f"*/*/{RECORD}"), key=lambda p: p.stat().st_mtime)
    return f" The newest run here: run={records[-1].parent}" if records else ""
