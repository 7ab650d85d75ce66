"""What a command line asks for, composed by Hydra and checked. No torch: a mistake costs a second.

All mistakes of the words, and of the keys and values of ours, are found at once. What a
configuration may be says `schema`; what classes of other packages accept, `build`.
"""

import copy
import importlib.util
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

from simplecnn.config.build import find_class, first_line, name_mistakes, target_nodes
from simplecnn.config.mistakes import mistakes as schema_mistakes
from simplecnn.config.schema import COMMANDS, OURS, Texts, Train
from simplecnn.config.spelling import cut, did_you_mean, dotted, meant, unknown
from simplecnn.errors import InputError

OVERLAYS = ("experiment", "hparams_search", "debug", "local")  # groups that set keys of others
READABLE = ("HOME", "USER", "LOGNAME", "HOSTNAME", "TMPDIR", "SCRATCH", "SLURM_JOB_ID",
            "SLURM_ARRAY_TASK_ID", "CUDA_VISIBLE_DEVICES")  # fmt: skip
# What Hydra raises for a configuration that cannot be composed, its own slips included.
CANNOT_COMPOSE = (HydraException, OmegaConfBaseException, ValueError, TypeError, AssertionError,
                  AttributeError, KeyError, RecursionError, OSError, YAMLError)  # fmt: skip
EXTRAS = {  # a choice, and the package that it needs, which is also the name of an extra of ours
    "hydra/launcher=ray": "ray",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
    "hydra/sweeper=optuna": "optuna",
    "hparams_search=optuna": "optuna",
}
MAX_NAME = 48  # characters that a directory's name has of what was typed
Config = Mapping[str, Any]
Composed = tuple[dict[str, Any], DictConfig]  # plain values, and all of it with Hydra's part
claimed: dict[str, str] = {}  # the directory of this process's "run", if chosen
primary: dict[str, str] = {}  # by command, what --config-name says
_compositions: dict[tuple[str, ...], DictConfig] | None = None  # by words, in `composing_once`


# ------------------------------------------------------------------------------------ resolvers


def _run_dir(default: str, *, _root_: Any) -> str:
    """A new directory, named for what was typed; a run that is resumed has one."""
    if _root_.get("resume") is not None:
        return latest(str(_root_.resume))
    words: Any = OmegaConf.to_container(_root_.hydra.overrides.task, resolve=False)
    return claimed.get("run", default + _what_was_typed(words))


def _what_was_typed(words: Sequence[str]) -> str:
    """`_lr-0.01_seed-3`: the part of a directory's name that tells one run from another."""
    name = ""
    for text in words:
        key, _, value = text.partition("=")
        if not key.lstrip("+~").startswith(("hydra", "experiment", "name", "paths", "ckpt_path")):
            last = re.split("[./@+~]", key)[-1]
            pair = f"no-{last}" if text.startswith("~") else f"{last}-{value.replace(',', '-')}"
            name += "_" + re.sub(r"[^\w.+-]", "", pair, flags=re.ASCII)
    return name[:MAX_NAME]


def _output_subdir(default: str, *, _root_: Any) -> str | None:
    """Hydra's own files of a run that is resumed stay as they were."""
    return default if _root_.get("resume") is None and "run" not in claimed else None


def _env(name: str, *default: Any) -> str | None:
    """`oc.env` of OmegaConf for harmless names: no secret gets into a file or an address."""
    if not name.startswith("SIMPLECNN_") and name not in READABLE:
        raise ValueError(f"{name} is not read: only SIMPLECNN_… and {', '.join(READABLE)} are")
    return oc.env(name, *default)


OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)
OmegaConf.register_new_resolver("output_subdir", _output_subdir, replace=True)
OmegaConf.register_new_resolver("oc.env", _env, replace=True)


class TypedFolder(SearchPathPlugin):
    """Has the folder of `--config-dir` searched here too, not only where Hydra runs the command."""

    path: str | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.path is not None:
            search_path.append("command-line", f"file://{self.path}")


Plugins.instance().register(TypedFolder)
# In the defaults of conf/trainer/auto.yaml: Trainer's other arguments need no plus.
ConfigStore.instance().store(
    group="arguments", name="any", node=OmegaConf.create({}, flags={"struct": False})
)


def latest(name: str, record: str = "run.json", *, needs: str = "") -> str:
    """The newest run for `last`, the newest one below a directory of runs, else `name` itself.

    needs: a pattern of files, without which a run counts only where none has them.
    """
    top = Path("outputs" if name == "last" else name)
    if (top / record).exists() or not top.is_dir():
        return name
    records = [path for depth in ("*/", "*/*/") for path in top.glob(f"{depth}{record}")]
    if needs:
        records = [path for path in records if any(path.parent.glob(needs))] or records
    return str(max(records, key=lambda path: path.stat().st_mtime).parent) if records else name


