"""A search by Optuna: its space in Hydra's words, its study on disk. No torch.

The study of a sweep is the file `study.journal` in the sweep's directory, which any number of
processes may read and add to; trial n is job n. The same command resumes it.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from omegaconf import DictConfig
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from simplecnn.config.build import build
from simplecnn.config.schema import LOGGED, is_logged
from simplecnn.config.spelling import unknown
from simplecnn.errors import InputError
from simplecnn.run_directory import RunDirectory
from simplecnn.sweeps.jobs import SUCCEEDED, read_job

STUDY, NAME = "study.journal", "simplecnn"
DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
OBJECTIVES = (*(name for name in LOGGED if not name.startswith("test/")), "num_parameters")
PRUNED = "pruned after epoch"  # a trial's attribute

Config = Mapping[str, Any]
Space = dict[str, BaseDistribution]
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Search:
    """What a search is asked to do."""

    objectives: dict[str, str]  # name: max or min
    space: Space
    fixed: list[str]  # the words that are the same in all trials

    @classmethod
    def of(cls, config: DictConfig, words: Sequence[str], parser: OverridesParser) -> "Search":
        """The search of a composed configuration and the words of its command line.

        Raises InputError for what is known to be wrong before the first trial.
        """
        sweeper = config.hydra.sweeper
        for name, value in (("n_trials", sweeper.n_trials), ("n_jobs", sweeper.n_jobs or 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"hydra.sweeper.{name} is {value!r}: it must be 1 or more.")
        objectives = dict(sweeper.objectives or {})
        if not objectives:
            if not config.monitor:
                raise InputError("monitor is null: say what to search by, as in monitor=val/acc.")
            objectives = {config.monitor: config.mode}
        logged = [name for name in OBJECTIVES if name not in LOGGED or is_logged(name, config.data)]
        for name, mode in objectives.items():
            if name not in logged:
                raise InputError(unknown(name, name, logged, "to search by"))
            if mode not in DIRECTIONS:
                raise InputError(
                    f"hydra.sweeper.objectives.{name} is {mode!r}: it must be max or min."
                )
        params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
        space, fixed = search_space([*params, *words], parser)
        return cls(objectives, space, fixed)

    def words(self, params: Config) -> list[str]:
        """The words of a trial."""
        return [*self.fixed, *(f"{key}={value}" for key, value in params.items())]

    def corners(self) -> list[list[str]]:
        """The words of two trials: all at the lower end of the space, and all at the upper one."""
        ends: list[dict[str, Any]] = [{}, {}]
        for key, d in self.space.items():
            values = d.choices if isinstance(d, CategoricalDistribution) else (d.low, d.high)  # type: ignore[attr-defined]
            ends[0][key], ends[1][key] = values[0], values[-1]
        return [self.words(end) for end in ends]


def search_space(words: Sequence[str], parser: OverridesParser) -> tuple[Space, list[str]]:
    """What is searched, and the words that are the same in all trials. The last word counts.

    `interval(a,b)` is continuous, `int(interval(a,b))` whole; `range(a,b,step)` leaves out b;
    `choice(…)`, `glob(…)` and lists with commas have no order; `tag(log,…)` is for the first two.
    Raises InputError where the space is empty.
    """
    space: Space = {}
    fixed: dict[str, str] = {}
    for override in parser.parse_overrides(list(words)):
        key = override.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            try:
                space[key] = _distribution(override)
            except (ValueError, OverflowError) as error:
                raise InputError(
                    f"{override.input_line}: nothing can be searched: {error}"
                ) from None
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    if not space:
        raise InputError(
            "Nothing is searched: give a space, as in "
            "model.optimizer.lr='tag(log,interval(1e-4,1e-1))' or data.batch_size=32,64"
        )
    return space, list(fixed.values())


def _distribution(override: Override) -> BaseDistribution:
    sweep: Any = override.value()
    if isinstance(sweep, IntervalSweep):
        low, high, step = sweep.start, sweep.end, None
    elif isinstance(sweep, RangeSweep):
        values = list(sweep.range())
        if not values:
            raise ValueError("the range is empty")
        low, high, step = min(values), max(values), abs(sweep.step)
    else:  # As text: a list or a word in quotes goes to the job as it was typed.
        return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
    assert low is not None and high is not None
    log = "log" in sweep.tags
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log, step=1 if log or not step else int(step))
    return FloatDistribution(low, high, log=log, step=None if log else step)


def open_study(
    folder: str | Path,
    *,
    objectives: Mapping[str, str],
    sampler: Any = None,
    pruner: Any = None,
) -> optuna.Study:
    """The study in `folder`, begun where there is none. `objectives` map names to max or min,
    `sampler` and `pruner` are nodes of a configuration."""
    study = optuna.create_study(
        storage=_storage(Path(folder) / STUDY),
        study_name=NAME,
        directions=[DIRECTIONS[mode] for mode in objectives.values()],
        pruner=build(pruner) if pruner else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    study.set_user_attr("objectives", list(objectives))  # for the callback that prunes
    if sampler:
        # The random numbers begin anew: with the same seed they would repeat the first trials.
        seed = sampler.get("seed")
        study.sampler = build(
            sampler if seed is None else {**sampler, "seed": seed + len(study.trials)}
        )
    return study


def running_trial(path: str | Path, number: int, pruner: Config) -> Trial:
    """Trial `number` of the study in the file `path`, for the process that runs it."""
    storage = _storage(Path(path))
    study = optuna.load_study(
        study_name=NAME,
        storage=storage,
        pruner=build(pruner),
        sampler=optuna.samplers.RandomSampler(),  # nothing is sampled here
    )
    study_id = storage.get_study_id_from_name(NAME)
    return Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def _storage(path: Path) -> JournalStorage:
    # Absolute: a process killed while it holds the lock leaves a link that must lead to the file.
    return JournalStorage(JournalFileBackend(os.path.abspath(path)))


def interrupted_trials(study: optuna.Study, space: Space) -> list[FrozenTrial]:
    """Trials to resume. One whose process was killed before it drew all parameters has failed."""
    running = study.get_trials(states=[TrialState.RUNNING])
    for trial in running:
        if trial.params.keys() != space.keys():
            study.tell(trial.number, state=TrialState.FAIL)
    return [trial for trial in running if trial.params.keys() == space.keys()]


def tell(study: optuna.Study, number: int, folder: Path, *, objectives: Sequence[str]) -> None:
    """Tell the study how the run in `folder` came out: its objectives, pruned, or failed.

    Of the monitored metric its best value counts, of another one the last. The run's record then
    says `pruned`, or `failed` where an objective is not a finite number.
    """
    job, run = read_job(folder), RunDirectory(folder)
    run.record = dict(job.record)
    values: dict[Any, Any] = {"num_parameters": job.record.get("num_parameters"), **job.metrics}
    if job.best:
        values[job.monitor] = job.best["value"]
    wrong = [o for o in objectives if values.get(o) is None or not math.isfinite(values[o])]
    if job.status not in SUCCEEDED:
        study.tell(number, state=TrialState.FAIL)
    elif PRUNED in study.trials[number].user_attrs:
        run.update(status="pruned")
        study.tell(number, state=TrialState.PRUNED)
    elif wrong:
        run.update(status="failed", error=f"{wrong[0]} is {values.get(wrong[0])}: not comparable.")
        study.tell(number, state=TrialState.FAIL)
    else:
        study.tell(number, [values[name] for name in objectives])
