"""What a sweep will do, known and checked before it starts. No torch."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from simplecnn.config import devices
from simplecnn.config.composition import (
    CANNOT_COMPOSE,
    Composed,
    compose_checked,
    conf_dir,
    gist,
    line,
    loader,
    need_extras,
    readable,
    unreadable,
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
    need_extras(words)
    mistakes: dict[str, None] = {}
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        wrong: list[str] = []
        words = [line(word) for word in readable(words, wrong, sweeps=True)]
        mistakes |= dict.fromkeys(wrong)
        for_hydra = [w for w in words if w.lstrip("+~").startswith(("hydra.", "hydra/"))]
        asked = [w for w in words if w not in for_hydra]
        lines, jobs, problem = [], None, ""
        try:
            config = loader().load_configuration(name, list(words), RunMode.MULTIRUN)
            HydraConfig.instance().set_config(config)
            hydra: Any = OmegaConf.to_container(config.hydra, resolve=False)
            folder = Path(config.hydra.sweep.dir)
            params = [f"{k}={v}" for k, v in (hydra["sweeper"].get("params") or {}).items()]
            asked = [*params, *asked]
            if config.hydra.runtime.choices["hydra/sweeper"] == "optuna":
                lines = _ends_of_search(config, words)
            else:
                lines = jobs = product(asked)
        except CANNOT_COMPOSE as error:
            problem = gist(error)
            lines = sweep_values(asked)
        finally:
            HydraConfig.instance().cfg = None
    configs = []
    for job in lines:
        try:
            composed = compose_checked(name, [*([] if problem else for_hydra), *job])
            configs.append(composed)
        except InputError as error:
            mistakes |= dict.fromkeys(error.mistakes)
        else:
            mistakes |= dict.fromkeys(_sweep_mistakes(composed[0], composed[1].hydra.launcher))
        if len(mistakes) >= MAX_MISTAKES:
            break
    if problem and not mistakes:
        mistakes[problem] = None
    if mistakes:
        raise InputError(*mistakes)
    sources = [s["path"] for s in hydra["runtime"]["config_sources"] if s["schema"] == "file"]
    return SweepPlan(folder, asked, jobs, [Path(source) for source in sources], configs)


def product(words: Sequence[str]) -> list[list[str]]:
    """The words of each job of a sweep that tries every value of every word. The last word counts.

    Raises InputError where a word asks for a search in an interval.
    """
    choices: dict[str, list[str]] = {}
    for word in OverridesParser.create(loader()).parse_overrides(list(words)):
        key = word.get_key_element()
        if word.is_sweep_override() and not word.is_discrete_sweep():
            raise InputError(
                f"{key} is to be searched in an interval, and this sweep tries every value: "
                f"list the values ({key}=a,b,c), or search with hparams_search=optuna."
            )
        values = word.sweep_string_iterator() if word.is_sweep_override() else None
        choices[key] = [f"{key}={v}" for v in values or [word.get_value_element_as_str()]]
    return [list(job) for job in itertools.product(*choices.values())]


def sweep_values(words: Sequence[str]) -> list[list[str]]:
    """Command lines without sweeps that try every value of every sweep in `words` once."""
    choices, mistakes = [], []
    for text in words:
        try:
            word = OverridesParser.create().parse_override(text)
        except CANNOT_COMPOSE:
            mistakes.append(unreadable(text))
            continue
        if not word.is_sweep_override():
            choices.append([text])
        elif word.is_discrete_sweep():
            key = word.get_key_element()
            choices.append([f"{key}={value}" for value in word.sweep_string_iterator()])
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


def _ends_of_search(config: DictConfig, words: Sequence[str]) -> list[list[str]]:
    """Two trials of an Optuna search, at the ends of its space."""
    from simplecnn.sweeps.search import Search

    own = [w for w in words if not w.lstrip("+~").startswith("hydra.")]
    return Search.of(config, own, OverridesParser.create(loader())).corners()


def _sweep_mistakes(config: Config, launcher: Any) -> Iterator[str]:
    """What is right for a run alone, and wrong for a job of a sweep."""
    trainer = config.get("trainer") or {}
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
    wanted = trainer.get("devices", "auto")
    on_gpu = trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")
    num = max(1, devices.num_cuda_devices()) if on_gpu else 1
    num = len(wanted) if isinstance(wanted, list) else wanted if isinstance(wanted, int) else num
    num *= trainer.get("num_nodes", 1)
    by_slurm = "Slurm" in str(launcher.get("_target_")) and launcher.get("tasks_per_node") == num
    if num > 1 and starts_processes and not by_slurm:
        yield (
            f"trainer.strategy is {name} with {num} processes: each of them would do the whole "
            f"sweep again, with values of its own. In a sweep, type trainer=ddp_sim, "
            f"trainer.strategy=ddp_spawn or trainer.devices=1; or do such runs one by one, "
            f"without -m."
        )