def conf_dir() -> Path:
    """The folder of the YAML files: beside `src` in a checkout, in the package when installed."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "conf", here.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"No conf/train.yaml in {here} or {here.parents[1]}.")


def command_help(name: str) -> str:
    """What `--help` shows: purpose and examples, choices, and the keys with their comments."""
    purpose, *blocks = _blocks(f"{name}.yaml")
    with initialized():
        choices = compose(name, return_hydra_config=True).hydra.runtime.choices
        hidden = re.compile("hydra|arguments|local|paths|.*@")
        groups = [str(group) for group in sorted(choices) if not hidden.match(str(group))]
        options = [f"  {group}: {', '.join(_options(group))}" for group in groups]
    parts = [re.sub("^# ?", "", purpose, flags=re.MULTILINE)]
    if groups:
        parts.append("\n".join(["Choices (group=option)", *options]))
    parts.append("\n".join(["Keys (key=value)", *_indented(blocks)]))
    for group in ("model", "data", "trainer"):
        if choice := choices.get(group):
            keys = _indented(_blocks(f"{group}/{choice}.yaml")[1:], f"{group}.")
            parts.append("\n".join([f"of {group}={choice}", *keys]))
    parts.append("--cfg job shows what a command would run, --hydra-help what Hydra itself offers.")
    return "\n\n".join(parts)


def _blocks(file: str) -> list[str]:
    """The head of a YAML file, and its keys as they stand there, without Hydra's."""
    text = (conf_dir() / file).read_text(encoding="utf-8")
    head, *keys = re.split(r"\n(?=[a-z])", re.sub("^# yaml-language-server.*\n", "", text))
    return [head, *(key for key in keys if not key.startswith(("defaults:", "hydra:")))]


def _indented(blocks: Sequence[str], prefix: str = "") -> list[str]:
    lines = (f"{prefix}{block}".split("\n") for block in blocks)
    return [f"  {line}" for block in lines for line in block if line.strip()]


# ---------------------------------------------------------------------------------- composition


def compose_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration that a command line gives, checked and resolved, as plain dicts and lists.

    Raises InputError with all the mistakes of the command line and of the configuration.
    """
    values, config = compose_checked(name, overrides)
    return settle(values, config.hydra, name)


def compose_checked(name: str, overrides: Sequence[str]) -> Composed:
    """The plain values, and the composition with Hydra's own part. Imports no class.

    Where a `_target_` was typed, the values still hold the arguments of the class before
    (`settle` leaves them out).
    """
    for word in overrides:
        if (package := EXTRAS.get(word)) and not _is_installed(package):
            raise InputError(
                f"{word} needs what a plain installation leaves out. Type uv sync --extra "
                f"{package}, or pip install 'simplecnn[{package}]'."
            )
    mistakes: list[str] = []
    with initialized():
        config = _compose_words(name, overrides, mistakes)
        try:
            with _as_in_a_job(config):
                values = _resolved(config)
        except InputError as error:  # a word that is refused leaves its key missing
            refused = [word.partition("=")[0] for word in overrides if mistakes]
            missing = (text for text in error.mistakes if text.split()[0] not in refused)
            raise InputError(*mistakes, *missing) from None
        except CANNOT_COMPOSE as error:
            raise InputError(*mistakes, gist(error)) from None
    sentences = {**schema_mistakes(name, values), **name_mistakes(values)}
    for key in (word[1:] for word in overrides if word.startswith("~")):
        if key in COMMANDS.get(name, Train).model_fields and key not in ("callbacks", "logger"):
            sentences.setdefault(key, f"{key} is missing: it cannot be deleted.")
    sentences = {key: _better(key, sentence, values, config) for key, sentence in sentences.items()}
    output_dir = config.hydra.runtime.output_dir
    given = (values.get("paths") or {}).get("output_dir") or output_dir
    if not isinstance(given, str) or os.path.abspath(given) != output_dir:
        sentences["paths"] = "paths.output_dir is where the run is: move it by hydra.run.dir=…"
    # A wrong value is reported where it stands, not where it is referred to.
    direct = [text for key, text in sentences.items() if not _is_reference(config, key)]
    mistakes += direct or list(sentences.values())
    if mistakes:
        raise InputError(*mistakes)
    return values, config


def initialized() -> AbstractContextManager[Any]:
    """Hydra, ready to compose; within a job, and within another call, it is already."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialize_config_dir(str(conf_dir()), version_base="1.3")


