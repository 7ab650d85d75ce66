"""What a command line asks for, composed and checked. Imports no torch: a mistake costs a second.

All mistakes are found at once: those of the words (here), of the configuration (`rules`), and of
what stands below `hydra` (`hydra_node`).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from simplecnn.config import devices, hydra_node, secrets
from simplecnn.config.rules import Config, check, did_you_mean, unknown
from simplecnn.config.signatures import signature
from simplecnn.errors import InputError

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
SEARCHPATH = "hydra.searchpath="
MOST_MISTAKES = 20  # shown of a sweep: a thousand jobs can have the same kind of mistake
# What Hydra raises for a configuration that cannot be composed, its own slips included.
CANNOT_COMPOSE = (HydraException, OmegaConfBaseException, ValueError, TypeError, AssertionError,
                  AttributeError, KeyError, RecursionError, OSError, YAMLError)  # fmt: skip


def conf_dir() -> Path:
    """The folder of the YAML files: beside `src` in a checkout, in the package when installed."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "conf", here.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"No conf/train.yaml in {here} or {here.parents[1]}.")


def compose_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration that a command line gives, checked and resolved, as plain dicts and lists.

    What comes from the environment stays `${oc.env:…}` (`secrets`).
    Raises InputError with all the mistakes of the command line and of the configuration.
    """
    return _checked(name, overrides)[0]


def config_text(name: str, overrides: Sequence[str]) -> str:
    """What `--cfg job` shows: the same as YAML, references as they are written."""
    config = _checked(name, overrides)[1]
    return OmegaConf.to_yaml(
        OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"])
    )


def _checked(name: str, overrides: Sequence[str]) -> tuple[dict[str, Any], DictConfig]:
    if absent := hydra_node.missing_launchers(overrides):
        raise InputError(*absent)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        mistakes: list[str] = []
        groups = Groups(name, overrides)
        words = list(_readable(overrides, groups, mistakes))
        config = _compose_groups(name, [w for w in words if groups.chooses(w)], mistakes)
        known = _without_hydra(config)
        for word in words:
            if not groups.chooses(word):
                _apply(word, config, mistakes)
        try:
            with _as_in_a_job(config, words):
                values = _resolved(config)
                composed = secrets.plain(config) if secrets.are_in(config) else values
                found = hydra_node.mistakes(config, typed={w.key_or_group for w in words})
                references = _references(config)
        except InputError as error:
            raise InputError(*mistakes, *error.mistakes) from None
        except CANNOT_COMPOSE as error:
            raise InputError(*mistakes, first_line(error)) from None
    found = check(values, known=known) | found
    if "${oc.env" in str((composed.get("data") or {}).get("mirrors")):
        # The configuration may be a stranger's, and the address too.
        found["data.mirrors"] = (
            "data.mirrors holds ${oc.env:…}: what stands in an address is sent to it. Allowed are "
            "addresses that are written out."
        )
    # A wrong value is reported where it stands, not where it is referred to.
    own = [sentence for key, sentence in found.items() if key not in references]
    mistakes += own or found.values()
    if mistakes:
        raise InputError(*map(secrets.hide, mistakes))
    return composed, config


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do, known before it starts."""

    folder: Path
    words: list[str]  # all that is asked, by the configuration and by the command line
    jobs: list[list[str]] | None  # the words of each job; None where a search chooses them
    config_folders: list[Path]  # where the configuration comes from


