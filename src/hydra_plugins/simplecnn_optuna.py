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
from omegaconf import DictConfig, OmegaConf

log = logging.getLogger("simplecnn.sweeps.report")


class OptunaSweeper(Sweeper):
    """Runs trials until the study in the sweep's folder has `n_trials`, those that failed included.

    Trial n is job n, in folder n. A trial fails with its job, or with an objective that is not a
    finite number; the study goes on. Trials that an interruption left unfinished come first.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int | None = None,
        sampler: DictConfig | None = None,
        pruner: DictConfig | None = None,
        **search: Any,  # objectives and params: read by study.Search
    ) -> None:
        self.n_trials = n_trials
        self.n_jobs = n_jobs
        self.sampler: Any = OmegaConf.to_container(sampler, resolve=True) if sampler else None
        self.pruner: Any = OmegaConf.to_container(pruner, resolve=True) if pruner else None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._loader = hydra_context.config_loader
        self._config = config
        self._launcher: Any = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Search. Jobs that failed are told by their records: nothing is raised for them."""
        from simplecnn.sweeps.search import Search, open_study

        parser = OverridesParser.create(config_loader=self._loader)
        self.search = Search.of(self._config, arguments, parser)
        self.folder = Path(str(self._config.hydra.sweep.dir))
        self.folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self._config, self.folder / "multirun.yaml")
        study = open_study(
            self.folder,
            objectives=self.search.objectives,
            sampler=self.sampler,
            pruner=self.pruner,
        )
        returns = [job for batch in self._batches(study) for job in self._launch(study, batch)]
        self._say_best(study)
        return returns

    def _batches(self, study: Any) -> Iterator[list[Any]]:
        """Trials with consecutive numbers, as many as run at a time."""
        from simplecnn.sweeps import search as room

        workers: int = getattr(self._launcher, "num_workers", 1)
        size = self.n_jobs or workers
        left_over = room.unfinished(study)
        done = len(study.trials) - len(left_over)
        if study.trials:
            log.info("the study goes on: %d trials done, %d unfinished", done, len(left_over))
        while left_over:
            batch = [left_over.pop(0)]
            while left_over and len(batch) < size and left_over[0].number == batch[-1].number + 1:
                batch.append(left_over.pop(0))
            yield batch
        while (num_left := self.n_trials - len(study.trials)) > 0:
            yield [study.ask(self.search.space) for _ in range(min(size, num_left))]

    def _launch(self, study: Any, batch: Sequence[Any]) -> Sequence[JobReturn]:
        from simplecnn.sweeps import search as room

        words = [self.search.words(trial.params) for trial in batch]
        returns = self._launcher.launch(words, initial_job_idx=batch[0].number)
        for trial, job in zip(batch, returns, strict=True):
            folder = Path(str(job.hydra_cfg.hydra.runtime.output_dir))
            room.tell(study, trial.number, folder, monitor=self._config.monitor)
        return returns

    def _say_best(self, study: Any) -> None:
        """The best trials: in a file, as Hydra's plugin does; several objectives, on the screen."""
        best = study.best_trials
        if len(self.search.objectives) > 1:
            log.info("")
            for trial in best:
                values = zip(self.search.objectives, trial.values, strict=True)
                said = "   ".join(f"{name} {value:.6g}" for name, value in values)
                log.info("job %d   %s", trial.number, said)
            log.info("No other trial is better in everything than one of these %d.", len(best))
        results = {
            "name": "optuna",
            "solutions": [
                {
                    "trial": trial.number,
                    "values": dict(zip(self.search.objectives, trial.values, strict=True)),
                    "params": dict(trial.params),
                }
                for trial in best
            ],
        }
        OmegaConf.save(OmegaConf.create(results), self.folder / "optimization_results.yaml")
