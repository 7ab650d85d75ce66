"""What a command line asks for, composed by Hydra and checked. No torch: a mistake costs a second.

All mistakes of the words, and of the keys and values of ours, are found at once. What a
configuration may be says `schema`; what classes of other packages accept, `build`.
"""

import importlib.util
import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import MarkedYAMLError, YAMLError

from simplecnn.config.build import find_class, first_line, name_mistakes, target_nodes
from simplecnn.config.mistakes import mistakes as schema_mistakes
from simplecnn.config.schema import COMMANDS, Train
from simplecnn.config.spelling import cut, did_you_mean, dotted, meant, unknown
from simplecnn.errors import InputError

OVERLAYS = ("experiment", "hparams_search", "debug", "local")  # groups that set keys of others
READABLE = ("HOME", "USER", "LOGNAME", "HOSTNAME", "TMPDIR", "SCRATCH", "SLURM_JOB_ID",
            "SLURM_ARRAY_TASK_ID", "CUDA_VISIBLE_DEVICES")  # fmt: skip
# What Hydra raises for a configuration that cannot be composed, its own slips included.
CANNOT_COMPOSE = (HydraException, OmegaConfBaseException, ValueError, TypeError, AssertionError,
                  AttributeError, KeyError, RecursionError, OSError, YAMLError)  # fmt: skip
EXTRAS = {  # a choice, the module it needs, and the extra that installs it
    "hydra/launcher=ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
    "hydra/launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "hydra/launcher=submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "hydra/sweeper=optuna": ("optuna", "optuna"),
    "hparams_search=optuna": ("optuna", "optuna"),
}
MAX_NAME = 48  # characters that a directory's name has of what was typed
Config = Mapping[str, Any]
Composed = tuple[dict[str, Any], DictConfig]  # plain values, and all of it with Hydra's part
claimed: dict[str, str] = {}  # the directory of this process's "run", if chosen


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
            pair = f"no-{last}" if text.startswith("~") else f"{last}-{value}"
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
# In the defaults of conf/trainer/auto.yaml: Trainer's other arguments need no plus.
ConfigStore.instance().store(
    group="arguments", name="any", node=OmegaConf.create({}, flags={"struct": False})
)


def latest(name: str, record: str = "run.json") -> str:
    """The newest run for `last`, the newest one below a directory of runs, else `name` itself."""
    top = Path("outputs" if name == "last" else name)
    if (top / record).exists() or not top.is_dir():
        return name
    records = [path for depth in ("*/", "*/*/") for path in top.glob(f"{depth}{record}")]
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
    text = (conf_dir() / f"{name}.yaml").read_text(encoding="utf-8")
    lines = [ln for ln in text.splitlines() if not ln.startswith("# yaml-language-server")]
    purpose = list(itertools.takewhile(lambda ln: ln.startswith("#"), lines))
    parts = ["\n".join(ln.removeprefix("#").removeprefix(" ") for ln in purpose)]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config: Any = loader().load_configuration(name, [], RunMode.RUN)
        chosen = {g: c for g, c in config.hydra.runtime.choices.items()
                  if not g.startswith("hydra") and g not in ("arguments", "local", "paths")
                  and "@" not in g}  # fmt: skip
        if chosen:
            choices = [f"  {group}: {', '.join(_options(group))}" for group in sorted(chosen)]
            parts.append("Choices (group=option)\n" + "\n".join(choices))
    parts.append("Keys (key=value)\n" + _keys_of(lines[len(purpose) :]))
    for group in ("model", "data", "trainer"):
        if choice := chosen.get(group):
            file = (conf_dir() / group / f"{choice}.yaml").read_text(encoding="utf-8")
            parts.append(f"of {group}={choice}\n" + _keys_of(file.splitlines(), f"{group}."))
    parts.append("--cfg job shows what a command would run, --hydra-help what Hydra itself offers.")
    return "\n\n".join(parts)


def _keys_of(lines: Sequence[str], prefix: str = "") -> str:
    """The keys of a YAML file as they stand there, without its head, defaults and Hydra's part."""
    kept, skip = [], True
    for text in lines:
        if text and not text.startswith((" ", "#")):
            skip = text.startswith(("defaults:", "hydra:", "_target_", "_recursive_"))
        if text.strip() and not skip and not text.strip().startswith("_target_"):
            kept.append(f"  {text}" if text.startswith(" ") else f"  {prefix}{text}")
    return "\n".join(kept)


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
    need_extras(overrides)
    with _initialized():
        mistakes: list[str] = []
        config = _compose_words(name, overrides, mistakes)
        try:
            with _as_in_a_job(config):
                values = _resolved(config)
                references = _references(config)
                output_dir = str(config.hydra.runtime.output_dir)
        except InputError as error:
            raise InputError(*mistakes, *error.mistakes) from None
        except CANNOT_COMPOSE as error:
            raise InputError(*mistakes, gist(error)) from None
    sentences = {**schema_mistakes(name, values), **name_mistakes(values)}
    for key in (word[1:] for word in overrides if word.startswith("~")):
        if key in COMMANDS.get(name, Train).model_fields and key not in ("callbacks", "logger"):
            sentences.setdefault(key, f"{key} is missing: it cannot be deleted.")
    sentences = {key: _better(key, sentence, values, config) for key, sentence in sentences.items()}
    given = (values.get("paths") or {}).get("output_dir") or output_dir
    if not isinstance(given, str) or os.path.abspath(given) != os.path.abspath(output_dir):
        sentences["paths"] = "paths.output_dir is where the run is: move it by hydra.run.dir=…"
    # A wrong value is reported where it stands, not where it is referred to.
    direct = [sentence for key, sentence in sentences.items() if key not in references]
    mistakes += direct or list(sentences.values())
    if mistakes:
        raise InputError(*mistakes)
    return values, config


