"""What a sweep will do, known and checked before it starts. No torch."""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from simplecnn.config import devices
from simplecnn.config.composition import (
    Composed,
    compose_checked,
    composing_once,
    initialized,
    line,
    loader,
    readable,
)
from simplecnn.errors import InputError

MAX_MISTAKES = 20  # shown of a sweep: a thousand jobs can have the same kind of mistake
Config = Mapping[str, Any]


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep will do, known before it starts."""

    folder: Path
    words: list[str]  # all that is asked, by the configuration and by the command line
    jobs: list[list[str]] | None  # the words of each job; None where a search chooses them
    config_folders: list[Path]  # where the configuration comes from
    configs: list[Composed]  # of the jobs, or of the ends of a search
    command: list[str] = field(default_factory=list)  # what was typed


def plan_sweep(name: str, words: Sequence[str]) -> SweepPlan:
    """What a multirun's command line asks for, every job of it checked.

    Raises InputError with all the mistakes of all jobs.
    """
    with composing_once():
        return _plan(name, words)


def _plan(name: str, words: Sequence[str]) -> SweepPlan:
    mistakes: list[str] = []
    words = [line(word) for word in readable(words, mistakes, sweeps=True)]
    parser = OverridesParser.create(loader())
    each_value = sweep_values(words)
    try:
        config = compose_checked(name, each_value[0])[1]
        HydraConfig.instance().set_config(config)  # for what the directory may refer to
        folder = Path(config.hydra.sweep.dir)
    except InputError:
        _compose_all(name, each_value, mistakes)  # raises with the mistakes of all values
        raise
    finally:
        HydraConfig.instance().cfg = None
    for_hydra = [w for w in words if w.lstrip("+~").startswith(("hydra.", "hydra/"))]
    asked = [w for w in words if w not in for_hydra]
    params = [f"{k}={v}" for k, v in (config.hydra.sweeper.get("params") or {}).items()]
    jobs = None
    if config.hydra.runtime.choices["hydra/sweeper"] == "optuna":
        from simplecnn.sweeps.search import Search

        search = Search.of(config, asked, parser)
        checked = search.corners()
        objectives = ",".join(f"{metric}:{mode}" for metric, mode in search.objectives.items())
        params.append(f"hydra.sweeper.objectives={{{objectives}}}")  # others: another search
    else:
        checked = jobs = product([*params, *asked], parser)
    configs = _compose_all(name, [[*for_hydra, *job] for job in checked], mistakes)
    sources = [Path(s.path) for s in config.hydra.runtime.config_sources if s.schema == "file"]
    return SweepPlan(folder, [*params, *asked], jobs, sources, configs)


def _compose_all(
    name: str, lines: Sequence[Sequence[str]], mistakes: Sequence[str]
) -> list[Composed]:
    """The configurations of several command lines. Raises InputError with all their mistakes."""
    configs = []
    sentences = dict.fromkeys(mistakes)
    for words in lines:
        try:
            configs.append(compose_checked(name, words))
            sentences |= dict.fromkeys(_process_mistakes(*configs[-1]))
        except InputError as error:
            sentences |= dict.fromkeys(error.mistakes)
        if len(sentences) >= MAX_MISTAKES:
            break
    if sentences:
        raise InputError(*sentences)
    return configs


def product(words: Sequence[str], parser: OverridesParser) -> list[list[str]]:
    """The words of each job of a sweep that tries every value of every word.

    Raises InputError where a word asks for a search in an interval, or for no value.
    """
    for word in parser.parse_overrides(list(words)):
        if word.is_sweep_override() and not word.is_discrete_sweep():
            key = word.get_key_element()
            raise InputError(
                f"{key} is to be searched in an interval, and this sweep tries every value: "
                f"list the values ({key}=a,b,c), or search with hparams_search=optuna."
            )
    choices = _choices(words, parser)
    if empty := [key for key, values in choices.items() if not values]:
        raise InputError(f"{empty[0]} has no value.")
    return [list(job) for job in itertools.product(*choices.values())]


def sweep_values(words: Sequence[str]) -> list[list[str]]:
    """Command lines without sweeps that try every value of every sweep in `words` once."""
    mistakes: list[str] = []
    with initialized():
        texts = [line(word) for word in readable(words, mistakes, sweeps=True)]
        choices = [v for v in _choices(texts, OverridesParser.create(loader())).values() if v]
    if mistakes:
        raise InputError(*mistakes)
    first = [values[0] for values in choices]
    lines = [
        [*first[:i], value, *first[i + 1 :]]
        for i, values in enumerate(choices)
        for value in values
        if len(values) > 1
    ]
    return lines or [first]


def _choices(words: Sequence[str], parser: OverridesParser) -> dict[str, list[str]]:
    """A word for each value of each key, none for a search in an interval. The last word counts."""
    choices: dict[str, list[str]] = {}
    for word in parser.parse_overrides(list(words)):
        key = word.get_key_element()
        if word.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in word.sweep_string_iterator()]
        else:
            choices[key] = [] if word.is_sweep_override() else [line(word)]
    return choices


def _process_mistakes(values: Config, config: DictConfig) -> Iterator[str]:
    """A sentence where a job would start processes by the sweep's own command, as ddp does."""
    trainer, launcher = values.get("trainer") or {}, config.hydra.launcher
    strategy, wanted = trainer.get("strategy", "auto"), trainer.get("devices", "auto")
    if re.search("spawn|fork|notebook", str(strategy).lower()):
        return
    on_gpu = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    num = max(1, devices.num_cuda_devices()) if on_gpu else 1
    num = len(wanted) if isinstance(wanted, list) else wanted if isinstance(wanted, int) else num
    num *= trainer.get("num_nodes", 1)
    by_slurm = "Slurm" in str(launcher.get("_target_")) and launcher.get("tasks_per_node") == num
    if num > 1 and not by_slurm:
        name = strategy.get("_target_") if isinstance(strategy, Mapping) else strategy
        yield (
            f"trainer.strategy is {name} with {num} processes: each of them would run the whole "
            f"sweep, with values of its own. In a sweep, type trainer=ddp_sim, "
            f"trainer.strategy=ddp_spawn or trainer.devices=1; or do such runs one by one, "
            f"without -m."
        )
