"""Hyperparameter search with Optuna: the search space from Hydra's overrides, the study on disk.

The study of a sweep is the file `study.journal` in the sweep's directory, which any number of
processes may read and append to; trial n is job n. The same command resumes the study. Does not
import torch.
"""

import json
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

from simplecnn.atomic import atomic_write
from simplecnn.config.build import build
from simplecnn.config.schema import LOGGED, is_logged
from simplecnn.config.spelling import did_you_mean
from simplecnn.errors import InputError, relative_path, reraise
from simplecnn.run_directory import RunDirectory
from simplecnn.sweeps.jobs import SUCCEEDED, read_job

STUDY, NAME = "study.journal", "simplecnn"
DIRECTIONS = {"max": StudyDirection.MAXIMIZE, "min": StudyDirection.MINIMIZE}
OBJECTIVES = (*(name for name in LOGGED if not name.startswith("test/")), "num_parameters")
PRUNED = "pruned after epoch"  # user attribute of a trial

Config = Mapping[str, Any]
Space = dict[str, BaseDistribution]
optuna.logging.set_verbosity(optuna.logging.WARNING)


@dataclass(frozen=True)
class Search:
    """Objectives and space of a hyperparameter search."""

    objectives: dict[str, str]  # name: max or min
    space: Space
    fixed: list[str]  # the overrides that all trials share

    @classmethod
    def from_config(
        cls, config: DictConfig, overrides: Sequence[str], parser: OverridesParser
    ) -> "Search":
        """The search of a composed configuration and the overrides of its command line.

        Raises InputError for an invalid configuration of the sweeper.
        """
        sweeper = config.hydra.sweeper
        for name, value in (("n_trials", sweeper.n_trials), ("n_jobs", sweeper.n_jobs or 1)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"hydra.sweeper.{name} is {value!r}: it must be 1 or more.")
        objectives = dict(sweeper.objectives or {})
        if not objectives:
            if not config.monitor:
                raise InputError("monitor is null: name what to optimize, as in monitor=val/acc.")
            objectives = {config.monitor: config.mode}
        logged = [name for name in OBJECTIVES if name not in LOGGED or is_logged(name, config.data)]
        for name, mode in objectives.items():
            if name not in logged:
                hint = did_you_mean(str(name), logged)
                raise InputError(
                    f"{name} cannot be optimized. Available: {', '.join(logged)}.{hint}"
                )
            if mode not in DIRECTIONS:
                raise InputError(
                    f"hydra.sweeper.objectives.{name} is {mode!r}: it must be max or min."
                )
        if len(objectives) == 1 and objectives != {config.monitor: config.mode}:
            raise InputError(  # the report would rank the jobs by the monitor
                f"hydra.sweeper.objectives names {name}, but monitor is {config.monitor}: to "
                f"optimize one metric, type monitor={name} mode={mode} instead."
            )
        params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
        space, fixed = search_space([*params, *overrides], parser)
        return cls(objectives, space, fixed)

    def overrides(self, params: Config) -> list[str]:
        """The overrides of a trial."""
        return [*self.fixed, *(f"{key}={value}" for key, value in params.items())]

    def bounds(self) -> list[list[str]]:
        """The overrides of two trials: one at all lower bounds of the space, one at all upper."""
        values = {
            key: d.choices if isinstance(d, CategoricalDistribution) else (d.low, d.high)  # type: ignore[attr-defined]
            for key, d in self.space.items()
        }
        return [self.overrides({key: v[end] for key, v in values.items()}) for end in (0, -1)]


