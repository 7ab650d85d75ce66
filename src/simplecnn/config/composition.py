"""Compose a configuration from the command line with Hydra, and validate it.

All mistakes in the overrides and in the keys and values that `schema` defines are reported at once.
Does not import torch, so they are reported within a second. The arguments of third-party classes
are checked later, by `build.check_classes`.
"""

import copy
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import MarkedYAMLError, YAMLError

from simplecnn.config.build import find_class, name_mistakes, target_nodes
from simplecnn.config.schema import BUILT_IN, COMMANDS, Texts, Train
from simplecnn.config.spelling import (
    did_you_mean,
    dotted,
    find_full_key,
    missing_key,
    truncate,
    unknown_key,
)
from simplecnn.config.validation import validation_errors
from simplecnn.directories import latest
from simplecnn.errors import InputError, first_line, require_packages

OVERLAYS = ("experiment", "hparams_search", "debug", "local")  # groups that set keys of others
READABLE = ("HOME", "USER", "LOGNAME", "HOSTNAME", "TMPDIR", "SCRATCH", "SLURM_JOB_ID",
            "SLURM_ARRAY_TASK_ID", "CUDA_VISIBLE_DEVICES")  # fmt: skip
# What Hydra raises for a configuration that it cannot compose, including by its own bugs.
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, ValueError, TypeError, AssertionError,
                  AttributeError, KeyError, RecursionError, OSError, YAMLError)  # fmt: skip
REQUIRED_PACKAGES = {  # override: the optional package that it needs
    "hydra/launcher=ray": "ray",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
    "hydra/sweeper=optuna": "optuna",
    "hparams_search=optuna": "optuna",
}
MAX_NAME = 64  # characters of the overrides in the name of a run directory
Config = Mapping[str, Any]
Composed = tuple[dict[str, Any], DictConfig]  # plain values; the composition with `hydra`
Compositions = dict[tuple[str, ...], DictConfig]  # by command and group choices
requeued_run: dict[str, str] = {}  # "run": the directory that a requeued job resumes
config_names: dict[str, str] = {}  # command: its --config-name
_compositions: Compositions | None = None  # the cache of `cached_compositions`


# ------------------------------------------------------------------------------------ resolvers


def _run_dir(default: str, *, _root_: Any) -> str:
    """A new directory, named after the overrides, or the directory of a resumed run."""
    if _root_.get("resume") is not None:
        return latest(str(_root_.resume))
    overrides: Any = OmegaConf.to_container(_root_.hydra.overrides.task, resolve=False)
    return requeued_run.get("run", default + _override_suffix(overrides))


def _override_suffix(overrides: Sequence[str]) -> str:
    """The suffix of a run directory that names the overrides: `_lr-0.01_seed-3`."""
    name = ""
    for text in overrides:
        key, _, value = text.partition("=")
        if not key.lstrip("+~").startswith(("hydra", "experiment", "name", "paths", "ckpt_path")):
            last = re.split("[./@+~]", key)[-1]
            pair = f"no-{last}" if text.startswith("~") else f"{last}-{re.sub('[,/]+', '-', value)}"
            pair = "_" + re.sub(r"[^\w.+-]", "", pair, flags=re.ASCII)
            if len(name + pair) > MAX_NAME:
                return name or pair[:MAX_NAME]
            name += pair
    return name


def _output_subdir(default: str, *, _root_: Any) -> str | None:
    """Hydra's output subdirectory; None for a resumed run, which keeps its files."""
    return default if _root_.get("resume") is None and "run" not in requeued_run else None


def _env(name: str, *default: Any) -> str | None:
    """OmegaConf's `oc.env` for harmless variables, so that no secret gets into a file or a URL."""
    if not name.startswith("SIMPLECNN_") and name not in READABLE:
        allowed = f"SIMPLECNN_… and {', '.join(READABLE)}"
        raise ValueError(f"environment variable {name} is not readable: only {allowed} are")
    return oc.env(name, *default)


OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)
OmegaConf.register_new_resolver("output_subdir", _output_subdir, replace=True)
OmegaConf.register_new_resolver("oc.env", _env, replace=True)


class ConfigDirPlugin(SearchPathPlugin):
    """Adds the folder of `--config-dir` to the search path of compositions outside `hydra.main`."""

    path: str | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.path is not None:
            search_path.append("command-line", f"file://{self.path}")


