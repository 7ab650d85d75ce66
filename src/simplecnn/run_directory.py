"""The directory of a run: its layout, and reading and writing it. Does not import torch.

report.html      a self-contained HTML report
config.yaml      the composed and resolved configuration, from which the run can be rebuilt
run.json         status, command, seed, versions, device, seconds, metrics, checksums
metrics.csv      all logged metrics
checkpoints/     best.ckpt and last.ckpt
images/          filters and feature maps as PNG
train.log        all log messages, including Lightning's
events.out.*     images and hyperparameters for TensorBoard
train/ val/ test/    the scalars of each stage for TensorBoard
"""

import csv
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from simplecnn.atomic import atomic_write
from simplecnn.checkpoint_file import check_checkpoint, find_damage
from simplecnn.directories import (
    CHECKPOINTS,
    LOCK,
    RECORD,
    LockedDirectory,
    read_record,
    runs_below,
)
from simplecnn.errors import InputError, relative_path, reraise
from simplecnn.old_runs import upgrade_config

FORMAT = 3  # of run directories; only runs of the current format can be resumed
CONFIG = "config.yaml"
WRITTEN = (".hydra", "checkpoints", "explain", "images", "predictions", "train", "val", "test")
PACKAGES = ("simplecnn", "torch", "torchvision", "pytorch-lightning", "hydra-core", "numpy")