def plan_sweep(name: str, words: Sequence[str]) -> SweepPlan:
    """What a multirun's command line asks for, every job of it checked.

    Raises InputError with all the mistakes of all jobs.
    """
    if absent := hydra_node.missing_launchers(words):
        raise InputError(*absent)
    mistakes: dict[str, None] = {}
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        unreadable: list[str] = []
        readable = _readable(words, Groups(name, words), unreadable, sweeps=True)
        words = [str(word.input_line) for word in readable]
        mistakes |= dict.fromkeys(unreadable)
        for_hydra = [w for w in words if w.lstrip("+~").startswith(("hydra.", "hydra/"))]
        ends: list[list[str]] = []
        jobs: list[list[str]] | None = None
        problem = ""
        try:
            config = GlobalHydra.instance().hydra.compose_config(  # type: ignore[union-attr]
                name, list(words), RunMode.MULTIRUN, with_log_configuration=False
            )
            HydraConfig.instance().set_config(config)
            hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
            folder = Path(config.hydra.sweep.dir)
            if strangers := list(hydra_node.plugin_mistakes(hydra)):
                raise InputError(*mistakes, *strangers)
            sweeper = hydra["sweeper"]
            asked = [f"{k}={v}" for k, v in (sweeper.get("params") or {}).items()]
            asked += [w for w in words if w not in for_hydra]
            parsed = OverridesParser.create(_loader()).parse_overrides(asked)
            if interval := _interval(parsed) if sweeper["_target_"] == BASIC_SWEEPER else None:
                raise InputError(*mistakes, interval)
            if sweeper["_target_"] == BASIC_SWEEPER:
                (jobs,) = BasicSweeper.split_arguments(parsed, None)
            elif sweeper["_target_"] == hydra_node.OPTUNA:
                ends = _ends_of_search(config, words)
        except CANNOT_COMPOSE as error:
            problem = first_line(error)
        finally:
            HydraConfig.instance().cfg = None
        lines = sweep_values(words if problem else asked) if problem or jobs is None else jobs
    fixed = [] if problem else for_hydra
    for line in (*lines, *ends):
        try:
            composed = compose_config(name, [*fixed, *line])
        except InputError as error:
            mistakes |= dict.fromkeys(error.mistakes)
        else:
            launcher = {} if problem else hydra["launcher"]
            mistakes |= dict.fromkeys(_sweep_mistakes(composed, launcher))
        if len(mistakes) >= MOST_MISTAKES:
            break
    if problem and not mistakes:
        mistakes[problem] = None
    if mistakes:
        raise InputError(*mistakes)
    sources = [s["path"] for s in hydra["runtime"]["config_sources"] if s["schema"] == "file"]
    return SweepPlan(folder, asked, jobs, [Path(source) for source in sources])


def _ends_of_search(config: DictConfig, words: Sequence[str]) -> list[list[str]]:
    """Two trials of an Optuna search, at the ends of its space."""
    from simplecnn.sweeps.search import Search

    own = [w for w in words if not w.lstrip("+~").startswith("hydra.")]
    return Search.of(config, own, OverridesParser.create(_loader())).corners()


def _interval(parsed: Sequence[Override]) -> str | None:
    """A sentence where a sweep that tries every value is asked to search an interval."""
    for override in parsed:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            key = override.key_or_group
            return (
                f"{key} is to be searched in an interval, and this sweep tries every value: "
                f"list the values ({key}=a,b,c), or search with hparams_search=optuna."
            )
    return None


def _sweep_mistakes(config: Config, launcher: Config) -> Iterator[str]:
    """What is right for a run alone, and wrong for a job of a sweep."""
    trainer = config["trainer"]
    strategy = trainer.get("strategy", "auto")
    if isinstance(strategy, Mapping):
        name = str(strategy.get("_target_")).rpartition(".")[2]
        starts_processes = (
            name == "DDPStrategy" and strategy.get("start_method", "popen") == "popen"
        )
    else:
        name = str(strategy)
        starts_processes = name == "auto" or (
            name.startswith(("ddp", "fsdp", "deepspeed")) and not name.endswith(("spawn", "fork"))
            and "_fork_" not in name and "_spawn_" not in name and "notebook" not in name
        )  # fmt: skip
    num = devices.count(trainer.get("accelerator", "auto"), trainer.get("devices", "auto"))
    num *= trainer.get("num_nodes", 1)
    by_slurm = "Slurm" in str(launcher.get("_target_")) and launcher.get("tasks_per_node") == num
    if num > 1 and starts_processes and not by_slurm:
        yield (
            f"trainer.strategy is {name} with {num} processes: each of them would do the whole "
            f"sweep again, with values of its own. In a sweep, type trainer=ddp_sim, "
            f"trainer.strategy=ddp_spawn or trainer.devices=1; or do such runs one by one, "
            f"without -m."
        )


def sweep_values(overrides: Sequence[str]) -> list[list[str]]:
    """Command lines without sweeps that try every value of every sweep in `overrides` once."""
    unreadable: list[str] = []
    parsed = [word for word in map(partial(_read, unreadable), overrides) if word]
    if unreadable:
        raise InputError(*unreadable)
    choices = [list(o.sweep_string_iterator()) if o.is_discrete_sweep() else [] for o in parsed]
    heads = [o.get_key_element() for o in parsed]

    def line(picked: Mapping[int, str]) -> list[str]:
        return [
            f"{heads[i]}={picked.get(i, choice[0])}" if choice else str(overrides[i])
            for i, choice in enumerate(choices)
            if choice or not parsed[i].is_sweep_override()
        ]

    lines = [line({i: value}) for i, choice in enumerate(choices) for value in choice]
    return lines or [line({})]


