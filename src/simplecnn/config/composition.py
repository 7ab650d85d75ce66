"""Compose a configuration from the command line with Hydra, and validate it.

All mistakes in the overrides and in the keys and values that `schema` defines are reported at once.
Does not import torch, so they are reported within a second. The arguments of third-party classes
are checked later, by `arguments.check_classes`.
"""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import MISSING, DictConfig, OmegaConf, read_write
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

import simplecnn.config.resolvers  # noqa: F401 - registers them
from simplecnn.config.build import name_mistakes, nested_values, target_nodes
from simplecnn.config.overrides import (
    COMPOSE_ERRORS,
    OVERLAYS,
    apply_override,
    gist,
    key_mistake,
    option_mistake,
    parse_overrides,
    plain_config,
    select,
)
from simplecnn.config.schema import COMMANDS, Texts
from simplecnn.config.search_path import config_names, group_options, initialized, override_text
from simplecnn.config.spelling import dotted, find_full_key, missing_key, truncate
from simplecnn.config.targets import find_class
from simplecnn.config.validation import validation_errors
from simplecnn.errors import InputError, first_line, require_packages

REQUIRED_PACKAGES = {  # override: the optional package that it needs
    "hydra/launcher=ray": "ray",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
    "hydra/sweeper=optuna": "optuna",
    "hparams_search=optuna": "optuna",
}
Config = Mapping[str, Any]
Composed = tuple[dict[str, Any], DictConfig]  # plain values; the composition with `hydra`
Compositions = dict[tuple[str, ...], DictConfig]  # by command and group choices
_compositions: Compositions | None = None  # the cache of `cached_compositions`


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
            told = str(mistakes)
            missing = (text for text in error.mistakes if f"{text.split()[0]}=" not in told)
            raise InputError(*mistakes, *missing) from None
        except COMPOSE_ERRORS as error:
            raise InputError(*mistakes, gist(error)) from None
    sentences = {**validation_errors(name, values), **name_mistakes(values)}
    required = COMMANDS[name].model_fields.keys() - {"callbacks", "logger"}
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
    fields = COMMANDS[name].model_fields
    lists = {key for key, field in fields.items() if field.annotation in (Texts, Texts | None)}
    texts = (key for key, field in fields.items() if field.annotation in (str, Texts))
    required = [key for key in texts if fields[key].is_required()]
    parsed = list(parse_overrides(overrides, mistakes, lists=lists, required=required))
    paths = (o for o in parsed if o.key_or_group == "hydra.searchpath")  # adds group options
    choices = [override for override in paths if isinstance(override.value(), list)]
    values = []
    for override in (o for o in parsed if o not in choices):
        options = group_options(override.key_or_group, choices)
        if not options or override.is_sweep_override():
            values.append(override)
        elif sentence := option_mistake(override, options, choices):
            mistakes.append(sentence)
        else:
            choices.append(override)
    try:
        config = _composition(name, *map(override_text, choices))
    except COMPOSE_ERRORS as error:
        raise InputError(*mistakes, gist(error)) from None
    for override in values:
        try:
            apply_override(override, config)
        except COMPOSE_ERRORS as error:
            mistakes.append(key_mistake(override, config, error))
            only_lacks_plus = mistakes[-1].endswith(f"+{truncate(override_text(override))}")
            if only_lacks_plus and not override.is_sweep_override():  # others may depend on it
                OmegaConf.update(config, override.key_or_group, override.value(), force_add=True)
    recorded = config.hydra.overrides
    recorded.hydra = [override_text(o) for o in parsed if o.is_hydra_override()]
    recorded.task = [override_text(o) for o in parsed if not o.is_hydra_override()]
    directories = [OmegaConf.to_container(config.hydra[mode]) for mode in ("run", "sweep")]
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


def _refined(key: str, sentence: str, values: Config, config: DictConfig) -> str:
    """The message on a key, or a more specific one if the intention is recognized."""
    choices, value = config.hydra.runtime.choices, select(values, key)
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
        choice = f"{key}._target_={value}" if "." in value else f"{group}={value}"
        return f"{key} is {value!r}: type {choice}."
    if (
        key in values
        and "not a key" in sentence
        and (full := find_full_key(key, plain_config(config), ()))
    ):
        return f"{key} is not a key of the configuration. Did you mean {full}?"
    return sentence


