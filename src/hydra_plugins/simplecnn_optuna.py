"""`hydra/sweeper=optuna`: hyperparameter search with Optuna 5, with any launcher.

Hydra's Optuna sweeper pins Optuna 2.10, aborts the study at a NaN and does not support pruning.
Hydra imports its plugins at every start, so slow imports are deferred until they are needed.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

log = logging.getLogger("simplecnn.sweeps")


class OptunaSweeper(Sweeper):
    """Run trials until the study in the sweep's directory has `n_trials`, failed ones included.

    Trial n is job n, in directory n. A trial fails if its job fails or if an objective is not
    finite; the study continues. Interrupted trials are resumed first.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int | None = None,
        sampler: DictConfig | None = None,
        pruner: DictConfig | None = None,
        **search: Any,  # objectives and params, which search.Search reads from the configuration
    ) -> None:
        self.n_trials, self.n_jobs = n_trials, n_jobs
        self.sampler, self.pruner = sampler, pruner

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.loader = hydra_context.config_loader
        self.config: Any = config
        self.launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run the search. A failed job does not raise: its record holds the error."""
        from simplecnn.sweeps.search import Search, open_study, tell

        search = Search.from_config(self.config, arguments, OverridesParser.create(self.loader))
        folder = Path(str(self.config.hydra.sweep.dir))
        study = open_study(
            folder, objectives=search.objectives, sampler=self.sampler, pruner=self.pruner
        )
        returns: list[JobReturn] = []
        for batch in self._batches(study, search.space):
            overrides = [search.overrides(trial.params) for trial in batch]
            jobs = self.launcher.launch(overrides, initial_job_idx=batch[0].number)
            for trial, job in zip(batch, jobs, strict=True):
                hydra = job.hydra_cfg.hydra if job.hydra_cfg else None  # None: the worker was lost
                path = Path(hydra.runtime.output_dir) if hydra else folder / str(trial.number)
                tell(study, trial.number, path, objectives=list(search.objectives))
            returns += jobs
        return returns

    def _batches(self, study: Any, space: Any) -> Iterator[Sequence[Any]]:
        """Yield batches of trials with consecutive numbers, as many as run in parallel."""
        from simplecnn.sweeps.search import interrupted_trials

        size = self.n_jobs or int(getattr(self.launcher, "num_workers", 1))
        if study.trials:
            trials = interrupted_trials(study, space)
            num_done = len(study.trials) - len(trials)
            log.info("Resuming the study: %d trials done, %d interrupted.", num_done, len(trials))
            if trials:  # all from one batch, so their numbers are consecutive
                yield trials
        while (num_left := self.n_trials - len(study.trials)) > 0:
            yield [study.ask(space) for _ in range(min(size, num_left))]
