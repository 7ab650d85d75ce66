"""Parse overrides, apply them to a configuration, and word what is wrong with them."""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from simplecnn.config.schema import BUILT_IN, COMMANDS, Trainer
from simplecnn.config.search_path import conf_dir, group_options, loader, override_text
from simplecnn.config.spelling import (
    SYNONYMS,
    did_you_mean,
    dotted,
    find_full_key,
    format_override,
    shell_quote,
    truncate,
    unknown_key,
)
from simplecnn.config.validation import accepts
from simplecnn.errors import first_line

Config = Mapping[str, Any]
LOADER_ARGUMENTS = ("num_workers", "pin_memory", "persistent_workers")  # of a DataLoader
OVERLAYS = ("experiment", "hparams_search", "debug", "local")  # groups that set keys of others
# What Hydra raises for a configuration that it cannot compose, including by its own bugs.
COMPOSE_ERRORS = (HydraException, OmegaConfBaseException, ValueError, TypeError, AssertionError,
                  AttributeError, KeyError, RecursionError, OSError, YAMLError)  # fmt: skip
# `lr = 3` and `lr =3` as one argument, those and `lr= 3` as several, joined by "\0".
SPACED = re.compile(r"(?:^|(?<=\0))([^=~\s\0]+)(?:[\s\0]+=[\s\0]*|=\0)([^=~\0][^=\0]*)(?=\0|$)")


def parse_overrides(
    overrides: Sequence[str],
    mistakes: list[str],
    *,
    lists: Collection[str] = (),
    required: Collection[str] = (),
) -> Iterator[Override]:
    """Parse overrides; append a message to `mistakes` for each that is not valid.

    lists: keys whose `key=a,b`, a sweep in Hydra's grammar, is read as `key=[a,b]`. required: keys
    of which the first that is not set is meant by a value without a key.
    """
    for key, value in SPACED.findall("\0".join(overrides)):
        pair = shell_quote(f"{key}={value}")
        mistakes.append(f"Write {pair}, without spaces around the '='.")
    line = SPACED.sub("", "\0".join(overrides))
    overrides = [text for text in line.split("\0") if text or "" in overrides]
    for start in [text for text in overrides if re.search(r"=\[.*,$", text)]:  # key=[1, 2]
        i, text = overrides.index(start), start
        while text.endswith(",") and i + 1 < len(overrides) and "=" not in overrides[i + 1]:
            text += overrides.pop(i + 1)
        overrides[i] = text
        if text != start and text.endswith("]"):
            mistakes.append(f"Write {shell_quote(text)}, without spaces.")
            del overrides[i]
    parser = OverridesParser.create(loader())
    for text in overrides:
        try:
            override = parser.parse_override(text)
            if not (key := override.key_or_group):
                raise ValueError("there is no key")
            if key in lists and getattr(override.value(), "simple_form", False):
                typed_key, _, values = text.partition("=")
                override = parser.parse_override(f"{typed_key}=[{values}]")
            yield override
        except COMPOSE_ERRORS:
            hint = _parsing_hint(text, [key for key in required if f"{key}=" not in str(overrides)])
            mistakes.append(f"{truncate(text)!r} cannot be parsed: {hint}")


def _parsing_hint(text: str, missing: Sequence[str]) -> str:
    if text in group_options("experiment"):
        return f"type experiment={text}"
    if "=" not in text and missing:
        key = missing[-1 if os.path.isfile(text) else 0]  # of run and image
        return f"type {shell_quote(format_override(key, text))}"
    key, _, value = text.partition("=")
    if value and re.fullmatch(r"[+~]*[\w/]+/\w+\.[\w.]+", key):
        return f"keys are written with dots, type {key.replace('/', '.')}={value}"
    if value.endswith(","):
        return "it ends with a comma."
    if any(value.count(a) != value.count(b) for a, b in ("[]", "{}", "()")):
        return "a bracket is not closed."
    is_text = len(text) < 200 and re.match(r"(?!\w+\()[^\[{('\"]", value)
    if is_text and re.fullmatch(r"[+~]*[\w./@]+", key, re.ASCII):
        return f"type {shell_quote(format_override(key, value))}"
    return "write key=value, quoted where needed."


def option_mistake(override: Override, options: Sequence[str], path: Sequence[Override]) -> str:
    """The message for an override that names an unknown option of its config group."""
    group, value = override.key_or_group, override.value()
    if override.is_delete() and value is None:
        return f"~{group}: type {group}=none" if group in ("callbacks", "logger") else ""
    for choice in value if isinstance(value, list) else [value]:
        folder, slash, _ = str(choice).rpartition("/")
        inner = group_options(f"{group}/{folder}", path) if slash else []
        names = [f"{folder}/{name}" for name in inner] or options
        if choice not in names:
            hint = did_you_mean(str(choice), names)  # none for null
            text = f"{group}={'null' if choice is None else truncate(str(choice))}"
            return f"{text}: available options are {', '.join(names)}.{hint}"
    return ""