def _initialized() -> AbstractContextManager[Any]:
    """Hydra, ready to compose; within a job it is already."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialize_config_dir(str(conf_dir()), version_base="1.3")


def need_extras(words: Sequence[str]) -> None:
    for word in words:
        module, extra = EXTRAS.get(word, ("", ""))
        if extra and not _is_installed(module):
            raise InputError(
                f"{word} needs what a plain installation leaves out. Type uv sync --extra {extra}, "
                f"or pip install 'simplecnn[{extra}]'."
            )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False


def _compose_words(name: str, words: Sequence[str], mistakes: list[str]) -> DictConfig:
    """The composition, with a sentence on each word that cannot be, and those left out.

    A word that chooses an option is composed; all others are then set on the composition, so that
    one that cannot be set hides no other.
    """
    parsed = list(readable(words, mistakes))
    further = [w for w in parsed if w.key_or_group == "hydra.searchpath"]
    others = [(w, _options(w.key_or_group, further)) for w in parsed if w not in further]
    choices = list(further)  # where the options are, before them
    for word, of_group in others:
        if of_group and (sentence := _option_mistake(word, of_group)):
            mistakes.append(sentence)
        elif of_group:
            choices.append(word)
    try:
        if not mistakes:
            return compose(name, list(map(line, parsed)), return_hydra_config=True)
    except CANNOT_COMPOSE as error:
        problem = gist(error)
    try:
        config = compose(name, list(map(line, choices)), return_hydra_config=True)
    except CANNOT_COMPOSE as error:
        raise InputError(*mistakes, gist(error)) from None
    for word in (w for w, of_group in others if not of_group):
        try:
            _set(word, config)
        except CANNOT_COMPOSE as error:
            mistakes.append(_key_mistake(word, config, error))
    if not mistakes:  # each is right by itself
        raise InputError(problem)
    return config


def line(word: Override) -> str:
    return str(word.input_line)


def readable(words: Sequence[str], mistakes: list[str], *, sweeps: bool = False) -> Iterator[Any]:
    """The words that can be read; a list of values only with `sweeps`."""
    words = list(words)
    while "=" in words[1:-1]:
        i = words.index("=", 1)
        mistakes.append(f"Write {words[i - 1]}={words[i + 1]}, without spaces around the '='.")
        del words[i - 1 : i + 2]
    for text in words:
        try:
            word = OverridesParser.create(loader()).parse_override(text)
        except CANNOT_COMPOSE:
            mistakes.append(unreadable(text))
            continue
        if word.is_sweep_override() and not sweeps:
            several = "lists several values" if word.is_discrete_sweep() else "is a search"
            mistakes.append(
                f"{cut(text)} {several}: add -m to try them, or write a list as "
                f"{word.key_or_group}=[1,2]."
            )
        else:
            yield word


def unreadable(text: str) -> str:
    return f"{cut(text)!r} cannot be read: write key=value, in quotes where needed."


def loader() -> ConfigLoader:
    return GlobalHydra.instance().config_loader()


def _options(group: str, further: Sequence[Override] = ()) -> list[str]:
    """The options of a group, those below further folders (hydra.searchpath) included."""
    if not group or group.startswith("hydra.") or "." in group:
        return []
    words = [line(word) for word in further]
    name = "train" if further else None
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
    """Set what a word says, as Hydra would. Raises where that is not possible."""
    key, value = word.key_or_group, word.value()
    if word.package is not None:
        raise ValueError(f"there is no group {key}")
    if word.is_delete():
        parent = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
        OmegaConf.set_struct(parent, False)
        del parent[key.rpartition(".")[2]]
        OmegaConf.set_struct(parent, None)
    else:
        add = word.is_add() or word.is_force_add()
        if word.is_add() and not isinstance(value, dict | list):
            if OmegaConf.select(config, key, throw_on_missing=False) is not None:
                raise ValueError("already there")
        OmegaConf.update(config, key, value, merge=True, force_add=add)


def _key_mistake(word: Override, config: DictConfig, error: Exception) -> str:
    """Why a word cannot be set, and what was probably meant."""
    key, text = word.key_or_group, line(word)
    value = text.partition("=")[2]
    plain = _plain(config)
    groups = [str(group) for group in config.hydra.runtime.choices if "@" not in str(group)]
    parent_key, _, last = key.rpartition(".")
    try:
        parent = OmegaConf.select(config, parent_key) if parent_key else config
    except CANNOT_COMPOSE:
        parent = None
    there = isinstance(parent, DictConfig) and last in parent
    if word.is_delete():
        return f"{key} is not there: nothing can be deleted."
    if word.is_add() and there:
        return f"{key} is set already: leave the plus out, {cut(text.lstrip('+'))}"
    if there or word.package is not None:
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
    if not isinstance(parent, DictConfig) or not parent_key:
        names = [*plain, *(g for g in groups if "/" not in g and not g.startswith("hydra"))]
        first = key.split(".")[0]
        return unknown(key, first, list(dict.fromkeys(names)), "of the configuration")
    target = parent.get("_target_")
    names = [str(k) for k in parent if not str(k).startswith("_")]
    if target and not did_you_mean(last, names):
        return f"{key} is not set yet: add it with a plus, +{cut(text)}"
    return unknown(key, last, names, f"of {target or parent_key}")


def _better(key: str, sentence: str, values: Config, config: DictConfig) -> str:
    """The sentence on a key, or a better one where it is known what was meant."""
    choices, value = config.hydra.runtime.choices, _select(values, key)
    if key in OVERLAYS:
        line = "'# @package _global_'"
        return f"{key}={choices.get(key)} has no effect: its file needs the line {line} at its top."
    if "." in key and key in values:
        above, _, below = key.partition(".")
        return f"{key!r} is one key with a dot in a file: write {above}: and, further in, {below}:"
    if key.replace(".", "/") in choices and "." in key and isinstance(value, str):
        return f"{key} is {value!r}: type {key.replace('.', '/')}={value}."
    full_key = meant(key, _plain(config), ()) if key in values and "not a key" in sentence else None
    return (
        f"{key} is not a key of the configuration. Did you mean {full_key}?"
        if full_key
        else sentence
    )


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
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_struct(config, False)
    config.hydra.job.num, config.hydra.job.id = 0, "0"
    before = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(config)
        OmegaConf.set_readonly(config.hydra, False)
        output_dir = str(Path(config.hydra.run.dir).absolute())
        config.hydra.runtime.output_dir = output_dir
        HydraConfig.instance().set_config(config)
        OmegaConf.set_readonly(config.hydra, False)
        yield
    finally:
        HydraConfig.instance().cfg = before


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


def _references(config: DictConfig, prefix: str = "") -> set[str]:
    """The keys whose value is taken from another key."""
    keys = set()
    for key in config.keys():
        if OmegaConf.is_interpolation(config, key):  # type: ignore[arg-type]
            keys.add(f"{prefix}{key!s}")
        elif not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            keys |= _references(config[key], f"{prefix}{key!s}.")
    return keys


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
    further = [s.path for s in hydra.runtime.config_sources if s.provider == "hydra.searchpath"]
    groups = [
        f"{group}={choice}"
        for group, choice in hydra.runtime.choices.items()
        if choice is not None
        and not group.startswith(("hydra", "arguments", "callbacks", "logger", *OVERLAYS))
    ]
    typed = [w for w in hydra.overrides.task if w.startswith(("callbacks=", "logger="))]
    searchpath = [f"hydra.searchpath={further}"] if further else []
    with _initialized():
        before = _plain(compose(name, [*searchpath, *groups, *typed]))
    mistakes: list[str] = []
    for place in places:
        node, parent = _select(values, place), _select(values, place.rpartition(".")[0])
        old = _select(before, place)
        if not isinstance(old, Mapping) or not isinstance(node, Mapping):
            continue
        try:
            if old.get("_target_") in (None, node["_target_"]) or _is_subclass(node, old):
                continue
        except InputError as error:
            mistakes.append(f"{place}._target_: {error}")
            continue
        parent[place.rpartition(".")[2]] = {
            key: value
            for key, value in node.items()
            if any(n == f"{place}.{key}" or n.startswith(f"{place}.{key}.") for n in named)
        }
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
    for text in hydra.overrides.task:
        word = OverridesParser.create().parse_override(text)
        named.add(word.key_or_group)
        value = word.value() if not word.is_sweep_override() else None
        if isinstance(value, dict):
            named |= set(dotted(value, f"{word.key_or_group}."))
    sources = [Path(s.path) for s in hydra.runtime.config_sources if s.schema == "file"]
    for group in OVERLAYS:
        if choice := hydra.runtime.choices.get(group):
            named |= _keys_in_file(sources, group, str(choice))
    return named


def _keys_in_file(sources: Sequence[Path], group: str, choice: str) -> set[str]:
    file = next((f for s in sources if (f := s / group / f"{choice}.yaml").is_file()), None)
    if file is None:
        return set()
    content: Any = OmegaConf.to_container(OmegaConf.load(file))
    others = [d for d in content.pop("defaults", []) if isinstance(d, str) and d != "_self_"]
    keys = set(dotted(content))
    for other in others:
        keys |= _keys_in_file(sources, group, other)
    return keys