# Words of the command line, one by one.


def _readable(
    words: Sequence[str], groups: "Groups", mistakes: list[str], *, sweeps: bool = False
) -> Iterator[Override]:
    """The words that can be read, and of groups that have such an option."""
    for word in words:
        try:
            override = OverridesParser.create(_loader()).parse_override(word)
        except CANNOT_COMPOSE:
            mistakes.append(
                f"{cut(word)!r} cannot be read: write key=value, in quotes where needed."
            )
            continue
        key = override.key_or_group
        if override.is_sweep_override() and sweeps:
            yield override
        elif override.is_sweep_override():
            several = "lists several values" if override.is_discrete_sweep() else "is a search"
            mistakes.append(
                f"{cut(word)} {several}: add -m to try them, or write a list as {key}=[1,2]."
            )
        elif problem := groups.mistake(override):
            mistakes.append(problem)
        else:
            yield override


def _read(mistakes: list[str], word: str) -> Override | None:
    """A word that can be read, or a sentence more in `mistakes`."""
    try:
        loader = _loader() if GlobalHydra.instance().is_initialized() else None
        return OverridesParser.create(loader).parse_override(word)
    except CANNOT_COMPOSE:
        typed = repr(cut(word))
        mistakes.append(f"{typed} cannot be read: write key=value, in quotes where needed.")
        return None


class Groups:
    """The config groups and their options, those of further folders (hydra.searchpath) included."""

    def __init__(self, name: str, words: Sequence[str]) -> None:
        loader: Any = _loader()
        self._loader = loader
        further = [w for w in words if w.startswith(SEARCHPATH)][:1]
        try:
            _, self._known = loader._parse_overrides_and_create_caching_repo(name, further)
        except CANNOT_COMPOSE:  # a wrong word, which is found again when it is read
            _, self._known = loader._parse_overrides_and_create_caching_repo(name, [])

    def options(self, group: str) -> list[str]:
        return sorted(self._known.get_group_options(group, ObjectType.CONFIG)) if group else []

    def chooses(self, override: Override) -> bool:
        """Whether a word has a say in what is composed, rather than set a value in it."""
        key = override.key_or_group
        return key == "hydra.searchpath" or bool(self.options(key))

    def mistake(self, override: Override) -> str | None:
        """A sentence where a word names an option that its group does not have."""
        key, value = override.key_or_group, override.value()
        options = self.options(key)
        for choice in value if isinstance(value, list) else [value]:
            if not options or choice is None or choice in options:
                continue
            hint = did_you_mean(str(choice), options)
            return f"{key}={cut(str(choice))}: allowed are {', '.join(options)}.{hint}"
        return None


def _compose_groups(name: str, words: list[Override], mistakes: list[str]) -> DictConfig:
    """The composition of the groups that can be composed, with a sentence on those that cannot."""
    lines = [str(word.input_line) for word in words]
    always = [line for line in lines if line.startswith(SEARCHPATH)]  # where the options are
    try:
        return compose(name, lines, return_hydra_config=True)
    except CANNOT_COMPOSE as error:
        problem = first_line(error)
    good = list(always)
    for line in lines:
        try:
            if line not in always:
                compose(name, [*always, line], return_hydra_config=True)
                good.append(line)
        except CANNOT_COMPOSE as error:
            mistakes.append(f"{cut(line)}: {first_line(error)}")
    try:
        if len(good) < len(lines):
            return compose(name, good, return_hydra_config=True)
    except CANNOT_COMPOSE as error:
        problem = first_line(error)
    raise InputError(*mistakes, problem)


def _apply(word: Override, config: DictConfig, mistakes: list[str]) -> None:
    """Set what a word says, or add a sentence on why that cannot be."""
    try:
        ConfigLoaderImpl._apply_overrides_to_config([word], config)
    except CANNOT_COMPOSE as error:
        mistakes.append(_value_mistake(word, config, error))