class RunDirectory(LockedDirectory):
    """The directory of one run and its record, which every `update` writes to run.json."""

    kind = "run"
    writes = True  # False in processes of rank > 0

    @classmethod
    def create(
        cls, path: str | Path, config: Mapping[str, Any], *, command: str | None = None
    ) -> "RunDirectory":
        """Create and lock the directory of a new run. Raises InputError if it is not empty.

        command: what starts this run, for its record; None for the command line.
        """
        raise_unless_new(Path(path))
        directory = cls(path)
        directory.lock()
        try:
            raise_unless_new(directory.path)  # another process may have been faster
        except InputError:
            directory.release()
            raise
        directory._remove_temporary_files()
        return directory._start(config, command)

    @classmethod
    def resume_or_create(
        cls,
        path: str | Path,
        config: Mapping[str, Any],
        *,
        requested: bool = False,
        command: str | None = None,
    ) -> "RunDirectory":
        """Resume the run of `config` in `path`, or create it if it does not exist.

        An interrupted run keeps its files and resumes from `last_checkpoint`. A run without a
        checkpoint starts over, as does a run that failed or whose checkpoint is damaged, unless
        the user `requested` to resume it. Raises InputError if the directory contains another run
        or is locked by another process.
        """
        directory = cls(path)
        if not (directory.path / RECORD).exists():
            return cls.create(path, config, command=command)
        directory.lock()
        try:
            record = read_record(directory.path)
            if record and not directory.has_config(config):
                raise InputError(already_exists_message(directory.path))
            directory._remove_temporary_files()
            last = directory.last_checkpoint()
            if last and not record:
                name = relative_path(directory.path)
                raise InputError(f"{name}/{RECORD} is damaged: delete {name} to start over.")
            if last and requested:
                check_checkpoint(last)
            unusable = record.get("status") == "failed" or (last and find_damage(last))
            if last is None or (unusable and not requested):
                directory._clear()
                return directory._start(config, command=record.get("command"))
        except BaseException:
            directory.release()
            raise
        directory.record = {"seconds": {}} | record
        times = [*record.get("continued", []), time.strftime("%Y-%m-%dT%H:%M:%S%z")]
        directory.update(status="running", error=None, continued=times)
        return directory

    @classmethod
    def open_to_resume(cls, path: str | Path) -> "RunDirectory":
        """Open a run to resume it. Raises InputError, with an alternative, if it cannot be."""
        directory = cls.open(path, key="resume")
        last = directory.last_checkpoint()
        others = sorted(directory.path.glob("checkpoints/*.ckpt"))
        if directory.record.get("status") == "pruned":
            raise InputError(
                f"resume={path}: this trial was pruned by its search, which does not resume it."
            )
        if directory.record.get("status") == "finished":
            if last is None:
                raise InputError(f"resume={path}: this run is finished, without last.ckpt.")
            # The length of a one-cycle schedule is fixed.
            is_fixed = "OneCycleLR" in str((directory.config().get("model") or {}).get("scheduler"))
            raise InputError(
                f"resume={path}: this run is finished. To train it further, type its command "
                f"again with ckpt_path={relative_path(last)} "
                f"{'ckpt_weights_only=true ' * is_fixed}and a larger trainer.max_epochs."
            )
        if directory.record.get("format") != FORMAT:
            raise InputError(
                f"resume={path}: this run was created by another version of simplecnn. It can be "
                f"evaluated, explained and exported; to train further, start a new run."
            )
        if directory.is_locked():
            raise InputError(f"resume={path}: this run is locked by another process.")
        for part in (directory.path, *directory.path.glob("*.log")):
            if not os.access(part, os.W_OK):
                raise InputError(f"resume={path}: {relative_path(part)} is not writable.")
        if last is not None:
            check_checkpoint(last)
        elif others and any(row["epoch"] != "0" for row in directory.metric_rows()):
            raise InputError(
                f"resume={path}: this run has no last.ckpt, from which a run is resumed. Type its "
                f"command again with ckpt_path={relative_path(others[0])}, or delete its folder "
                f"checkpoints to start over."
            )
        return directory

    def _start(self, config: Mapping[str, Any], command: str | None = None) -> "RunDirectory":
        text = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
        atomic_write(self.path / CONFIG, text.encode())
        self.update(
            format=FORMAT,
            status="running",
            started=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            command=command or command_line(),
            seed=config.get("seed"),
            git=git_revision(),
            versions={"python": platform.python_version()} | {v: version(v) for v in PACKAGES},
            seconds={},
        )
        return self

    @classmethod
    def open(cls, path: str | Path, *, key: str = "run") -> "RunDirectory":
        """Open an existing run. `key` is the override that names it in error messages.

        Raises InputError if it is missing, incomplete or not a run of simplecnn.
        """
        directory = cls(path)
        if directory.path.is_file():
            run = directory.path.absolute().parent.parent
            of_run = key == "run" and (run / RECORD).is_file()
            advice = f" Type run={relative_path(run)} checkpoint={directory.path.name}" * of_run
            raise InputError(f"{key}={path}: this is a file, not a run directory.{advice}")
        if not directory.path.is_dir():
            raise InputError(f"{key}={path}: there is no such folder.{_newest_run(key)}")
        for name in (CONFIG, RECORD):
            if not (directory.path / name).is_file():
                raise InputError(
                    f"{key}={path}: not a run of simplecnn ({name} is missing).{_newest_run(key)}"
                )
            if not os.access(directory.path / name, os.R_OK):
                raise InputError(f"{key}={path}: {name} cannot be read: permission denied.")
        directory.record = read_record(directory.path)
        if not directory.record:
            raise InputError(f"{key}={path}: {RECORD} is damaged (not a JSON object).")
        return directory

    def config(self) -> dict[str, Any]:
        """Return the run's configuration as plain dicts and lists. Raises InputError."""
        with reraise(f"{self.path / CONFIG} cannot be read"):
            text = (self.path / CONFIG).read_text(encoding="utf-8")
            config: Any = OmegaConf.to_container(_parse(text), resolve=True)
        if not all(isinstance(config.get(key), dict) for key in ("model", "data", "trainer")):
            raise InputError(f"{self.path / CONFIG} is not the configuration of a run.")
        return upgrade_config(config)

    def relocated_config(self) -> dict[str, Any]:
        """Return the run's configuration, with paths updated to where its directory is now."""
        return _relocate(self.config(), str(self.path.absolute()))

    def has_config(self, config: Mapping[str, Any]) -> bool:
        """Whether this run has the configuration `config`, apart from the directory's path."""
        try:
            saved = self.config()
        except InputError:
            return False
        return bool(_relocate(saved, "") == _relocate(config, ""))

    def last_checkpoint(self) -> Path | None:
        """The path of last.ckpt, or None if it does not exist."""
        path = self.path / "checkpoints" / "last.ckpt"
        return path if path.is_file() else None

    def checkpoint(self, which: str | None = None) -> Path:
        """Return the file of `best`, `last`, a name in the run or a path; None: best, else last.

        Without a monitor (`monitor: null`), `best` is the last checkpoint. Raises InputError if
        the file is missing or damaged; the message lists the run's checkpoints.
        """
        if which is None:
            which = "best" if (self.path / "checkpoints" / "best.ckpt").is_file() else "last"
        if which == "best" and not self._has_monitor():
            which = "last"
        folder = self.path / "checkpoints"
        files = [Path(which), folder / which]
        if which in ("best", "last"):
            files = [folder / f"{which}.ckpt"]
        path = next((file for file in files if file.is_file()), files[0])
        if path.is_file():
            check_checkpoint(path)
            return path
        names = ", ".join(sorted(p.name for p in self.path.glob("checkpoints/*.ckpt"))) or "none"
        raise InputError(f"checkpoint={which}: {path} does not exist. In this run: {names}.")

    def metric_rows(self) -> list[dict[str, str]]:
        """The rows of metrics.csv that have an epoch; [] if the file is missing or damaged."""
        try:
            with (self.path / "metrics.csv").open(newline="", encoding="utf-8") as file:
                return [row for row in csv.DictReader(file) if row.get("epoch")]
        except (OSError, ValueError, csv.Error):
            return []

    def _has_monitor(self) -> bool:
        return self.config().get("monitor", "") is not None

    def metrics_of(self, checkpoint: Path) -> dict[str, float]:
        """The recorded metrics of a checkpoint: of its epoch, and of the test if it was tested."""
        if checkpoint.absolute().parent != (self.path / "checkpoints").absolute():
            return {}
        recorded: dict[str, float] = self.record.get("metrics") or {}
        has_best = (self.path / "checkpoints" / "best.ckpt").is_file() and self._has_monitor()
        is_tested = checkpoint.name == ("best.ckpt" if has_best else "last.ckpt")
        metrics = {}
        if checkpoint.name == "last.ckpt":
            metrics = {k: v for k, v in recorded.items() if not k.startswith("test/")}
        elif checkpoint.name == "best.ckpt" and (best := self.record.get("best")):
            metrics[self.config()["monitor"]] = best["value"]
        if is_tested and "test" in (self.record.get("seconds") or {}):
            metrics |= {k: v for k, v in recorded.items() if k.startswith("test/")}
        return metrics

    def update(self, **entries: Any) -> None:
        """Add entries to the record and write it atomically."""
        self.record |= entries
        if self.writes:
            write_json(self.path / RECORD, self.record)

    def _remove_temporary_files(self) -> None:
        """Remove temporary files of a process that was killed while writing."""
        for path in self.path.rglob(".*"):
            if re.fullmatch(r"\..+\.\d+", path.name) and path.is_file():
                path.unlink()

    def _clear(self) -> None:
        """Remove all files of the run except its log."""
        for name in ("checkpoints", "images", "train", "val", "test"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for pattern in ("events.out.*", "metrics.csv", "report.html", CONFIG, RECORD):
            for path in self.path.glob(pattern):
                path.unlink()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Record the duration of a phase in `seconds`, even if it fails."""
        start = time.perf_counter()
        try:
            yield
        finally:
            seconds = self.record["seconds"]
            seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - start, 3)
            self.update()


def raise_if_links_lead_out(path: Path) -> None:
    """Raise InputError if a run, which may be untrusted, has symbolic links to outside of it.

    In the folders of other programs, to which simplecnn writes nothing, there may be some (wandb).
    """
    written = (path / name for name in WRITTEN)
    for part in itertools.chain(path.iterdir(), *(folder.rglob("*") for folder in written)):
        if part.is_symlink() and not part.resolve().is_relative_to(path.resolve()):
            raise InputError(
                f"{relative_path(part)} is a symbolic link out of the run: nothing is written "
                f"there."
            )


def raise_unless_new(path: Path) -> None:
    """Raise InputError if a directory contains a run, or files that are not Hydra's.

    A run that starts over deletes its folders, such as `images` and `train`.
    """
    if (path / RECORD).exists():
        raise InputError(already_exists_message(path))
    files = path.iterdir() if path.is_dir() else ()
    others = sorted(f.name for f in files if not f.name.startswith(".") and f.suffix != ".log")
    is_stale = others == [CONFIG] and (path / LOCK).exists()  # killed before its first record
    if others and not is_stale:
        raise InputError(
            f"hydra.run.dir={relative_path(path)} already contains {', '.join(others[:3])}"
            f"{', …' if len(others) > 3 else ''}: a run needs a new directory of its own."
        )


def name_from(folder: Path, path: Path) -> str:
    """`path` seen from `folder`, as a file name: `0` in it, `opt2_0` in a folder beside it."""
    parts = [part for part in Path(os.path.relpath(path, folder)).parts if part != ".."]
    return re.sub(r"[^\w.-]", "_", "_".join(parts) or path.absolute().name)[-200:]


def name_and_step(picture: Path) -> tuple[str, int]:
    """The name of a picture in images/, and its step or 0; sorts pictures by name and age."""
    name, _, when = picture.stem.partition("_epoch=")
    step = re.search(r"step=(\d+)", when)
    return name, int(step[1]) if step else 0


@lru_cache(maxsize=4)  # a command reads the configuration of a run several times
def _parse(text: str) -> DictConfig:
    """Parse YAML, rejecting aliases: in an untrusted file, they may expand exponentially."""
    if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
        raise ValueError("it contains YAML aliases, which simplecnn never writes")
    config = OmegaConf.create(text)
    if not isinstance(config, DictConfig):
        raise ValueError("it is not a mapping of keys")
    return config


def _relocate(config: Mapping[str, Any], path: str) -> Any:
    """Replace the path of the run directory in a configuration."""
    folder = (config.get("paths") or {}).get("output_dir")
    return replace_in_strings(config, folder, path) if folder else config


def replace_in_strings(value: Any, old: str, new: str) -> Any:
    """Replace `old` by `new` in all strings of a nested value."""
    if isinstance(value, Mapping):
        return {
            replace_in_strings(k, old, new): replace_in_strings(v, old, new)
            for k, v in value.items()
        }
    if isinstance(value, list | tuple):
        return [replace_in_strings(part, old, new) for part in value]
    return value.replace(old, new) if isinstance(value, str) else value


def already_exists_message(path: Path) -> str:
    return (
        f"{path} already contains a run, and runs are never overwritten: choose another "
        f"hydra.run.dir."
    )


def write_json(path: Path, content: Any) -> None:
    """Write `content` as JSON, atomically."""
    atomic_write(path, (json.dumps(content, indent=2) + "\n").encode())


def command_line(words: Sequence[str] = ()) -> str:
    """A command, by default that of this process, as it can be typed on any machine."""
    program, *arguments = words or (relative_path(sys.argv[0]), *sys.argv[1:])
    prefix = ["uv", "run"] if "UV" in os.environ else ["python"] * program.endswith(".py")
    return shlex.join([*prefix, program, *arguments])


def shell_command(command: str) -> str:
    """A command of this environment as it can be typed here: with `uv run`, or with its Python."""
    if "UV" in os.environ:
        project = Path(__file__).resolve().parents[2]
        is_here = project in (Path.cwd(), *Path.cwd().parents)
        if is_here or not (project / "pyproject.toml").is_file():  # an installed package
            return f"uv run {command}"
        return f"uv run --project {shlex.quote(str(project))} {command}"
    program = shlex.split(command)[0]
    name = "python" if program.endswith(".py") else program
    path = Path(sys.executable).parent / name
    if "/" not in name and shutil.which(name) != str(path):  # not the environment on PATH
        name = shlex.quote(relative_path(path))
    return f"{name} {command}" if program.endswith(".py") else command.replace(program, name, 1)


def tensorboard_command(folder: Path) -> str:
    """The command that opens `folder` in TensorBoard with all steps of its images."""
    return shell_command(
        f"tensorboard --samples_per_plugin images=500 --logdir {shlex.quote(relative_path(folder))}"
    )


def git_revision() -> dict[str, Any] | None:
    """The commit of the source and whether it is dirty; None for an installed package."""
    here = Path(__file__).parent

    def git(*args: str) -> str:
        result = subprocess.run(
            ["git", "-C", str(here), *args], capture_output=True, text=True, timeout=10, check=True
        )
        return result.stdout.strip()

    try:
        if not git("ls-files", __file__):
            return None
        return {"revision": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _newest_run(key: str) -> str:
    """A sentence that names the newest run in outputs/ that `key` accepts, or an empty string."""
    runs, kind = runs_below(Path("outputs")), "run"
    if key == "resume":
        ended = "finished", "pruned"
        runs = [run for run in runs if read_record(run).get("status") not in ended]
        kind = "unfinished run"
    else:
        runs = [run for run in runs if any(run.glob(CHECKPOINTS))] or runs
    return f" The newest {kind} here: {key}={runs[-1]}" if runs else ""
