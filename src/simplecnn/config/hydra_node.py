"""What may stand below `hydra` in a configuration: plugins, logging, folders. No torch.

Hydra builds the plugins and sets up the logging itself, before a job begins, and `hydra` says where
files go: so what may stand there is on a list, as is what a run is made of (`targets`).
"""

import importlib.util
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simplecnn.config.allow_list import allowed, not_allowed, target_nodes
from simplecnn.config.rules import argument_mistakes, is_inside, show

OPTUNA = "hydra_plugins.simplecnn_optuna.OptunaSweeper"
PLUGINS = {  # of each part of hydra
    "launcher": frozenset(
        {
            "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
            "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
            "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
            "hydra_plugins.simplecnn_joblib.JoblibLauncher",
            "hydra_plugins.simplecnn_ray.RayLauncher",
        }
    ),
    "sweeper": frozenset({"hydra._internal.core_plugins.basic_sweeper.BasicSweeper", OPTUNA}),
    "callbacks": frozenset({"simplecnn.sweeps.before.BeforeSweep"}),
}
OURS = ("hydra_plugins.simplecnn", "simplecnn.", "optuna.")  # whose arguments can be read
# A launcher, the module it needs, and the extra that installs it.
LAUNCHERS = {
    "hydra/launcher=ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
    "hydra/launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "hydra/launcher=submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
}
LOGGING_CLASSES = frozenset(
    {
        *("logging.Formatter", "logging.StreamHandler", "logging.FileHandler"),
        *(
            "logging.NullHandler",
            "simplecnn.console.ScreenHandler",
            "simplecnn.config.secrets.Formatter",
        ),
    }
)
STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
ROOT = "outputs"  # where files may go that nobody has named a folder for


def missing_launchers(words: Sequence[str]) -> list[str]:
    """A sentence for each launcher that a command line names and that is not installed."""
    return [
        _not_installed(word, LAUNCHERS[word][1])
        for word in words
        if word in LAUNCHERS and not _is_installed(LAUNCHERS[word][0])
    ]


def mistakes(config: DictConfig, *, typed: Collection[str]) -> dict[str, str]:
    """Everything below `hydra` that is not allowed, or cannot work: the key, and a sentence.

    `typed` are the keys that the command line gives: a folder that is named there is the user's
    own word, and may lie anywhere.
    """
    found = {key: sentence for part in PLUGINS for key, sentence in _of_plugin(config, part)}
    for part in ("job_logging", "hydra_logging"):
        found |= _of_logging(_plain(config, part), f"hydra.{part}")
    for name in ("env_set", "env_copy"):
        if config.hydra.job.get(name):
            key = f"hydra.job.{name}"
            found[key] = f"{key} is not taken: set environment variables before the command."
    verbose = config.hydra.verbose
    if not isinstance(verbose, bool | str) and not _are_texts(verbose):
        shown = show(verbose)
        found["verbose"] = f"hydra.verbose is {shown}: it must be true, false or a list of loggers."
    if config.hydra.mode is not None and "hydra.mode" not in typed:
        found["mode"] = "hydra.mode is set by the configuration: type -m instead, for several runs."
    return found | dict(_of_folders(config, typed))


def plugin_mistakes(node: Mapping[Any, Any]) -> Iterator[str]:
    """A sentence for each class below `hydra` that is not on its list, or lacks its package."""
    for part in PLUGINS:
        yield from (sentence for _, sentence in _of_classes(node.get(part), part))


def _of_plugin(config: DictConfig, part: str) -> Iterator[tuple[str, str]]:
    node = _plain(config, part)
    if node is None and part != "callbacks":
        yield f"hydra.{part}", f"hydra.{part} must be a plugin of Hydra."
    yield from _of_classes(node, part)
    for found in target_nodes(node, f"hydra.{part}"):
        if str(found.target).startswith(OURS):
            yield from argument_mistakes(found)


def _of_classes(node: Any, part: str) -> Iterator[tuple[str, str]]:
    extra = allowed() if part == "sweeper" else frozenset()
    for found in target_nodes(node, f"hydra.{part}"):
        key = f"{found.key}._target_"
        is_top = found.key == f"hydra.{part}"
        if found.target not in PLUGINS[part] and (is_top or found.target not in extra):
            yield key, f"{key}: {not_allowed(found.target)}."
        elif found.target == OPTUNA and not _is_installed("optuna"):
            yield key, _not_installed("hydra/sweeper=optuna", "optuna")