@contextmanager
def composing_once() -> Iterator[None]:
    """Inside, Hydra composes the same choices once: most jobs of a sweep differ in other words."""
    global _compositions
    with initialized():
        _compositions = {}
        try:
            yield
        finally:
            _compositions = None


def _is_installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _compose_words(name: str, words: Sequence[str], mistakes: list[str]) -> DictConfig:
    """The composition, with a sentence on each word that cannot be, and those left out.

    Hydra composes the words that choose an option. All others are set on that, as Hydra would, so
    that one that cannot be set hides no other, and a mistake costs no second composition.
    """
    fields = COMMANDS.get(name, Train).model_fields
    lists = {key for key, field in fields.items() if field.annotation in (Texts, Texts | None)}
    parsed = list(readable(words, mistakes, lists=lists))
    choices = [w for w in parsed if w.key_or_group == "hydra.searchpath"]  # where the options are
    others = []
    for word in (w for w in parsed if w not in choices):
        options = _options(word.key_or_group, choices)
        if not options:
            others.append(word)
        elif sentence := _option_mistake(word, options):
            mistakes.append(sentence)
        else:
            choices.append(word)
    try:
        config = _composition(name, *map(line, choices))
    except CANNOT_COMPOSE as error:
        raise InputError(*mistakes, gist(error)) from None
    for word in others:
        try:
            _set(word, config)
        except CANNOT_COMPOSE as error:
            mistakes.append(_key_mistake(word, config, error))
    typed = config.hydra.overrides
    typed.hydra = [line(word) for word in parsed if word.is_hydra_override()]
    typed.task = [line(word) for word in parsed if not word.is_hydra_override()]
    named = OmegaConf.to_container(OmegaConf.masked_copy(config.hydra, ["run", "sweep"]))
    if "override_dirname" in str(named) and not mistakes:  # only Hydra knows it
        return _compose(name, *map(line, parsed))
    return config


def _composition(name: str, *choices: str) -> DictConfig:
    """What Hydra composes of the words that choose options."""
    words = name, *choices
    if _compositions is None:
        return _compose(*words)
    if words not in _compositions:
        _compositions[words] = _compose(*words)
    return copy.deepcopy(_compositions[words])


def _compose(name: str, *words: str) -> DictConfig:
    return compose(primary.get(name, name), list(words), return_hydra_config=True)


def line(word: Override) -> str:
    return str(word.input_line)


def readable(
    words: Sequence[str],
    mistakes: list[str],
    *,
    sweeps: bool = False,
    lists: Collection[str] = (),
) -> Iterator[Override]:
    """The words that can be read; several values only with `sweeps`, or where a list is meant.

    lists: keys whose `key=a,b`, which is a sweep in Hydra's grammar, is read as `key=[a,b]`.
    """
    words = list(words)
    while "=" in words[1:-1]:
        i = words.index("=", 1)
        mistakes.append(f"Write {words[i - 1]}={words[i + 1]}, without spaces around the '='.")
        del words[i - 1 : i + 2]
    parser = OverridesParser.create(loader())
    for text in words:
        try:
            word = parser.parse_override(text)
            sweep = word.value() if word.is_sweep_override() and not sweeps else None
            if word.key_or_group in lists and isinstance(sweep, ChoiceSweep) and sweep.simple_form:
                key, _, values = text.partition("=")
                word, sweep = parser.parse_override(f"{key}=[{values}]"), None
        except CANNOT_COMPOSE:
            key, _, value = text.partition("=")
            hint = "write key=value, in quotes where needed."
            if re.fullmatch(r"[+~]*[\w/]+/\w+\.[\w.]+", key):
                hint = f"keys have dots, type {key.replace('/', '.')}={value}"
            mistakes.append(f"{cut(text)!r} cannot be read: {hint}")
            continue
        if sweep is None:
            yield word
        else:
            several = "lists several values" if word.is_discrete_sweep() else "is a search"
            values = text.partition("=")[2] if re.search("=[^=(]*$", text) else "1,2"
            mistakes.append(
                f"{cut(text)} {several}: add -m to try them, or write a list as "
                f"{word.key_or_group}=[{cut(values)}]."
            )


def loader() -> ConfigLoader:
    return GlobalHydra.instance().config_loader()


def _options(group: str, further: Sequence[Override] = ()) -> list[str]:
    """The options of a group, those below further folders (hydra.searchpath) included."""
    if not group or group.startswith("hydra.") or "." in group:
        return []
    words = [line(word) for word in further if word.key_or_group == "hydra.searchpath"]
    name = primary.get("train", "train") if words else None
    return sorted(loader().get_group_options(group, config_name=name, overrides=words))