def apply_override(override: Override, config: DictConfig) -> None:
    """Apply an override as Hydra does. Raises one of COMPOSE_ERRORS if that is not possible."""
    key, value = override.key_or_group, override.value()
    if override.package is not None:
        raise ValueError(f"there is no config group {key}")
    if override.is_sweep_override():
        raise ValueError("a single value is expected")
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


def key_mistake(override: Override, config: DictConfig, error: Exception) -> str:
    """The message for an override that cannot be applied, with what was probably meant."""
    key, text = override.key_or_group, override_text(override)
    value = text.partition("=")[2]
    plain = plain_config(config)
    if isinstance(plain.get("trainer"), dict):
        plain["trainer"] = {**dict.fromkeys(Trainer.model_fields), **plain["trainer"]}
    groups = [str(group) for group in config.hydra.runtime.choices if "@" not in str(group)]
    parent, name = _split_existing(key, plain)
    is_nested = key != f"{parent}.{name}".lstrip(".")
    exists = not is_nested and name in select(plain, parent)
    is_valid = exists or override.is_add() or override.is_hydra_override() or key in groups
    if override.is_sweep_override() and is_valid:
        return _several_values(override, plain, config)
    if override.is_delete():
        state = "not set" if not exists else f"not {value}" if value else "null"
        return f"{key} is {state}: it cannot be deleted."
    if override.is_add() and (exists or "already set" in str(error)):
        return f"{key} is already set: leave out the plus, {truncate(text.lstrip('+'))}"
    if exists or override.package is not None or key.startswith("hydra."):
        return f"{truncate(text)}: {gist(error)}"
    if key.replace(".", "/") in groups:
        of_class = f"+{text}" if value.startswith("{") else f"+{key}._target_={value}"
        choice = of_class if "." in value else f"{key.replace('.', '/')}={value}"
        return f"{key} is a config group: type {shell_quote(truncate(choice, 200))}"
    if "/" in key and key.replace("/", ".") in dotted(plain):
        return f"{key} is not a config group: type {truncate(key.replace('/', '.'))}={value}"
    if "/" in key:
        near = did_you_mean(key, groups).replace("?", f"={truncate(value)}?")
        return f"{key} is not a config group.{near}"
    is_loader_argument = key.removeprefix("data.") in LOADER_ARGUMENTS
    if is_loader_argument and str(select(plain, "data._target_")) in BUILT_IN:
        return f"{key}: leave it out. simplecnn keeps the images in memory; no workers load them."
    if full_key := find_full_key(key, plain, groups):
        group, option = full_key.partition(".")[0], SYNONYMS.get(value, value)
        meant = f"{group}={option}" if option in group_options(group) else f"{full_key}={value}"
        return f"{key} is not a key of the configuration. Type {truncate(meant)}"
    if is_nested and (sentence := _unset_part(key, text, parent, name, groups)):
        return sentence
    if parent:
        return _unknown_argument(key, text, parent, name, plain)
    return _unknown_first_name(key, value, name, plain, groups)


def _split_existing(key: str, config: Config) -> tuple[str, str]:
    """Split a key into the innermost part that exists and the name after it."""
    parent, _, name = key.rpartition(".")
    while not isinstance(select(config, parent), Mapping):
        parent, _, name = parent.rpartition(".")
    return parent, name


def _unset_part(key: str, text: str, parent: str, name: str, groups: Sequence[str]) -> str:
    """The message for a key in a part that is not set but could be; empty for other keys."""
    part = f"{parent}.{name}".lstrip(".")
    group = part.replace(".", "/")
    if parent in ("callbacks", "logger") and name in group_options(parent):
        return f"{part} is not set: type {parent}=[default,{name}] as well."
    if key == f"{part}._target_" and (parent in ("callbacks", "logger") or group in groups):
        return f"{part} is not set yet: add it with a plus, +{truncate(text)}"
    if group in groups and (options := ", ".join(group_options(group))):
        return f"{part} is not set: type {group}=… as well. Available options are {options}."
    return ""


def _unknown_argument(key: str, text: str, parent: str, name: str, plain: Config) -> str:
    """The message for a key whose `name` is not set in an existing part of the configuration."""
    node = select(plain, parent)
    target = node.get("_target_")
    names = [str(k) for k in node if not str(k).startswith("_")]
    if key != f"{parent}.{name}":
        return unknown_key(key, name, names, f"of {parent}")
    schema = BUILT_IN.get(str(target))
    option = _option_with_key(name, [parent.replace(".", "/")])
    if option and schema and name not in schema.model_fields:
        return f"{key} is a key of {option}: type {option} {truncate(text)}"
    if not did_you_mean(name, names):
        if inner := find_full_key(name, node, ()):
            value = text.partition("=")[2]
            return f"{key} is not a key of {target or parent}. Type {parent}.{inner}={value}"
        if target and (schema is None or name in schema.model_fields):
            is_known = schema or name.startswith("_")  # a key of Hydra's instantiate
            condition = "Add" if is_known else f"If {target} has this argument, add"
            other = f", or type {option} {truncate(text)}" if option else ""
            return f"{key} is not set. {condition} it with a plus: +{truncate(text)}{other}"
    return unknown_key(key, name, names, f"of {target or parent}")