Plugins.instance().register(ConfigDirPlugin)
# conf/trainer/auto.yaml includes this, so that other arguments of the Trainer need no plus.
ConfigStore.instance().store(
    group="arguments", name="any", node=OmegaConf.create({}, flags={"struct": False})
)


def conf_dir() -> Path:
    """The directory of the YAML files: beside `src` in a checkout, in the package if installed."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "conf", here.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"No conf/train.yaml in {here} or {here.parents[1]}.")


def command_help(name: str) -> str:
    """The text of `--help`: purpose and examples, config groups, and keys with their comments."""
    purpose, *blocks = _blocks(f"{name}.yaml")
    with initialized():
        config = compose(name, return_hydra_config=True)
        choices = config.hydra.runtime.choices
        hidden = re.compile("hydra|arguments|local|paths|.*@")
        # The choices lack groups that are lists, such as callbacks.
        groups = [g for g in sorted({*choices, *config}) if _options(g) and not hidden.match(g)]
        if name == "train":
            groups += ["hydra/launcher", "hydra/sweeper"]
        options = [f"  {group}: {', '.join(_options(group))}" for group in groups]
    parts = [re.sub("^# ?", "", purpose, flags=re.MULTILINE)]
    if groups:
        parts.append("\n".join(["Config groups (group=option)", *options]))
    parts.append("\n".join(["Keys (key=value)", *_indented(blocks)]))
    for group in ("model", "model/optimizer", "data", "trainer") if name == "train" else ("model",):
        if choice := choices.get(group):
            prefix = f"{group.replace('/', '.')}."
            keys = _indented(_blocks(f"{group}/{choice}.yaml")[1:], prefix)
            parts.append("\n".join([f"Keys of {group}={choice}", *keys]))
    parts.append("--cfg job shows the composed configuration, --hydra-help the options of Hydra.")
    return "\n\n".join(parts)


def _blocks(file: str) -> list[str]:
    """The head of a YAML file, then the text of each key, without `defaults` and `hydra`."""
    text = (conf_dir() / file).read_text(encoding="utf-8")
    head, *keys = re.split(r"\n(?=[a-z])", re.sub("^# yaml-language-server.*\n", "", text))
    return [head, *(key for key in keys if not key.startswith(("defaults:", "hydra:")))]


def _indented(blocks: Sequence[str], prefix: str = "") -> list[str]:
    lines = (f"{prefix}{block}".split("\n") for block in blocks)
    return [f"  {line}" for block in lines for line in block if line.strip()]


# ---------------------------------------------------------------------------------- composition


def compose_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Compose, validate and resolve a configuration to plain dicts and lists.

    Raises InputError with all mistakes of the overrides and of the configuration.
    """
    values, config = compose_checked(name, overrides)
    return drop_replaced_arguments(values, config.hydra, name)


def compose_checked(name: str, overrides: Sequence[str]) -> Composed:
    """Compose and validate; return the plain values and the composition with `hydra`.

    Imports no class. If an override sets a `_target_`, the values still contain the arguments of
    the replaced class; `drop_replaced_arguments` removes them. Raises InputError with all mistakes.
    """
    for override in overrides:
        if package := REQUIRED_PACKAGES.get(override):
            require_packages(override, package)
    mistakes: list[str] = []
    with initialized():
        config = _compose_overrides(name, overrides, mistakes)
        try:
            with _in_job_context(config):
                values = _resolved(config)
        except InputError as error:  # a key is missing too if its override was rejected
            rejected = [override.partition("=")[0] for override in overrides if mistakes]
            missing = (text for text in error.mistakes if text.split()[0] not in rejected)
            raise InputError(*mistakes, *missing) from None
        except COMPOSE_ERRORS as error:
            raise InputError(*mistakes, gist(error)) from None
    sentences = {**validation_errors(name, values), **name_mistakes(values)}
    required = COMMANDS.get(name, Train).model_fields.keys() - {"callbacks", "logger"}
    for key in (override[1:] for override in overrides if override.startswith("~")):
        if key in required and key not in values:
            sentences.setdefault(key, f"{key} is required: it cannot be deleted.")
    sentences = {key: _refined(key, text, values, config) for key, text in sentences.items()}
    run_dir = config.hydra.runtime.output_dir
    output_dir = (values.get("paths") or {}).get("output_dir") or run_dir
    if not isinstance(output_dir, str) or os.path.abspath(output_dir) != run_dir:
        sentences["paths"] = "paths.output_dir is the run directory: set it with hydra.run.dir=…"
    # Report an invalid value at its own key, not at the keys that interpolate it.
    direct = [text for key, text in sentences.items() if not _is_reference(config, key)]
    mistakes += direct or list(sentences.values())
    if mistakes:
        raise InputError(*mistakes)
    return values, config


