"""What a valid configuration looks like. Imports no torch: a mistake is answered in a second.

What a class accepts is read from its signature (`targets`); what no signature says, ranges and
combinations, is a table here. All mistakes of a configuration are found at once.
"""

import difflib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from inspect import Parameter
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from simplecnn import devices, plugins
from simplecnn.errors import InputError
from simplecnn.targets import TargetNode, accepts, allowed, not_allowed, signature, target_nodes

Config = Mapping[str, Any]

# Given by the code that builds the node, not by the configuration.
GIVEN_IN_CODE = {
    "model.optimizer": {"params"},
    "model.scheduler": {"optimizer"},
}
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
MOST_MISTAKES = 20  # shown of a sweep: a thousand jobs can have the same kind of mistake
# These hold any number of named entries.
OPEN_GROUPS = ("callbacks", "logger")
MOST_VALIDATION = {
    "simplecnn.mnist.MNISTDataModule": 59_999,
    "simplecnn.mnist.MNIST5kDataModule": 4_499,
}
LOGGED = tuple(f"{stage}/{name}" for stage in ("train", "val", "test") for name in ("loss", "acc"))


def conf_dir() -> Path:
    """The folder of the YAML files: beside `src` in a checkout, in the package when installed."""
    here = Path(__file__).resolve().parent
    for folder in (here / "conf", here.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"No conf/train.yaml in {here} or {here.parents[1]}.")