def search_space(overrides: Sequence[str], parser: OverridesParser) -> tuple[Space, list[str]]:
    """Split overrides into the search space and those that all trials share.

    `interval(a,b)` is continuous and `int(interval(a,b))` integer, both on a log scale in
    `tag(log,…)`; `range(a,b,step)` excludes b; `choice(…)`, `glob(…)` and comma-separated values
    are categorical. The last override of a key replaces earlier ones.
    Raises InputError if the space is invalid or empty.
    """
    space: Space = {}
    fixed: dict[str, str] = {}
    for override in parser.parse_overrides(list(overrides)):
        key = override.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            try:
                space[key] = _distribution(override)
            except (ValueError, OverflowError) as error:
                reason = f"{override.input_line}: this is not a valid search space: {error}"
                raise InputError(reason) from None
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    if not space:
        raise InputError(
            "The search space is empty: type an interval or several values, as in "
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
    else:  # as text, so that a list or a quoted value reaches the job unchanged
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
    """Load the study in `folder`, or create it.

    objectives: the direction, max or min, of each metric.
    sampler, pruner: config nodes with a `_target_`.
    """
    study = optuna.create_study(
        storage=_storage(Path(folder) / STUDY),
        study_name=NAME,
        directions=[DIRECTIONS[mode] for mode in objectives.values()],
        pruner=build(pruner) if pruner else optuna.pruners.NopPruner(),
        load_if_exists=True,
    )
    study.set_user_attr("objectives", list(objectives))  # read by the pruning callback
    if sampler:
        # Optuna does not store the sampler: with the same seed it would repeat the first trials.
        seed = sampler.get("seed")
        study.sampler = build(
            sampler if seed is None else {**sampler, "seed": seed + len(study.trials)}
        )
    return study


def check_study(folder: Path) -> None:
    """Raise InputError if there is a study in `folder` that is damaged.

    Cuts off an incomplete last line, which a full disk leaves; its trial is resumed.
    """
    path = folder / STUDY
    if not path.exists():
        return
    content = path.read_bytes()
    complete = content[: content.rfind(b"\n") + 1]
    with reraise(f"{relative_path(path)} is damaged; start a new search in another directory"):
        for line in complete.splitlines():
            json.loads(line)  # Optuna would ignore an invalid last line, and append to it
    if complete != content:
        atomic_write(path, complete)
    with reraise(f"{relative_path(path)} is damaged; start a new search in another directory"):
        _storage(path)


def running_trial(path: str | Path, number: int, pruner: Config) -> Trial:
    """Load trial `number` of the study in the file `path`, in the process that runs the trial."""
    storage = _storage(Path(path))
    study = optuna.load_study(
        study_name=NAME,
        storage=storage,
        pruner=build(pruner),
        sampler=optuna.samplers.RandomSampler(),  # not used: the parameters are already sampled
    )
    study_id = storage.get_study_id_from_name(NAME)
    return Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def _storage(path: Path) -> JournalStorage:
    # Optuna's lock file is a symlink to the journal. A killed process leaves it behind, and a
    # relative link would be dangling.
    return JournalStorage(JournalFileBackend(os.path.abspath(path)))


def interrupted_trials(study: optuna.Study, space: Space) -> list[FrozenTrial]:
    """The trials to resume.

    Marks trials as failed whose process was killed before all parameters were sampled.
    """
    running = study.get_trials(states=[TrialState.RUNNING])
    for trial in running:
        if trial.params.keys() != space.keys():
            study.tell(trial.number, state=TrialState.FAIL)
    return [trial for trial in running if trial.params.keys() == space.keys()]


def tell(study: optuna.Study, number: int, folder: Path, *, objectives: Sequence[str]) -> None:
    """Tell the study the result of the run in `folder`: its objectives, pruned, or failed.

    The value of the monitored metric is its best one, that of any other metric its last. Sets the
    status of the run to `pruned`, or to `failed` if an objective is not a finite number.
    """
    job, run = read_job(folder), RunDirectory(folder)
    run.record = dict(job.record)
    values = {name: job.objective(name) for name in objectives}
    invalid = [o for o in objectives if values[o] is None or not math.isfinite(values[o])]
    if job.status not in SUCCEEDED:
        study.tell(number, state=TrialState.FAIL)
    elif PRUNED in study.trials[number].user_attrs:
        run.update(status="pruned")
        study.tell(number, state=TrialState.PRUNED)
    elif invalid:
        name = invalid[0]
        run.update(status="failed", error=f"{name} is {values[name]}, not a finite number.")
        study.tell(number, state=TrialState.FAIL)
    else:
        study.tell(number, [values[name] for name in objectives])