def initialized() -> AbstractContextManager[Any]:
    """Initialize Hydra for `compose`, unless it is already initialized, as in a job."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialize_config_dir(str(conf_dir()), version_base="1.3")


@contextmanager
def cached_compositions(cache: Compositions | None = None) -> Iterator[None]:
    """Cache compositions by their group choices, in which most jobs of a sweep do not differ.

    cache: what to use and to fill; by default a new one.
    """
    global _compositions
    with initialized():
        _compositions = {} if cache is None else cache
        try:
            yield
        finally:
            _compositions = None


def _compose_overrides(name: str, overrides: Sequence[str], mistakes: list[str]) -> DictConfig:
    """Compose the valid overrides; append a message to `mistakes` for each of the others.

    Hydra composes only the group choices. All other overrides are set on the result, as Hydra would
    do, so that every invalid one is reported, and none costs another composition.
    """
    fields = COMMANDS.get(name, Train).model_fields
    lists = {key for key, field in fields.items() if field.annotation in (Texts, Texts | None)}
    parsed = list(parse_overrides(overrides, mistakes, lists=lists))
    choices = [o for o in parsed if o.key_or_group == "hydra.searchpath"]  # adds group options
    values = []
    for override in (o for o in parsed if o not in choices):
        options = _options(override.key_or_group, choices)
        if not options:
            values.append(override)
        elif sentence := _option_mistake(override, options):
            mistakes.append(sentence)
        else:
            choices.append(override)
    try:
        config = _composition(name, *map(override_text, choices))
    except COMPOSE_ERRORS as error:
        raise InputError(*mistakes, gist(error)) from None
    for override in values:
        try:
            _set(override, config)
        except COMPOSE_ERRORS as error:
            mistakes.append(_key_mistake(override, config, error))
    recorded = config.hydra.overrides
    recorded.hydra = [override_text(o) for o in parsed if o.is_hydra_override()]
    recorded.task = [override_text(o) for o in parsed if not o.is_hydra_override()]
    directories = OmegaConf.to_container(OmegaConf.masked_copy(config.hydra, ["run", "sweep"]))
    if "override_dirname" in str(directories) and not mistakes:  # set by Hydra's compose only
        return _compose(name, *map(override_text, parsed))
    return config


def _composition(name: str, *choices: str) -> DictConfig:
    """Compose group choices with Hydra, or copy the cached result in `cached_compositions`."""
    key = name, *choices
    if _compositions is None:
        return _compose(*key)
    if key not in _compositions:
        _compositions[key] = _compose(*key)
    return copy.deepcopy(_compositions[key])


def _compose(name: str, *overrides: str) -> DictConfig:
    return compose(config_names.get(name, name), list(overrides), return_hydra_config=True)


def override_text(override: Override) -> str:
    """An override as it was typed."""
    return str(override.input_line)


def parse_overrides(
    overrides: Sequence[str],
    mistakes: list[str],
    *,
    sweeps: bool = False,
    lists: Collection[str] = (),
) -> Iterator[Override]:
    """Parse overrides; append a message to `mistakes` for each that is not valid.

    sweeps: accept several values. lists: keys whose `key=a,b`, a sweep in Hydra's grammar, is
    read as `key=[a,b]`.
    """
    overrides = list(overrides)
    while "=" in overrides[1:-1]:
        i = overrides.index("=", 1)
        pair = f"{overrides[i - 1]}={overrides[i + 1]}"
        mistakes.append(f"Write {pair}, without spaces around the '='.")
        del overrides[i - 1 : i + 2]
    parser = OverridesParser.create(loader())
    for text in overrides:
        try:
            override = parser.parse_override(text)
            key = override.key_or_group
            sweep = override.value() if override.is_sweep_override() and not sweeps else None
            if key in lists and isinstance(sweep, ChoiceSweep) and sweep.simple_form:
                typed_key, _, values = text.partition("=")
                override, sweep = parser.parse_override(f"{typed_key}=[{values}]"), None
        except COMPOSE_ERRORS:
            typed_key, _, value = text.partition("=")
            hint = "write key=value, quoted where needed."
            if any(value.count(a) != value.count(b) for a, b in ("[]", "{}", "()")):
                hint = "a bracket is not closed."
            if value.endswith(","):
                hint = "it ends with a comma."
            if re.fullmatch(r"[+~]*[\w/]+/\w+\.[\w.]+", typed_key):
                hint = f"keys are written with dots, type {typed_key.replace('/', '.')}={value}"
            mistakes.append(f"{truncate(text)!r} cannot be parsed: {hint}")
            continue
        if sweep is None:
            yield override
        else:
            what = "lists several values" if override.is_discrete_sweep() else "is a search space"
            values = text.partition("=")[2] if re.search("=[^=(]*$", text) else "1,2"
            mistakes.append(
                f"{truncate(text)} {what}: add -m to run a sweep, or write a list as "
                f"{key}=[{truncate(values)}]."
            )


def loader() -> ConfigLoader:
    return GlobalHydra.instance().config_loader()


def _options(group: str, overrides: Sequence[Override] = ()) -> list[str]:
    """The options of a config group, those that an override of hydra.searchpath adds included."""
    if not group or group.startswith("hydra.") or "." in group:
        return []
    searchpath = [override_text(o) for o in overrides if o.key_or_group == "hydra.searchpath"]
    name = config_names.get("train", "train") if searchpath else None
    return sorted(loader().get_group_options(group, config_name=name, overrides=searchpath))


def _option_mistake(override: Override, options: Sequence[str]) -> str | None:
    """The message for an override that names an unknown option of its config group."""
    value = override.value()
    for choice in value if isinstance(value, list) else [value]:
        if choice is not None and choice not in options:
            hint = did_you_mean(str(choice), options)
            key = override.key_or_group
            return (
                f"{key}={truncate(str(choice))}: available options are {', '.join(options)}.{hint}"
            )
    return None


def _set(override: Override, config: DictConfig) -> None:
    """Apply an override as Hydra does. Raises one of COMPOSE_ERRORS if that is not possible."""
    key, value = override.key_or_group, override.value()
    if override.package is not None:
        raise ValueError(f"there is no config group {key}")
    if override.is_delete():
        current = OmegaConf.select(config, key, throw_on_missing=False)
        if current is None or value not in (None, current):
            raise ValueError(f"it is {current}")
        parent_key, _, last = key.rpartition(".")
        with open_dict(config):
            del (OmegaConf.select(config, parent_key) if parent_key else config)[last]
        return
    is_add = override.is_add()
    if is_add and not isinstance(value, dict | list):
        if OmegaConf.select(config, key, throw_on_missing=False) is not None:
            raise ValueError("it is already set")
    OmegaConf.update(config, key, value, force_add=is_add or override.is_force_add())


def _key_mistake(override: Override, config: DictConfig, error: Exception) -> str:
    """The message for an override that cannot be applied, with what was probably meant."""
    key, text = override.key_or_group, override_text(override)
    value = text.partition("=")[2]
    plain = _plain(config)
    groups = [str(group) for group in config.hydra.runtime.choices if "@" not in str(group)]
    parent_key, _, last = key.rpartition(".")
    parent = _select(plain, parent_key)
    exists = isinstance(parent, dict) and last in parent
    if override.is_delete():
        state = "not set" if not exists else f"not {value}" if value else "null"
        return f"{key} is {state}: it cannot be deleted."
    if override.is_add() and exists:
        return f"{key} is already set: leave out the plus, {truncate(text.lstrip('+'))}"
    if exists or override.package is not None or key.startswith("hydra."):
        return f"{truncate(text)}: {gist(error)}"
    if key.replace(".", "/") in groups:
        return f"{key} is a config group: type {key.replace('.', '/')}={truncate(value)}"
    if "/" in key and key.replace("/", ".") in set(dotted(plain)):
        return f"{key} is not a config group: type {truncate(key.replace('/', '.'))}={value}"
    if "/" in key:
        near = did_you_mean(key, groups).replace("?", f"={truncate(value)}?")
        return f"{key} is not a config group.{near}"
    if full_key := find_full_key(key, plain, groups):
        return f"{key} is not a key of the configuration. Type {truncate(f'{full_key}={value}')}"
    if not isinstance(parent, dict) or not parent_key:
        names = [*plain, *(g for g in groups if "/" not in g and not g.startswith("hydra"))]
        existing, first = _split_existing(key, plain)
        if not existing and (part := find_full_key(first, plain, groups)):
            full_key = key.replace(first, part.replace("/", "."), 1)
            return f"{key} is not a key of the configuration. Did you mean {full_key}?"
        if existing in ("callbacks", "logger") and first in _options(existing):
            return f"{existing}.{first} is not set: type {existing}=[default,{first}] as well."
        part = f"{existing}.{first}".lstrip(".")
        if options := _options(part.replace(".", "/")):
            return (
                f"{part} is not set: type {part.replace('.', '/')}=… as well. Available options "
                f"are {', '.join(options)}."
            )
        if existing in ("callbacks", "logger") and last == "_target_":
            return f"{existing}.{first} is not set yet: add it with a plus, +{truncate(text)}"
        if existing:
            names = [str(k) for k in _select(plain, existing) if not str(k).startswith("_")]
            return unknown_key(key, first, names, f"of {existing}")
        return unknown_key(key, first, list(dict.fromkeys(names)), "of the configuration")
    target = parent.get("_target_")
    names = [str(k) for k in parent if not str(k).startswith("_")]
    if not did_you_mean(last, names) and (inner := find_full_key(last, parent, ())):
        return f"{key} is not a key of {target or parent_key}. Type {parent_key}.{inner}={value}"
    schema = BUILT_IN.get(str(target))
    is_argument = target and not (schema and last not in schema.model_fields)
    if is_argument and not did_you_mean(last, names):
        return f"{key} is not set yet: add it with a plus, +{truncate(text)}"
    return unknown_key(key, last, names, f"of {target or parent_key}")


def _split_existing(key: str, config: Config) -> tuple[str, str]:
    """Split a key into its longest prefix that exists, and the first name that does not."""
    parts = key.split(".")
    for i, part in enumerate(parts):
        if not isinstance(_select(config, ".".join(parts[: i + 1])), Mapping):
            return ".".join(parts[:i]), part
    return key, ""


def _refined(key: str, sentence: str, values: Config, config: DictConfig) -> str:
    """The message on a key, or a more specific one if the intention is recognized."""
    choices, value = config.hydra.runtime.choices, _select(values, key)
    group = key.replace(".", "/")
    if key in OVERLAYS:
        header = "'# @package _global_'"
        return (
            f"{key}={choices.get(key)} has no effect: its file must begin with the line {header}."
        )
    if "." in key and key in values:
        outer, _, inner = key.partition(".")
        return (
            f"{key!r} is a single key with a dot in a YAML file: write {outer}: and, indented "
            f"below it, {inner}:"
        )
    if group in choices and group != key and isinstance(value, str):
        return f"{key} is {value!r}: type {group}={value}."
    if (
        key in values
        and "not a key" in sentence
        and (full := find_full_key(key, _plain(config), ()))
    ):
        return f"{key} is not a key of the configuration. Did you mean {full}?"
    return sentence


def gist(error: BaseException) -> str:
    """The essential line of an exception of Hydra or OmegaConf, whose messages are long."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}"
    if isinstance(error, MissingConfigException) and error.options:
        name = str(error.missing_cfg_file).rpartition("/")[2]
        options = sorted(error.options)
        near = did_you_mean(name, options)
        return f"{first_line(error)}: available options are {', '.join(options)}.{near}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    # Join the line that names the file with the reason below it.
    text = str(error).replace("raised while composing config:\n", "")
    line = first_line(cause or HydraException(text))
    if re.search(rf"@({'|'.join(OVERLAYS)})\.", line):
        return f"{line} Its file must begin with the line '# @package _global_'."
    return line