def _unknown_first_name(
    key: str, value: str, name: str, plain: Config, groups: Sequence[str]
) -> str:
    """The message for a key that begins with an unknown name."""
    owners = [c for c in COMMANDS if c != "parts" and name in COMMANDS[c].model_fields]
    if owners and name not in plain:
        return f"{name} is not a key of this command, but of {', '.join(owners)}."
    of_groups = [g for g in groups if "/" not in g and not g.startswith("hydra")]
    names = list(dict.fromkeys([*plain, *of_groups]))
    is_near = bool(did_you_mean(name, names))
    full_key = find_full_key(name, plain, groups)
    if not full_key and not is_near:
        full_key = find_full_key(name, plain, (), 0.8)
    if full_key:
        meant = key.replace(name, full_key.replace("/", "."), 1)
        return f"{key} is not a key of the configuration. Did you mean {meant}?"
    if not is_near and (option := _option_with_key(key, groups)):
        full_key = f"{option.partition('=')[0].replace('/', '.')}.{key}"
        return f"{key} is a key of {option}: type {option} {full_key}={truncate(value)}"
    return unknown_key(key, name, names, "of the configuration")


def _option_with_key(key: str, groups: Sequence[str]) -> str | None:
    """The option of a config group, such as `model/optimizer=sgd`, whose file sets a key."""
    for group in groups:
        for file in sorted((conf_dir() / group).glob("*.yaml")):
            text = file.read_text(encoding="utf-8")
            if re.search(f"^{re.escape(key)}:", text, re.MULTILINE) and "# @package" not in text:
                return f"{group}={file.stem}"
    return None


def _several_values(override: Override, plain: Config, config: DictConfig) -> str:
    """The message for an override with several values where a command takes a single one."""
    key, text = override.key_or_group, override_text(override)
    what, advice = "lists several values", "add -m to run a sweep"
    if override.is_hydra_override():
        advice = "Hydra's own settings are the same for all jobs"
    elif not override.is_discrete_sweep():
        what, advice = "is a search space", f"type -m hparams_search=optuna {shell_quote(text)}"
    elif getattr(override.value(), "simple_form", False):  # a,b
        typed, _, values = text.partition("=")
        items = OverridesParser.create().parse_override(f"x=[{values}]").value()
        takes_options = group_options(key) and key not in config.hydra.runtime.choices
        allows = partial(accepts, config.hydra.job.config_name, plain, key)
        if takes_options or allows(items):
            advice += f", or write a list as {typed}=[{truncate(values)}]"
        elif allows(values):
            quoted = shell_quote(format_override(typed, truncate(values)))
            advice += f", or type {quoted} if it is a single one"
    return f"{truncate(text)} {what}: {advice}."


def select(config: Any, key: str) -> Any:
    for part in key.split(".") if key else ():
        config = config.get(part) if isinstance(config, Mapping) else None
    return config


def plain_config(config: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def gist(error: BaseException) -> str:
    """The essential line of an exception of Hydra or OmegaConf, whose messages are long."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}"
    if isinstance(error, MissingConfigException) and error.options:
        name = str(error.missing_cfg_file).rpartition("/")[2]
        options = sorted(error.options)
        near = did_you_mean(name, options)
        missing = first_line(error).rpartition("': ")[2]  # without a file that may be another one
        return f"{missing}: available options are {', '.join(options)}.{near}"
    if isinstance(error, UnicodeDecodeError):  # which does not name the file
        return f"a selected YAML file is not UTF-8, at byte {error.start}: save it as UTF-8."
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    # Join the line that names the file with the reason below it.
    text = str(error).replace("raised while composing config:\n", "")
    line = first_line(cause or HydraException(text))
    is_own = line.startswith(prefix := "InputError raised while resolving interpolation: ")
    if isinstance(error, InterpolationResolutionError):
        line = line.removeprefix(prefix) if is_own else f"{error.full_key}: {line}"
    if group := re.match(r"Could not override '([^']+)'. No match in the defaults list", line):
        return f"{group[1]} is not a config group of this command. Type --help for those it has."
    if "Cannot merge DictConfig with ListConfig" in line:
        return f"{line.partition(': ')[0]}: a list stands where keys with values are expected."
    if re.search(rf"@({'|'.join(OVERLAYS)})\.", line):
        return f"{line} Its file must begin with the line '# @package _global_'."
    return line