def compose_config(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration that a command line gives, checked and resolved, as plain dicts and lists.

    Raises InputError with all the mistakes of the command line and of the configuration.
    """
    words = list(overrides)
    mistakes: list[str] = []
    if absent := plugins.missing_launchers(words):
        raise InputError(*absent)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            config = compose(name, words, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            words, mistakes = _sift(name, words)
            if not mistakes:
                raise InputError(_first_line(error)) from None
            config = compose(name, words, return_hydra_config=True)
        known = config
        if any(word.startswith("+") for word in words):
            known = compose(name, [w for w in words if _is_group(w)], return_hydra_config=True)
        try:
            composed = _resolve(config)
            known_keys = composed if known is config else _resolve(known)
        except InputError as error:
            raise InputError(*mistakes, *error.mistakes) from None
    found = check(composed, known=known_keys)
    # A wrong value is reported where it stands, not where it is referred to.
    own = [sentence for key, sentence in found.items() if key not in _references(config)]
    mistakes += own or found.values()
    mistakes += plugins.mistakes(config)
    if mistakes:
        raise InputError(*mistakes)
    return composed


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
    if absent := plugins.missing_launchers(words):
        raise InputError(*absent)
    ends: list[list[str]] = []
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        try:
            config = GlobalHydra.instance().hydra.compose_config(  # type: ignore[union-attr]
                name, list(words), RunMode.MULTIRUN, with_log_configuration=False
            )
            HydraConfig.instance().set_config(config)
            hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
            folder = Path(config.hydra.sweep.dir)
        except (HydraException, OmegaConfBaseException) as error:
            problem: Exception | None = error
        else:
            problem = None
        finally:
            HydraConfig.instance().cfg = None
        if problem is None:
            sweeper = hydra["sweeper"]
            if strangers := list(plugins.mistakes(config)):
                raise InputError(*strangers)
            asked = [f"{k}={v}" for k, v in (sweeper.get("params") or {}).items()]
            asked += [w for w in words if not w.lstrip("+~").startswith(("hydra.", "hydra/"))]
            jobs = None
            try:
                parsed = OverridesParser.create(_loader()).parse_overrides(asked)
                if sweeper["_target_"] == BASIC_SWEEPER:
                    (jobs,) = BasicSweeper.split_arguments(parsed, None)
                elif sweeper["_target_"] == plugins.OPTUNA:
                    ends = _ends_of_search(config, words)
            except HydraException as error:
                raise InputError(_search_mistake(parsed, error)) from None
    lines = sweep_values(words if problem else asked) if problem or jobs is None else jobs
    lines = [*lines, *ends]
    mistakes: dict[str, None] = {}
    for line in lines:
        try:
            composed = compose_config(name, line)
        except InputError as error:
            mistakes |= dict.fromkeys(error.mistakes)
        else:
            launcher = {} if problem else hydra["launcher"]
            mistakes |= dict.fromkeys(_sweep_mistakes(composed, launcher))
        if len(mistakes) >= MOST_MISTAKES:
            break
    if problem is not None and not mistakes:
        mistakes[_first_line(problem)] = None
    if mistakes:
        raise InputError(*mistakes)
    sources = [s["path"] for s in hydra["runtime"]["config_sources"] if s["schema"] == "file"]
    return SweepPlan(folder, asked, jobs, [Path(source) for source in sources])


def _ends_of_search(config: DictConfig, words: Sequence[str]) -> list[list[str]]:
    """Two trials of an Optuna search, at the ends of its space."""
    from simplecnn.study import Search

    own = [w for w in words if not w.lstrip("+~").startswith("hydra.")]
    return Search.of(config, own, OverridesParser.create(_loader())).corners()


def _search_mistake(parsed: Sequence[Override], error: Exception) -> str:
    for override in parsed:
        if override.is_sweep_override() and not override.is_discrete_sweep():
            key = override.key_or_group
            return (
                f"{key} is to be searched in an interval, and this sweep tries every value: "
                f"list the values ({key}=a,b,c), or search with hparams_search=optuna."
            )
    return _first_line(error)


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
    parsed = OverridesParser.create().parse_overrides(list(overrides))
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


# What no signature says: the key, what is allowed, and the test. Keys are matched whole.


def _whole(low: int, high: float = float("inf")) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high


def _number(test: Callable[[float], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and test(v)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _text_or_null(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _widths(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 0 and all(map(_whole(1), value))


def _has_target(value: Any) -> bool:
    return isinstance(value, Mapping) and "_target_" in value


A_CLASS = "a class to build, with a _target_ and its arguments"
Rule = tuple[str, str, Callable[[Any], bool]]
RULES: tuple[Rule, ...] = (
    ("model", A_CLASS, _has_target),
    ("model.network", A_CLASS, _has_target),
    ("model.optimizer", A_CLASS, _has_target),
    ("data", A_CLASS, _has_target),
    ("trainer", A_CLASS, _has_target),
    ("name", "letters, digits, '.', '_' and '-', not starting with a '.'",
     lambda v: isinstance(v, str) and re.fullmatch(r"[\w-][\w.-]*", v) is not None),
    ("seed", "a whole number from 0 to 4294967295", _whole(0, 2**32 - 1)),
    ("train", "true or false", _flag),
    ("test", "true or false", _flag),
    ("ckpt_path", "a path, or null", _text_or_null),
    ("digit", "a whole number from 0 to 4999", _whole(0, 4999)),
    ("num_images", "a whole number from 1 to 5000", _whole(1, 5000)),
    ("rounds", "a whole number of 1 or more", _whole(1)),
    ("units.num_images", "a whole number of 10 or more", _whole(10)),
    ("units.num_cards", "a whole number of 1 or more", _whole(1)),
    ("attribution.num_right", "a whole number of 0 or more", _whole(0)),
    ("attribution.num_wrong", "a whole number of 0 or more", _whole(0)),
    ("translation.num_images", "a whole number of 10 or more", _whole(10)),
    ("translation.num_maps", "a whole number of 10 or more", _whole(10)),
    ("translation.reach", "a whole number from 1 to 64", _whole(1, 64)),
    ("robustness.num_images", "a whole number of 10 or more", _whole(10)),
    ("embedding.num_images", "a whole number of 10 or more", _whole(10)),
    ("verdicts.num_images", "a whole number of 10 or more", _whole(10)),
    ("steps", "a whole number of 1 or more", _whole(1)),
    ("num_calls", "a whole number of 1 or more", _whole(1)),
    ("monitor", "a metric, or null", _text_or_null),
    ("mode", "max or min", lambda v: v in ("max", "min")),
    ("data.batch_size", "a whole number of 1 or more", _whole(1)),
    ("data.eval_batch_size", "a whole number of 1 or more", _whole(1)),
    ("data.val_size", "a whole number of 0 or more", _whole(0)),
    ("data.test_size", "a whole number of 0 or more", _whole(0)),
    ("model.network.channels", "a list of whole numbers of 1 or more, as in [16,32,64]", _widths),
    ("model.network.kernel_size", "an odd whole number",
     lambda v: _whole(1)(v) and v % 2 == 1),
    ("model.network.hidden", "a whole number of 1 or more", _whole(1)),
    ("model.network.pool", "max, average, blur, stride or none",
     lambda v: v in ("max", "average", "blur", "stride", "none")),
    ("model.network.dropout", "a number from 0 up to, not including, 1",
     _number(lambda v: 0 <= v < 1)),
    ("model.network.num_classes", "a whole number of 2 or more", _whole(2)),
    ("model.network.in_channels", "a whole number of 1 or more", _whole(1)),
    ("model.label_smoothing", "a number from 0 up to, not including, 1",
     _number(lambda v: 0 <= v < 1)),
    ("model.scheduler_interval", "epoch or step", lambda v: v in ("epoch", "step")),
    ("model.optimizer.lr", "a number above 0", _number(lambda v: 0 < v < float("inf"))),
    ("model.optimizer.weight_decay", "a number of 0 or more",
     _number(lambda v: 0 <= v < float("inf"))),
    ("model.optimizer.momentum", "a number from 0 up to, not including, 1",
     _number(lambda v: 0 <= v < 1)),
    ("model.optimizer.betas", "two numbers from 0 up to, not including, 1",
     lambda v: isinstance(v, list) and len(v) == 2
     and all(map(_number(lambda b: 0 <= b < 1), v))),
    ("model.scheduler.max_lr", "a number above 0", _number(lambda v: 0 < v < float("inf"))),
    ("model.scheduler.pct_start", "a number from 0 to 1", _number(lambda v: 0 <= v <= 1)),
    ("trainer.accelerator", "auto, cpu, gpu, cuda or mps",
     lambda v: v in ("auto", "cpu", "gpu", "cuda", "mps")),
    ("trainer.max_epochs", "a whole number of 1 or more, -1 (no end), or null",
     lambda v: v is None or v == -1 or _whole(1)(v)),
    ("trainer.max_steps", "a whole number of 1 or more, or -1 (no end)",
     lambda v: v == -1 or _whole(1)(v)),
    ("trainer.devices", "a whole number of 1 or more, auto, or a list of devices",
     lambda v: v == "auto" or _whole(1)(v)
     or (isinstance(v, list) and len(v) > 0 and all(map(_whole(0), v)))),
    ("callbacks.*.every_n_epochs", "a whole number of 1 or more", _whole(1)),
    ("callbacks.*.patience", "a whole number of 0 or more", _whole(0)),
)  # fmt: skip


def check(config: Config, *, known: Config) -> dict[str, str]:
    """Every mistake in a resolved configuration: the key, and a sentence.

    `known` is the configuration before single keys were added: what it lacks, where no class
    gives the answer, is unknown.
    """
    mistakes = {
        key: f"{key} is {_show(value)}: it must be {wanted}."
        for pattern, wanted, test in RULES
        for key, value in _select(config, pattern.split("."))
        if not test(value)
    }
    out_of_range = bool(mistakes)
    for node in target_nodes(config):
        for key, mistake in _target_mistakes(node):
            mistakes.setdefault(key, mistake)
    for key, mistake in _unknown_keys(config, known):
        mistakes.setdefault(key, mistake)
    if not out_of_range and {"model", "data", "trainer"} <= set(config):
        mistakes |= {mistake: mistake for mistake in _combinations(config)}
    return mistakes


def _unknown_keys(config: Config, known: Config, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Keys that stand where no class says what is allowed, and that the composition lacks."""
    for key, value in config.items():
        path = f"{prefix}{key}"
        if prefix[:-1] in OPEN_GROUPS:
            if value is not None and not (isinstance(value, Mapping) and "_target_" in value):
                yield path, f"{path} is {_show(value)}: it must have a _target_, a class to build."
        elif key not in known:
            place = prefix[:-1] or "the configuration"
            yield path, unknown(path, key, list(known), f"of {place}")
        elif (
            isinstance(value, Mapping)
            and "_target_" not in value
            and isinstance(known[key], Mapping)
        ):
            yield from _unknown_keys(value, known[key], f"{path}.")


def _target_mistakes(node: TargetNode) -> Iterator[tuple[str, str]]:
    if not isinstance(node.target, str) or node.target not in allowed():
        near = difflib.get_close_matches(str(node.target), allowed(), 1, 0.7)
        hint = f" Did you mean {near[0]}?" if near else ""
        key = f"{node.key}._target_"
        yield key, f"{key}: {not_allowed(node.target)}.{hint}"
        return
    accepted = signature(node.target)
    if accepted is None:
        return
    parameters = accepted.parameters
    is_open = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    names = [
        p.name
        for p in parameters.values()
        if p.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    ]
    given = GIVEN_IN_CODE.get(node.key, set())
    for name, value in node.arguments.items():
        key = f"{node.key}.{name}"
        if name not in names:
            if not is_open:
                yield key, unknown(key, name, sorted(set(names) - given), f"of {node.target}")
        elif not accepts(parameters[name].annotation, value):
            wanted = parameters[name].annotation
            yield key, f"{key} is {_show(value)}: {node.target} takes {wanted}."
    positional = names[: len(node.positional)]
    for name in names:
        missing = parameters[name].default is Parameter.empty and name not in node.arguments
        if missing and name not in given and name not in positional and not node.partial:
            key = f"{node.key}.{name}"
            yield key, f"{key} is missing: {node.target} needs it."


def _combinations(config: Config) -> Iterator[str]:
    network, data, trainer = config["model"].get("network") or {}, config["data"], config["trainer"]
    if network.get("_target_") == "simplecnn.network.SimpleCNN":
        blocks = len(network.get("channels", [1, 1, 1]))
        size = network.get("image_size", 28)
        if size // 2**blocks < 1 and network.get("pool") != "none":
            yield (
                f"model.network.channels has {blocks} entries: each halves the image of {size} "
                f"pixels, and at most {size.bit_length() - 1} leave something of it."
            )
        kernel = network.get("kernel_size", 3)
        if kernel > size:
            yield f"model.network.kernel_size is {kernel}: the image has {size} pixels only."
    most = MOST_VALIDATION.get(data.get("_target_"))
    if most and data.get("val_size", 0) > most:
        yield f"data.val_size is {data['val_size']}: at most {most} leave something to train on."
    monitor = config["monitor"]
    monitors = {"monitor": monitor} if monitor else {}
    monitors |= {
        f"callbacks.{name}.monitor": node["monitor"]
        for name, node in (config.get("callbacks") or {}).items()
        if isinstance(node, Mapping) and node.get("monitor") not in (None, monitor)
    }
    logged = [m for m in LOGGED if is_logged(m, data)]
    for key, metric in monitors.items():
        if metric not in logged:
            near = difflib.get_close_matches(metric, logged, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            yield f"{key} is {metric!r}: this run logs {', '.join(logged)}.{hint}"
    if not config["train"] and not config["test"]:
        yield "train and test are both false: there is nothing to do."
    if not config["train"] and not config["ckpt_path"]:
        yield "train is false: say with ckpt_path=<file> which checkpoint to test."
    if config["ckpt_path"] and not Path(config["ckpt_path"]).is_file():
        yield f"ckpt_path is {config['ckpt_path']!r}: there is no such file."
    problem = devices.problem(trainer.get("accelerator", "auto"), trainer.get("devices", "auto"))
    if problem:
        yield problem


def is_logged(metric: str, data: Config) -> bool:
    """Whether a run with the data of this configuration logs `metric` after each epoch."""
    if metric.startswith("val/"):
        return data.get("val_size", 1) != 0
    return not metric.startswith("test/") or bool(data.get("test_each_epoch"))


def unknown(key: str, name: str, names: Sequence[str], where: str) -> str:
    """The sentence for a key that does not exist: the nearest spelling, or all there are."""
    near = difflib.get_close_matches(name, names, 1, 0.6)
    if near:
        return f"{key} is not a key {where}. Did you mean {near[0]}?"
    return f"{key} is not a key {where}. There are: {', '.join(names)}."


def _select(config: Any, parts: Sequence[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    if not parts:
        yield prefix[:-1], config
    elif isinstance(config, Mapping):
        first, *rest = parts
        for key in config if first == "*" else [first] if first in config else []:
            yield from _select(config[key], rest, f"{prefix}{key}.")


def _show(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if value in (True, False) else repr(value)
    )


# Hydra: composing, and saying what is wrong with a word of the command line.


def _resolve(config: DictConfig) -> dict[str, Any]:
    """Plain values of everything but `hydra`, whose run folder is not known yet.

    Raises InputError where a value is missing or refers to nothing.
    """
    OmegaConf.set_readonly(config, False)
    OmegaConf.set_struct(config, False)
    config.hydra.runtime.output_dir = "outputs"
    HydraConfig.instance().set_config(config)
    try:
        without = OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"])
        missing = sorted(OmegaConf.missing_keys(without))
        if missing:
            raise InputError(*(f"{key} is missing: type {key}=…" for key in missing))
        container = OmegaConf.to_container(without, resolve=True)
    except OmegaConfBaseException as error:
        raise InputError(_first_line(error)) from None
    finally:
        HydraConfig.instance().cfg = None
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _references(config: DictConfig, prefix: str = "") -> set[str]:
    """The keys whose value is taken from another key."""
    keys = set()
    for key in map(str, config):
        if OmegaConf.is_interpolation(config, key):
            keys.add(f"{prefix}{key}")
        elif not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            keys |= _references(config[key], f"{prefix}{key}.")
    return keys


def _loader() -> ConfigLoader:
    return GlobalHydra.instance().config_loader()


def _parse(word: str) -> Override:
    return OverridesParser.create().parse_override(word)


def _is_group(word: str) -> bool:
    return bool(_loader().get_group_options(_parse(word).key_or_group))


def _sift(name: str, words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words of a command line that can be composed, and a sentence on each that cannot."""
    good: list[str] = []
    values: list[str] = []
    mistakes: list[str] = []
    for word in words:
        try:
            is_group = _is_group(word)
        except HydraException:
            mistakes.append(f"{word!r} cannot be read: write key=value, in quotes where needed.")
            continue
        problem = _group_mistake(_parse(word)) if is_group else None
        if problem:
            mistakes.append(problem)
        else:
            (good if is_group else values).append(word)
    try:
        base = compose(name, good, return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(*mistakes, _first_line(error)) from None
    for word in values:
        try:
            compose(name, [*good, word], return_hydra_config=True)
            good.append(word)
        except (HydraException, OmegaConfBaseException) as error:
            mistakes.append(_value_mistake(word, base, error))
    return good, mistakes


def _group_mistake(override: Override) -> str | None:
    options = sorted(_loader().get_group_options(override.key_or_group))
    value = override.value()
    for choice in value if isinstance(value, list) else [value]:
        if isinstance(choice, str) and choice not in options:
            near = difflib.get_close_matches(choice, options, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            allowed_here = ", ".join(options)
            return f"{override.key_or_group}={choice}: allowed are {allowed_here}.{hint}"
    return None


def _value_mistake(word: str, base: DictConfig, error: Exception) -> str:
    key = _parse(word).key_or_group
    parent_key, _, last = key.rpartition(".")
    parent = OmegaConf.select(base, parent_key) if parent_key else base
    if not isinstance(parent, DictConfig):
        return unknown(key, key.split(".")[0], _top_keys(base), "of the configuration")
    if last in parent:
        return f"{word}: {_first_line(error)}"
    target = parent.get("_target_")
    accepted = signature(target) if target else None
    if accepted and last in accepted.parameters:
        return f"{key} is not set yet: add it with a plus, +{word.lstrip('+~')}"
    if not parent_key:
        return unknown(key, last, _top_keys(base), "of the configuration")
    names = [str(k) for k in parent if not str(k).startswith("_")]
    names += [n for n in (accepted.parameters if accepted else ()) if n not in names]
    return unknown(key, last, names, f"of {target or parent_key}")


def _top_keys(base: DictConfig) -> list[str]:
    groups = [g for g in _loader().list_groups("") if g != "hydra"]
    return list(dict.fromkeys([*(str(k) for k in base if k != "hydra"), *groups]))


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else None
    lines = [line.strip() for line in str(cause or error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
