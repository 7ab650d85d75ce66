"""`hydra/sweeper=optuna`: a search by today's Optuna, its study on disk, through any launcher.

Hydra's own plugin of that name holds Optuna at 2.10, ends the study at a NaN and cannot prune.
Hydra reads this file at each start, so nothing heavy is imported before it is used.
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
    """Runs trials until the study in the sweep's directory has `n_trials`, failed ones included.

    Trial n is job n, in directory n. A trial fails with its job, or with an objective that is not
    finite; the study continues. Trials that were interrupted come first.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int | None = None,
        sampler: DictConfig | None = None,
        pruner: DictConfig | None = None,
        **search: Any,  # objectives and params: read by search.Search
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
        """Search. Nothing is raised for a job that failed: its record says why."""
        from simplecnn.sweeps.search import Search, open_study, tell

        search = Search.of(self.config, arguments, OverridesParser.create(self.loader))
        folder = Path(str(self.config.hydra.sweep.dir))
        study = open_study(
            folder, objectives=search.objectives, sampler=self.sampler, pruner=self.pruner
        )
        returns: list[JobReturn] = []
        for batch in self._batches(study, search.space):
            words = [search.words(trial.params) for trial in batch]
            jobs = self.launcher.launch(words, initial_job_idx=batch[0].number)
            for trial, job in zip(batch, jobs, strict=True):
                hydra = job.hydra_cfg.hydra if job.hydra_cfg else None  # None: its worker is gone
                path = Path(hydra.runtime.output_dir) if hydra else folder / str(trial.number)
                tell(study, trial.number, path, objectives=list(search.objectives))
            returns += jobs
        if len(search.objectives) > 1:
            best = study.best_trials
            for trial in best:
                values = zip(search.objectives, trial.values, strict=True)
                shown = "   ".join(f"{name} {value:.6g}" for name, value in values)
                log.info("job %d   %s", trial.number, shown)
            log.info("No other trial is better in everything than one of these %d.", len(best))
        return returns

    def _batches(self, study: Any, space: Any) -> Iterator[Sequence[Any]]:
        """Trials with consecutive numbers, as many as run at a time."""
        from simplecnn.sweeps.search import interrupted_trials

        size = self.n_jobs or int(getattr(self.launcher, "num_workers", 1))
        if study.trials:
            trials = interrupted_trials(study, space)
            done = len(study.trials) - len(trials)
            log.info("The study resumes: %d trials done, %d interrupted.", done, len(trials))
            if trials:  # of one batch
                yield trials
        while (num_left := self.n_trials - len(study.trials)) > 0:
            yield [study.ask(space) for _ in range(min(size, num_left))]
