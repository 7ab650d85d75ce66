"""Plan a sweep and check the configuration of each job before it starts.

Does not import torch.
"""

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from simplecnn.config import devices
from simplecnn.config.composition import Composed, cached_compositions, compose_checked
from simplecnn.config.overrides import parse_overrides
from simplecnn.config.search_path import group_options, initialized, loader, override_text
from simplecnn.config.spelling import show
from simplecnn.errors import InputError

MAX_MISTAKES = 20  # reported for a sweep, whose jobs often share a mistake
Config = Mapping[str, Any]


@dataclass(frozen=True)
class SweepPlan:
    """The jobs of a sweep and their checked configurations."""

    folder: Path
    overrides: list[str]  # the overrides of the sweep, those of hydra.sweeper.params included
    jobs: list[list[str]] | None  # the overrides of each job; None if a search chooses them
    config_folders: list[Path]  # the directories of the config search path
    configs: list[Composed]  # of all jobs, or of the bounds of a search space


@cached_compositions()
def plan_sweep(name: str, overrides: Sequence[str]) -> SweepPlan:
    """Plan the sweep of a multirun command line and check each of its jobs.

    Raises InputError that lists the errors of all jobs.
    """
    mistakes: list[str] = []
    overrides = [override_text(override) for override in parse_overrides(overrides, mistakes)]
    parser = OverridesParser.create(loader())
    command_lines = sweep_values(overrides)
    try:
        config = compose_checked(name, command_lines[0])[1]
        check_plugins(config)
        HydraConfig.instance().set_config(config)  # hydra.sweep.dir may refer to it
        folder = Path(config.hydra.sweep.dir)
    except InputError:
        _compose_all(name, command_lines, mistakes)  # raises with the errors of all values
        raise
    finally:
        HydraConfig.instance().cfg = None
    for_hydra = [o for o in overrides if o.lstrip("+~").startswith(("hydra.", "hydra/"))]
    for_jobs = [o for o in overrides if o not in for_hydra]
    params = [f"{k}={v}" for k, v in (config.hydra.sweeper.get("params") or {}).items()]
    jobs = None
    if config.hydra.runtime.choices["hydra/sweeper"] == "optuna":
        from simplecnn.sweeps.search import Search

        search = Search.from_config(config, for_jobs, parser)
        checked = search.bounds()
        # With other objectives it is another search, which must not resume this one.
        objectives = ",".join(f"{metric}:{mode}" for metric, mode in search.objectives.items())
        params.append(f"hydra.sweeper.objectives={{{objectives}}}")
    else:
        checked = jobs = product([*params, *for_jobs], parser)
    configs = _compose_all(name, [[*for_hydra, *job] for job in checked], mistakes)
    sources = [Path(s.path) for s in config.hydra.runtime.config_sources if s.schema == "file"]
    return SweepPlan(folder, [*params, *for_jobs], jobs, sources, configs)


def check_plugins(config: DictConfig) -> None:
    """Raise InputError if the launcher or the sweeper of Hydra is not a config with a class."""
    for name in ("launcher", "sweeper"):
        node = config.hydra.get(name)
        if not isinstance(node, DictConfig) or "_target_" not in node:
            with initialized():
                options = ", ".join(group_options(f"hydra/{name}"))
            raise InputError(
                f"hydra.{name} is {show(node)}: it must be a class and its arguments. Type "
                f"hydra/{name}=…, one of {options}."
            )


def _compose_all(
    name: str, command_lines: Sequence[Sequence[str]], mistakes: Sequence[str]
) -> list[Composed]:
    """Compose several command lines. Raises InputError that lists the errors of all of them."""
    configs = []
    all_mistakes = dict.fromkeys(mistakes)  # without duplicates, in order
    for overrides in command_lines:
        try:
            configs.append(compose_checked(name, overrides))
            check_plugins(configs[-1][1])
            all_mistakes |= dict.fromkeys(_process_mistakes(*configs[-1]))
        except InputError as error:
            all_mistakes |= dict.fromkeys(error.mistakes)
        if len(all_mistakes) >= MAX_MISTAKES:
            break
    if all_mistakes:
        raise InputError(*all_mistakes)
    return configs


def product(overrides: Sequence[str], parser: OverridesParser) -> list[list[str]]:
    """The overrides of each job of a grid search: the Cartesian product of all values.

    Raises InputError if an override sweeps over an interval or over no value.
    """
    for override in parser.parse_overrides(list(overrides)):
        if override.is_sweep_override() and not override.is_discrete_sweep():
            key = override.get_key_element()
            raise InputError(
                f"{key} is an interval, but this sweep is a grid search: "
                f"list the values ({key}=a,b,c), or search with hparams_search=optuna."
            )
    choices = _choices(overrides, parser)
    if empty := [key for key, values in choices.items() if not values]:
        raise InputError(f"{empty[0]} has no value.")
    return [list(job) for job in itertools.product(*choices.values())]


def sweep_values(overrides: Sequence[str]) -> list[list[str]]:
    """Command lines without sweeps, in which each value of each sweep of `overrides` occurs.

    In each of them, at most one key has a value other than its first.
    """
    mistakes: list[str] = []
    with initialized():
        texts = [override_text(override) for override in parse_overrides(overrides, mistakes)]
        choices = [v for v in _choices(texts, OverridesParser.create(loader())).values() if v]
    if mistakes:
        raise InputError(*mistakes)
    first = [values[0] for values in choices]
    command_lines = [
        [*first[:i], value, *first[i + 1 :]]
        for i, values in enumerate(choices)
        for value in values
        if len(values) > 1
    ]
    return command_lines or [first]


def _choices(overrides: Sequence[str], parser: OverridesParser) -> dict[str, list[str]]:
    """Map each key to one override per value; to [] if it sweeps over an interval.

    The last override of a key replaces earlier ones.
    """
    choices: dict[str, list[str]] = {}
    for override in parser.parse_overrides(list(overrides)):
        key = override.get_key_element()
        if override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            choices[key] = [] if override.is_sweep_override() else [override_text(override)]
    return choices


def _process_mistakes(values: Config, config: DictConfig) -> Iterator[str]:
    """Yield an error if a job would start processes with the sweep's command, as DDP does."""
    trainer, launcher = values.get("trainer") or {}, config.hydra.launcher
    strategy, requested = trainer.get("strategy", "auto"), trainer.get("devices", "auto")
    if re.search("spawn|fork|notebook", str(strategy).lower()):
        return
    if isinstance(requested, list):
        num_processes = len(requested)
    elif isinstance(requested, int):
        num_processes = requested
    else:
        on_gpu = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
        num_processes = max(1, devices.num_cuda_devices()) if on_gpu else 1
    num_processes *= trainer.get("num_nodes", 1)
    is_slurm = "Slurm" in str(launcher.get("_target_"))
    by_slurm = is_slurm and launcher.get("tasks_per_node") == num_processes
    if num_processes > 1 and not by_slurm:
        name = strategy.get("_target_") if isinstance(strategy, Mapping) else strategy
        yield (
            f"trainer.strategy is {name} with {num_processes} processes: each process would run "
            f"the whole sweep, with its own values. In a sweep, type trainer=ddp_sim, "
            f"trainer.strategy=ddp_spawn or trainer.devices=1; or start such runs one by one, "
            f"without -m."
        )
