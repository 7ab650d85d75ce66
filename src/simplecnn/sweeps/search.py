"""A search by Optuna: its space in Hydra's words, its study on disk, its pruning. No torch.

The study of a sweep is the file `study.journal` in the sweep's folder, which any number of
processes may read and add to; trial n is job n. A sweep that is taken up again goes on with it.
"""

import logging
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
from simplecnn.run_directory import RunDirectory, read_record

STUDY = "study.journal"
NAME = "simplecnn"
DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
OBJECTIVES = (*(name for name in LOGGED if not name.startswith("test/")), "num_parameters")
PRUNED = "pruned after epoch"  # a trial's attribute

log = logging.getLogger("simplecnn.sweeps.report")
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

        Raises InputError for what can be known to be wrong before the first trial.
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
        ends = []
        for end in (0, -1):
            params: dict[str, Any] = {}
            for key, d in self.space.items():
                if isinstance(d, CategoricalDistribution):
                    params[key] = d.choices[end]
                else:
                    assert isinstance(d, IntDistribution | FloatDistribution)
                    params[key] = d.high if end else d.low
            ends.append(self.words(params))
        return ends


def search_space(words: Sequence[str], parser: OverridesParser) -> tuple[Space, list[str]]:
    """What is searched, and the words that are the same in all trials. The last word counts.

    `interval(a,b)` is continuous, `int(interval(a,b))` whole; `range(a,b,step)` leaves out b;
    `choice(…)`, `glob(…)` and lists with commas have no order; `tag(log,…)` is for the first two.
    Raises InputError where nothing is searched, or nothing is to be found there.
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
    log = "log" in getattr(sweep, "tags", ())
    if isinstance(sweep, IntervalSweep):
        low, high = sweep.start, sweep.end
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        assert low is not None and high is not None
        return FloatDistribution(low, high, log=log)
    if isinstance(sweep, RangeSweep):
        values = list(sweep.range())
        if not values:
            raise ValueError("the range is empty")
        low, high, step = min(values), max(values), abs(sweep.step)
        if all(isinstance(v, int) for v in values):
            return IntDistribution(low, high, log=log, step=1 if log else int(step))
        return FloatDistribution(low, high, log=log, step=None if log else step)
    # As text: a list or a word in quotes goes to the job as it was typed.
    return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))


def open_study(
    folder: str | Path,
    *,
    objectives: Mapping[str, str],
    sampler: Config | None = None,
    pruner: Config | None = None,
) -> optuna.Study:
    """The study in `folder`, begun where there is none. `objectives` map names to max or min."""
    storage = _storage(Path(folder) / STUDY)
    directions = [DIRECTIONS[mode] for mode in objectives.values()]
    study = optuna.create_study(
        storage=storage, study_name=NAME, directions=directions, load_if_exists=True,
        pruner=build(pruner) if pruner else optuna.pruners.NopPruner(),
    )  # fmt: skip
    names = study.user_attrs.setdefault("objectives", dict(objectives))
    if names != dict(objectives):
        raise InputError(f"{Path(folder) / STUDY} was made with the objectives {names}.")
    study.set_user_attr("objectives", dict(objectives))
    if sampler:
        # The random numbers begin anew: with the same seed they would repeat the first trials.
        seed = sampler.get("seed")
        more = {} if seed is None else {"seed": seed + len(study.trials)}
        study.sampler = build({**sampler, **more})
    return study


def _storage(path: Path) -> JournalStorage:
    # Absolute: a process killed while it holds the lock leaves a link that must lead to the file.
    return JournalStorage(JournalFileBackend(os.path.abspath(path)))


def unfinished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials of a sweep that was interrupted. One that never got its parameters has failed."""
    running = []
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        if trial.params:
            running.append(trial)
        else:
            study.tell(trial.number, state=TrialState.FAIL)
    return running


def tell(study: optuna.Study, number: int, folder: Path, *, monitor: str | None) -> None:
    """Tell the study how the run in `folder` came out: its values, pruned, or failed.

    The run's record then says `pruned`, or `failed` for a value that is not finite.
    """
    run = RunDirectory(folder)
    run.record = read_record(folder)
    epoch = study.trials[number].user_attrs.get(PRUNED)
    if run.record.get("status") not in ("finished", "pruned"):
        study.tell(number, state=TrialState.FAIL)
    elif epoch is not None:
        run.update(status="pruned")
        study.tell(number, state=TrialState.PRUNED)
    else:
        try:
            values = objective_values(run.record, list(study.user_attrs["objectives"]), monitor)
        except ValueError as error:
            run.update(status="failed", error=str(error))
            log.error("job %d   failed   %s", number, error)
            study.tell(number, state=TrialState.FAIL)
        else:
            study.tell(number, values)


def objective_values(record: Config, names: Sequence[str], monitor: str | None) -> list[float]:
    """What a finished run says on each objective: of the monitored one, its best value.

    Raises ValueError with a sentence where one is missing or not finite.
    """
    metrics = record.get("metrics") or {}
    best = record.get("best") or {}
    there = {**metrics, "num_parameters": record.get("num_parameters")}
    if monitor and best:
        there[monitor] = best["value"]
    values = []
    for name in names:
        value = there.get(name)
        if value is None:
            raise ValueError(f"{name} was not logged. There are: {', '.join(sorted(metrics))}.")
        if not math.isfinite(value):
            raise ValueError(f"{name} is {value}: not a number to compare.")
        values.append(float(value))
    return values


class RunningTrial:
    """A trial as its own process sees it: it reports each epoch, and hears whether to stop."""

    def __init__(self, path: str | Path, number: int, pruner: Config) -> None:
        """`path` is that of the study's file. Raises InputError where the trial is not in it."""
        study = optuna.load_study(
            study_name=NAME, storage=_storage(Path(path)), pruner=build(pruner),
            sampler=optuna.samplers.RandomSampler(),  # nothing is sampled here
        )  # fmt: skip
        trials = study.get_trials(deepcopy=False)
        if number >= len(trials) or trials[number].state != TrialState.RUNNING:
            raise InputError(f"{path} has no running trial {number}.")
        self.can_stop = len(study.directions) == 1  # Optuna prunes by one objective only
        self._trial = Trial(study, trials[number]._trial_id)

    def report(self, value: float, *, epoch: int) -> None:
        """Tell the study the metric after `epoch` (from 1)."""
        if self.can_stop:
            self._trial.report(value, step=epoch)

    def is_hopeless(self, *, epoch: int) -> bool:
        """Whether the pruner gives the trial up after what was reported of `epoch`."""
        if not self.can_stop or not self._trial.should_prune():
            return False
        self._trial.set_user_attr(PRUNED, epoch)
        return True