def _option_mistake(word: Override, options: Sequence[str]) -> str | None:
    """A sentence where a word names an option that its group does not have."""
    value = word.value()
    for choice in value if isinstance(value, list) else [value]:
        if choice is not None and choice not in options:
            hint = did_you_mean(str(choice), options)
            key = word.key_or_group
            return f"{key}={cut(str(choice))}: allowed are {', '.join(options)}.{hint}"
    return None


def _set(word: Override, config: DictConfig) -> None:
    """Set what a word says, as Hydra does. Raises where that is not possible."""
    key, value = word.key_or_group, word.value()
    if word.package is not None:
        raise ValueError(f"there is no group {key}")
    if word.is_delete():
        before = OmegaConf.select(config, key, throw_on_missing=False)
        if before is None or value not in (None, before):
            raise ValueError(f"it is {before}")
        parent_key, _, last = key.rpartition(".")
        with open_dict(config):
            del (OmegaConf.select(config, parent_key) if parent_key else config)[last]
        return
    if word.is_add() and not isinstance(value, dict | list):
        if OmegaConf.select(config, key, throw_on_missing=False) is not None:
            raise ValueError("already there")
    OmegaConf.update(config, key, value, force_add=word.is_add() or word.is_force_add())


def _key_mistake(word: Override, config: DictConfig, error: Exception) -> str:
    """Why a word cannot be set, and what was probably meant."""
    key, text = word.key_or_group, line(word)
    value = text.partition("=")[2]
    plain = _plain(config)
    groups = [str(group) for group in config.hydra.runtime.choices if "@" not in str(group)]
    parent_key, _, last = key.rpartition(".")
    parent = _select(plain, parent_key)
    there = isinstance(parent, dict) and last in parent
    if word.is_delete():
        return f"{key} is {f'not {value}' if there else 'not there'}: nothing can be deleted."
    if word.is_add() and there:
        return f"{key} is set already: leave the plus out, {cut(text.lstrip('+'))}"
    if there or word.package is not None or key.startswith("hydra."):
        return f"{cut(text)}: {gist(error)}"
    if key.replace(".", "/") in groups:
        return f"{key} is a group of options: type {key.replace('.', '/')}={cut(value)}"
    if "/" in key and key.replace("/", ".") in set(dotted(plain)):
        return f"{key} is no group: type {cut(key.replace('/', '.'))}={value}"
    if "/" in key:
        near = did_you_mean(key, groups).replace("?", f"={cut(value)}?")
        return f"{key} is no group of options.{near}"
    if full_key := meant(key, plain, groups):
        return f"{key} is not a key of the configuration. Type {cut(f'{full_key}={value}')}"
    if not isinstance(parent, dict) or not parent_key:
        names = [*plain, *(g for g in groups if "/" not in g and not g.startswith("hydra"))]
        place, first = _where_it_ends(key, plain)
        if place in ("callbacks", "logger") and first in _options(place):
            return f"{place}.{first} is not there: type {place}=[default,{first}] before it."
        if place in ("callbacks", "logger") and last == "_target_":
            return f"{place}.{first} is not set yet: add it with a plus, +{cut(text)}"
        if place:
            names = [str(k) for k in _select(plain, place) if not str(k).startswith("_")]
            return unknown(key, first, names, f"of {place}")
        return unknown(key, first, list(dict.fromkeys(names)), "of the configuration")
    target = parent.get("_target_")
    names = [str(k) for k in parent if not str(k).startswith("_")]
    ours = OURS.get(str(target))
    if target and not did_you_mean(last, names) and not (ours and last not in ours.model_fields):
        return f"{key} is not set yet: add it with a plus, +{cut(text)}"
    return unknown(key, last, names, f"of {target or parent_key}")


def _where_it_ends(key: str, config: Config) -> tuple[str, str]:
    """The part of a key that there is, and the first name below it that there is not."""
    parts = key.split(".")
    for i, part in enumerate(parts):
        if not isinstance(_select(config, ".".join(parts[: i + 1])), Mapping):
            return ".".join(parts[:i]), part
    return key, ""