def _of_logging(node: Any, key: str) -> dict[str, str]:
    """What logging would build or open: only classes of the list, only the two streams."""
    found: dict[str, str] = {}
    if isinstance(node, Mapping):
        for name, value in node.items():
            inner = f"{key}.{name}"
            if name == "()" or (name == "class" and value not in LOGGING_CLASSES):
                built = ", ".join(sorted(LOGGING_CLASSES))
                found[inner] = f"{inner} is {show(value)}: logging builds {built}."
            elif name == "level" and value not in logging.getLevelNamesMapping():
                levels = "DEBUG, INFO, WARNING or ERROR"
                found[inner] = f"{inner} is {show(value)}: it must be {levels}."
            else:
                found |= _of_logging(value, inner)
    elif isinstance(node, list):
        for value in node:
            found |= _of_logging(value, key)
    elif isinstance(node, str) and node.startswith("ext://") and node not in STREAMS:
        found[key] = f"{key} is {show(node)}: it must be {' or '.join(STREAMS)}."
    return found


def _of_folders(config: DictConfig, typed: Collection[str]) -> Iterator[tuple[str, str]]:
    """Folders and files that would lie outside the output root, or cannot be made."""
    for key in ("hydra.run.dir", "hydra.sweep.dir"):
        try:
            path = OmegaConf.select(config, key)
        except OmegaConfBaseException:  # of a command that does no sweeps
            continue
        if not path:
            yield key, f"{key} is empty: it must be a folder."
        elif path == "." and not config.hydra.output_subdir:
            continue  # of a command that leaves no folder
        elif key not in typed and not is_inside(path, ROOT) and not _is_local(key):
            yield (
                key,
                f"{key} is {path!r} by the configuration, and that is outside {ROOT}: "
                f"if you want that, type {key}=… yourself.",
            )
        elif problem := _cannot_be_made(Path(path)):
            yield key, f"{key} is {path!r}: {problem}."
    output = config.hydra.runtime.output_dir
    paths = config.get("paths")
    if isinstance(paths, DictConfig) and "output_dir" in paths:
        key = "paths.output_dir"
        if not _is_same(str(paths.output_dir), output):
            yield key, f"{key} is where the run's folder is: type hydra.run.dir=… to move it."
    for key in ("hydra.output_subdir", "hydra.job.name", "hydra.sweep.subdir"):
        value = OmegaConf.select(config, key)
        if value is not None and not is_inside(os.path.join(output, str(value)), output):
            yield key, f"{key} is {show(str(value))}: it must stay in the folder of the run."
    for part in ("job_logging", "hydra_logging"):
        handlers = (_plain(config, part) or {}).get("handlers")
        for name, handler in handlers.items() if isinstance(handlers, Mapping) else ():
            file = handler.get("filename") if isinstance(handler, Mapping) else None
            if file is not None and not is_inside(str(file), output):
                key = f"hydra.{part}.handlers.{name}.filename"
                yield key, f"{key} is {show(file)}: it must stay in the folder of the run."


def _is_same(path: str, other: str) -> bool:
    return os.path.abspath(path) == os.path.abspath(other)


def _is_local(key: str) -> bool:
    """Whether the machine's own conf/local/default.yaml names this folder."""
    from simplecnn.config.composition import conf_dir

    path = conf_dir() / "local" / "default.yaml"
    return path.is_file() and OmegaConf.select(OmegaConf.load(path), key) is not None


def _cannot_be_made(path: Path) -> str | None:
    try:
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    if not there.is_dir():
        return f"{there} is a file, not a folder"
    return None if os.access(there, os.W_OK) else f"{there} cannot be written to"


def _plain(config: DictConfig, part: str) -> dict[Any, Any] | None:
    node = OmegaConf.select(config, f"hydra.{part}")
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else None
    return plain if isinstance(plain, dict) else None


def _are_texts(value: Any) -> bool:
    return OmegaConf.is_list(value) and all(isinstance(v, str) for v in value)


def _not_installed(choice: str, extra: str) -> str:
    return (
        f"{choice} needs what a plain installation leaves out. Type uv sync --extra {extra}, "
        f"or pip install 'simplecnn[{extra}]'."
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False
