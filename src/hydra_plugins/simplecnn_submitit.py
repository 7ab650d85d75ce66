"""`hydra/launcher=submitit_slurm` and `submitit_local`: wait for every job of a sweep.

Hydra's submitit launchers raise an error for a job that was killed, while others still run.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn

from simplecnn.sweeps.workers import lost_job


class WaitForAll:
    """Replaces the `launch` of Hydra's launchers, where the results are awaited."""

    cluster: str
    params: dict[str, Any]

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        import submitit
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
        from submitit.core.utils import FailedJobError, UncompletedJobError

        shared = {field.name for field in fields(BaseQueueConf)}  # by all clusters

        def named(name: str) -> str:
            return name if name in shared else f"{self.cluster}_{name}"

        params = dict(self.params)
        folder = params.pop("submitit_folder")
        limits = {named(k): params.pop(k) for k in ("max_num_timeout",) if k in params}
        executor = submitit.AutoExecutor(folder, cluster=self.cluster, **limits)
        executor.update_parameters(**{named(k): v for k, v in params.items()})
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        jobs: list[Any] = executor.map_array(
            cast(Any, self),  # as a function of the overrides, by its `__call__`
            [list(overrides) for overrides in job_overrides],
            ["hydra.sweep.dir" for _ in numbers],
            numbers,
            [f"job_id_for_{number}" for number in numbers],
            [Singleton.get_state() for _ in numbers],
        )
        results: list[JobReturn] = []
        for job, number, overrides in zip(jobs, numbers, job_overrides, strict=True):
            try:
                results.append(job.results()[0])
            except (FailedJobError, UncompletedJobError):
                reason = f"it ended without a result: see {job.paths.stderr}"
                results.append(lost_job(number, overrides, reason, job_overrides))
        return results


with suppress(ImportError):  # the extra is not installed
    from hydra_plugins.hydra_submitit_launcher import config, submitit_launcher

    class LocalLauncher(WaitForAll, submitit_launcher.LocalLauncher):
        cluster = "local"

    class SlurmLauncher(WaitForAll, submitit_launcher.SlurmLauncher):
        cluster = "slurm"

    @dataclass
    class Local(config.LocalQueueConf):
        _target_: str = f"{__name__}.LocalLauncher"

    @dataclass
    class Slurm(config.SlurmQueueConf):
        _target_: str = f"{__name__}.SlurmLauncher"

    for name, node in (("submitit_local", Local), ("submitit_slurm", Slurm)):
        ConfigStore.instance().store(name, node, group="hydra/launcher", provider="simplecnn")