def _better(key: str, sentence: str, values: Config, config: DictConfig) -> str:
    """The sentence on a key, or a better one where it is known what was meant."""
    choices, value = config.hydra.runtime.choices, _select(values, key)
    group = key.replace(".", "/")
    if key in OVERLAYS:
        first = "'# @package _global_'"
        return (
            f"{key}={choices.get(key)} has no effect: its file needs the line {first} at its top."
        )
    if "." in key and key in values:
        above, _, below = key.partition(".")
        return f"{key!r} is one key with a dot in a file: write {above}: and, further in, {below}:"
    if group in choices and group != key and isinstance(value, str):
        return f"{key} is {value!r}: type {group}={value}."
    if key in values and "not a key" in sentence and (full := meant(key, _plain(config), ())):
        return f"{key} is not a key of the configuration. Did you mean {full}?"
    return sentence


def gist(error: BaseException) -> str:
    """The gist of an exception of Hydra or OmegaConf, which say a lot more."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}"
    if isinstance(error, MissingConfigException) and error.options:
        name = str(error.missing_cfg_file).rpartition("/")[2]
        options = sorted(error.options)
        near = did_you_mean(name, options)
        return f"{first_line(error)}: there are {', '.join(options)}.{near}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    text = str(error).replace("raised while composing config:\n", "")  # which file, and why
    return first_line(cause or HydraException(text))


@contextmanager
def _as_in_a_job(config: DictConfig) -> Iterator[None]:
    """Put into `config.hydra` what Hydra knows in a job, for what refers to it."""
    hydra_config = HydraConfig.instance()
    before = hydra_config.cfg
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
        hydra_config.cfg = before


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Plain values of everything but `hydra`. Raises InputError where one is missing, or refers
    to nothing."""
    keys = [str(key) for key in config if key != "hydra"]
    masked = OmegaConf.masked_copy(config, keys)
    try:
        if missing := sorted(OmegaConf.missing_keys(masked)):
            raise InputError(*(f"{key} is missing: type {key}=…" for key in missing))
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
    """Whether a key takes its value from another one."""
    for part in key.split("."):
        if not isinstance(config, DictConfig) or part not in config:
            return False
        if OmegaConf.is_interpolation(config, part):
            return True
        config = config[part]
    return False


# -------------------------------------------------------------------- another class than a group's


def settle(values: dict[str, Any], hydra: Any, name: str) -> dict[str, Any]:
    """The values without what a group's file gives for a class that another one has replaced.

    Where a `_target_` was typed, or stands in an experiment, what was typed beside it or stands
    there is kept, and the rest only if the new class is a subclass of the one before. Imports
    both; raises InputError where that fails.
    """
    named = _named(hydra)
    places = [k for k, _ in target_nodes(values) if f"{k}._target_" in named]
    if not places:
        return values
    hidden = ("hydra", "arguments", "callbacks", "logger", *OVERLAYS)
    groups = [
        f"{group}={choice}"
        for group, choice in hydra.runtime.choices.items()
        if choice is not None and not group.startswith(hidden)
    ]
    kept = ("callbacks=", "logger=", "hydra.searchpath=")
    typed = [*hydra.overrides.hydra, *hydra.overrides.task]
    typed = [word for word in typed if word.startswith(kept)]
    with initialized():
        before = _plain(_compose(name, *typed, *groups))
    mistakes: list[str] = []
    for place in places:
        above, _, last = place.rpartition(".")
        old, node, parent = _select(before, place), _select(values, place), _select(values, above)
        if not isinstance(old, dict) or not isinstance(node, dict):
            continue
        try:
            if old.get("_target_") in (None, node["_target_"]) or _is_subclass(node, old):
                continue
        except InputError as error:
            mistakes.append(f"{place}._target_: {error}")
            continue
        is_named = re.compile(rf"{re.escape(place)}\.(\w+)").match
        keys = {match[1] for match in map(is_named, named) if match}
        parent[last] = {key: value for key, value in node.items() if key in keys}
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


def _named(hydra: Any) -> set[str]:
    """The keys that were typed, or that stand in an experiment, a search or a debug file."""
    named: set[str] = set()
    for word in OverridesParser.create().parse_overrides(list(hydra.overrides.task)):
        named.add(word.key_or_group)
        value = word.value()
        if isinstance(value, dict):
            named |= set(dotted(value, f"{word.key_or_group}."))
    folders = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]
    for group in OVERLAYS:
        if choice := hydra.runtime.choices.get(group):
            named |= _keys_in_file([folder / group for folder in folders], str(choice))
    return named


def _keys_in_file(folders: Sequence[Path], name: str) -> set[str]:
    file = next((f for folder in folders if (f := folder / f"{name}.yaml").is_file()), None)
    content: Any = OmegaConf.to_container(OmegaConf.load(file)) if file else {}
    others = [d for d in content.pop("defaults", []) if isinstance(d, str) and d != "_self_"]
    return set(dotted(content)).union(*(_keys_in_file(folders, other) for other in others))