@contextmanager
def _in_job_context(config: DictConfig) -> Iterator[None]:
    """Set the keys of `config.hydra` that Hydra sets in a job, for interpolations of them."""
    hydra_config: Any = HydraConfig.instance()
    previous = hydra_config.cfg
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_struct(config, False)
    config.hydra.job.num, config.hydra.job.id = 0, "0"
    try:
        hydra_config.cfg = config  # without set_config, which copies it
        for key in filter(partial(OmegaConf.is_interpolation, config), config):
            _ = config[key]  # so that an error names this key, not hydra.run.dir that refers to it
        config.hydra.runtime.output_dir = os.path.abspath(config.hydra.run.dir)
        OmegaConf.set_readonly(config.hydra, True)
        yield
    finally:
        hydra_config.cfg = previous


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Resolve everything but `hydra` to plain values.

    Raises InputError if a value is missing, or an interpolation cannot be resolved.
    """
    values: dict[str, Any] = {}
    try:
        if isinstance(paths := config.get("paths"), DictConfig):
            with read_write(config):  # once, instead of once per key that refers to a path
                config.paths = OmegaConf.to_container(paths, resolve=True)
        for key in (key for key in config if key != "hydra"):
            value = MISSING if OmegaConf.is_missing(config, key) else config[key]
            is_node = OmegaConf.is_config(value)
            values[str(key)] = OmegaConf.to_container(value, resolve=True) if is_node else value
    except RecursionError:
        raise InputError("A value of the configuration refers to itself.") from None
    except InterpolationToMissingValueError as error:
        raise InputError(missing_key(first_line(error).rpartition(" ")[2])) from None
    except OmegaConfBaseException as error:
        raise InputError(f"{error.full_key}: {first_line(error)}") from None
    if missing := sorted(key for key, value in nested_values(values) if value == MISSING):
        raise InputError(*map(missing_key, missing))
    return values


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
    nodes: dict[str, Any] = {
        key: node for key, node in target_nodes(values) if f"{key}._target_" in explicit
    }
    if not nodes:
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
        defaults = plain_config(_composition(name, *chosen, *groups))
    mistakes: list[str] = []
    for key, node in nodes.items():
        old = select(defaults, key)
        if not isinstance(old, dict) or old.get("_target_") in (None, node["_target_"]):
            continue
        try:
            if not _is_subclass(node, old):
                inner = (k.removeprefix(f"{key}.") for k in explicit if k.startswith(f"{key}."))
                arguments = {name.partition(".")[0] for name in inner}
                for argument in node.keys() - arguments:
                    del node[argument]
        except InputError as error:
            mistakes.append(f"{key}._target_: {error}")
    if mistakes:
        raise InputError(*mistakes)
    return values


def _is_subclass(node: Config, old: Config) -> bool:
    new, base = find_class(node["_target_"]), find_class(old["_target_"])
    return isinstance(new, type) and isinstance(base, type) and issubclass(new, base)


def _explicit_keys(hydra: Any, overrides: Sequence[str]) -> set[str]:
    """The keys and groups (`model.optimizer`) set by overrides or in the files of OVERLAYS."""
    keys: set[str] = set()
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        keys.add(_group_key(override.get_key_element().lstrip("+~")))
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
    defaults = content.pop("defaults", [])
    bases = [d for d in defaults if isinstance(d, str) and d != "_self_"]
    groups = {_group_key(group) for d in defaults if isinstance(d, dict) for group in d}
    return groups.union(dotted(content), *(_keys_in_file(folders, base) for base in bases))


def _group_key(group: str) -> str:
    """The key that an option of a group sets, such as `model.x` for `override /model/y@model.x`."""
    path, _, package = group.removeprefix("override ").partition("@")
    return package or path.strip("/").replace("/", ".")