@contextmanager
def _in_job_context(config: DictConfig) -> Iterator[None]:
    """Set the keys of `config.hydra` that Hydra sets in a job, for interpolations of them."""
    hydra_config = HydraConfig.instance()
    previous = hydra_config.cfg
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_struct(config, False)
    config.hydra.job.num, config.hydra.job.id = 0, "0"
    try:
        hydra_config.set_config(config)  # which makes it read-only
        with read_write(config.hydra):
            config.hydra.runtime.output_dir = os.path.abspath(config.hydra.run.dir)
        hydra_config.set_config(config)
        yield
    finally:
        hydra_config.cfg = previous


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Resolve everything but `hydra` to plain values.

    Raises InputError if a value is missing, or an interpolation cannot be resolved.
    """
    keys = [str(key) for key in config if key != "hydra"]
    masked = OmegaConf.masked_copy(config, keys)
    try:
        if missing := sorted(OmegaConf.missing_keys(masked)):
            raise InputError(*map(missing_key, missing))
        values: Any = OmegaConf.to_container(masked, resolve=True)
    except RecursionError:
        raise InputError("A value of the configuration refers to itself.") from None
    except OmegaConfBaseException as error:
        raise InputError(f"{error.full_key}: {first_line(error)}") from None
    return {str(key): value for key, value in values.items()}


def _plain(config: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def _is_reference(config: Any, key: str) -> bool:
    """Whether a key, or a mapping that contains it, is an interpolation."""
    for part in key.split("."):
        if not isinstance(config, DictConfig) or part not in config:
            return False
        if OmegaConf.is_interpolation(config, part):
            return True
        config = config[part]
    return False


# ---------------------------------------------------------------------------- replaced `_target_`


def drop_replaced_arguments(values: dict[str, Any], hydra: Any, name: str) -> dict[str, Any]:
    """Drop, in place, the arguments that a group's file sets for a class that was replaced.

    A class is replaced by a `_target_` in an override or in a file of OVERLAYS. The arguments set
    there are kept; those of the group's file only if the new class is a subclass of the old one.
    Imports both classes; raises InputError if that fails.
    """
    overrides: Any = OmegaConf.to_container(hydra.overrides, resolve=False)
    explicit = _explicit_keys(hydra, overrides["task"])
    keys = [k for k, _ in target_nodes(values) if f"{k}._target_" in explicit]
    if not keys:
        return values
    hidden = ("hydra", "arguments", "callbacks", "logger", *OVERLAYS)
    groups = [
        f"{group}={choice}"
        for group, choice in hydra.runtime.choices.items()
        if choice is not None and not group.startswith(hidden)
    ]
    kept = ("callbacks=", "logger=", "hydra.searchpath=")
    chosen = [o for o in (*overrides["hydra"], *overrides["task"]) if o.startswith(kept)]
    with initialized():
        defaults = _plain(_composition(name, *chosen, *groups))
    mistakes: list[str] = []
    for key in keys:
        parent_key, _, last = key.rpartition(".")
        parent = _select(values, parent_key)
        old, node = _select(defaults, key), _select(values, key)
        if not isinstance(old, dict) or not isinstance(node, dict):
            continue
        try:
            if old.get("_target_") in (None, node["_target_"]) or _is_subclass(node, old):
                continue
        except InputError as error:
            mistakes.append(f"{key}._target_: {error}")
            continue
        match_argument = re.compile(rf"{re.escape(key)}\.(\w+)").match
        arguments = {match[1] for match in map(match_argument, explicit) if match}
        parent[last] = {name: value for name, value in node.items() if name in arguments}
    if mistakes:
        raise InputError(*mistakes)
    return values


def _is_subclass(node: Config, old: Config) -> bool:
    new, base = find_class(node["_target_"]), find_class(old["_target_"])
    return isinstance(new, type) and isinstance(base, type) and issubclass(new, base)


def _select(config: Any, key: str) -> Any:
    for part in key.split(".") if key else ():
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def _explicit_keys(hydra: Any, overrides: Sequence[str]) -> set[str]:
    """The keys that are set by overrides or in the chosen files of OVERLAYS."""
    keys: set[str] = set()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        keys.add(override.key_or_group)
        value = override.value()
        if isinstance(value, dict):
            keys |= set(dotted(value, f"{override.key_or_group}."))
    folders = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]
    for group in OVERLAYS:
        if choice := hydra.runtime.choices.get(group):
            keys |= _keys_in_file([folder / group for folder in folders], str(choice))
    return keys


def _keys_in_file(folders: Sequence[Path], name: str) -> set[str]:
    """The keys in the first `<name>.yaml` of `folders`, and in its defaults of the same group."""
    file = next((f for folder in folders if (f := folder / f"{name}.yaml").is_file()), None)
    content: Any = OmegaConf.to_container(OmegaConf.load(file)) if file else {}
    bases = [d for d in content.pop("defaults", []) if isinstance(d, str) and d != "_self_"]
    return set(dotted(content)).union(*(_keys_in_file(folders, base) for base in bases))