def _value_mistake(word: Override, config: DictConfig, error: Exception) -> str:
    key, line = word.key_or_group, str(word.input_line)
    parent_key, _, last = key.rpartition(".")
    try:
        parent = OmegaConf.select(config, parent_key) if parent_key else config
    except CANNOT_COMPOSE:
        parent = None
    if not isinstance(parent, DictConfig):
        return unknown(key, key.split(".")[0], _top_keys(config), "of the configuration")
    if word.is_delete() and last not in parent:
        return f"{key} is not there: nothing can be deleted."
    if word.is_add() and last in parent:
        return f"{key} is set already: leave the plus out, {cut(line.lstrip('+'))}"
    if last in parent or word.package is not None:
        return f"{cut(line)}: {first_line(error)}"
    target = parent.get("_target_") if parent is not config else None
    accepted = signature(target) if isinstance(target, str) else None
    if accepted and last in accepted.parameters and not word.is_delete():
        return f"{key} is not set yet: add it with a plus, +{cut(line.lstrip('+~'))}"
    if not parent_key:
        return unknown(key, last, _top_keys(config), "of the configuration")
    names = [str(k) for k in parent if not str(k).startswith("_")]
    names += [n for n in (accepted.parameters if accepted else ()) if n not in names]
    return unknown(key, last, names, f"of {target or parent_key}")


def _top_keys(config: DictConfig) -> list[str]:
    chosen = [str(group) for group in config.hydra.runtime.choices]
    groups = [group for group in chosen if not group.startswith("hydra") and "/" not in group]
    return list(dict.fromkeys([*(str(k) for k in config if k != "hydra"), *groups]))


def first_line(error: BaseException) -> str:
    """The gist of an exception of Hydra or OmegaConf, which say a lot more."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}"
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
    return cut(lines[0], 300) if lines else type(error).__name__


def cut(text: str, most: int = 100) -> str:
    """A text of at most `most` characters, for a sentence."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


# Hydra.


def _loader() -> ConfigLoader:
    return GlobalHydra.instance().config_loader()


@contextmanager
def _as_in_a_job(config: DictConfig, words: list[Override]) -> Iterator[None]:
    """Put into `config.hydra` what Hydra knows in a job, and leave in `config` what a job gets."""
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_struct(config, False)
    own = [w for w in words if not w.is_hydra_override()]
    naming = config.hydra.job.config.override_dirname
    config.hydra.job.override_dirname = get_overrides_dirname(
        own, kv_sep=naming.kv_sep, item_sep=naming.item_sep, exclude_keys=naming.exclude_keys
    )
    config.hydra.job.num, config.hydra.job.id = 0, "0"
    try:
        HydraConfig.instance().cfg = cast(Any, config)  # set_config() copies all of it
        config.hydra.runtime.output_dir = str(Path(config.hydra.run.dir).absolute())
        yield
    finally:
        HydraConfig.instance().cfg = None


def _resolved(config: DictConfig) -> dict[str, Any]:
    """Plain values of everything but `hydra`.

    Raises InputError with all the values that are missing or refer to nothing.
    """
    mistakes: list[str] = []
    values = {str(k): _value(config, k, str(k), mistakes) for k in config if k != "hydra"}
    if mistakes:
        raise InputError(*mistakes)
    return values


def _value(parent: DictConfig | ListConfig, key: Any, path: str, mistakes: list[str]) -> Any:
    """What stands at a key, as plain dicts and lists."""
    try:
        node = parent[key]
        if OmegaConf.is_config(node) and OmegaConf.is_interpolation(parent, key):
            return OmegaConf.to_container(node, resolve=True)
    except MissingMandatoryValue:
        mistakes.append(f"{path} is missing: type {path}=…")
        return None
    except RecursionError:
        mistakes.append(f"{path} refers to itself.")
        return None
    except OmegaConfBaseException as error:
        mistakes.append(f"{path}: {first_line(error)}")
        return None
    if isinstance(node, DictConfig):
        return {k: _value(node, k, f"{path}.{k!s}", mistakes) for k in node}
    if isinstance(node, ListConfig):
        return [_value(node, i, f"{path}[{i}]", mistakes) for i in range(len(node))]
    return node


def _without_hydra(config: DictConfig) -> dict[str, Any]:
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def _references(config: DictConfig, prefix: str = "") -> set[str]:
    """The keys whose value is taken from another key."""
    keys = set()
    for key in map(str, config):
        if OmegaConf.is_interpolation(config, key):
            if "${oc." not in str(config._get_node(key)):  # that is no other key
                keys.add(f"{prefix}{key}")
        elif not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            keys |= _references(config[key], f"{prefix}{key}.")
    return keys
