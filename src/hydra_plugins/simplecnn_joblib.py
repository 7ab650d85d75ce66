"""`hydra/launcher=joblib`: the jobs of a sweep side by side, in processes of this machine.

Hydra's own plugin of that name gives up the sweep when one process is killed. Here each worker is
a pool of one process of joblib's: with it only its job is lost.
"""

import contextlib
import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor, wait
from queue import SimpleQueue
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from simplecnn.sweeps.workers import SECONDS_TO_END, WorkerLauncher, lost_job, run_in_worker

log = logging.getLogger("simplecnn.sweeps")


class JoblibLauncher(WorkerLauncher):
    """Runs `n_jobs` jobs at a time (-1: one a core, or one a GPU where there are several).

    The workers share the cores: each has cores / workers threads, or `num_threads`. Where there
    are several GPUs, each worker sees one of them.
    """

    def __init__(self, n_jobs: int = -1, num_threads: int | None = None) -> None:
        super().__init__()
        self.n_jobs = n_jobs
        self.num_threads = num_threads
        self.workers: list[Worker] = []  # those of a search are kept for its next jobs

    @property
    def num_workers(self) -> int:
        """Jobs at a time, where there are enough."""
        from joblib import cpu_count

        from simplecnn.config.devices import num_cuda_devices

        if self.n_jobs > 0:
            return self.n_jobs
        return num_cuda_devices() if num_cuda_devices() > 1 else cpu_count()

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        num_workers = min(self.num_workers, len(job_overrides))
        if len(self.workers) < num_workers:
            environments = worker_environments(num_workers, num_threads=self.num_threads)
            self.workers = [Worker(environment) for environment in environments]
            threads = environments[0]["OMP_NUM_THREADS"]
            log.info("%d jobs at a time, threads of each: %s", num_workers, threads)
        idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self.workers:
            idle.put(worker)

        def run(number: int, overrides: Sequence[str]) -> JobReturn:
            worker = idle.get()
            try:
                return worker.run(*self.arguments(number, overrides))
            except BrokenExecutor:
                return lost_job(number, overrides, "its process ended: killed, or out of memory?")
            except SystemExit:  # the job was interrupted, and has logged it
                return JobReturn(list(overrides), status=JobStatus.COMPLETED)
            finally:
                idle.put(worker)

        with warnings.catch_warnings(), ThreadPoolExecutor(len(self.workers)) as pool:
            # joblib starts a worker anew that has grown, as by its first import of torch.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
            jobs = [pool.submit(run, n, o) for n, o in enumerate(job_overrides, initial_job_idx)]
            try:
                return [job.result() for job in jobs]
            except (KeyboardInterrupt, SystemExit):
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in self.workers:
                    worker.interrupt()
                wait([job for job in jobs if job.running()], timeout=SECONDS_TO_END)
                for worker in self.workers:
                    worker.kill()
                raise


class Worker:
    """One process with an environment of its own: started when needed, and after a loss."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.pid: int | None = None
        self._create_pool()

    def _create_pool(self) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        self.pool: Any = ProcessPoolExecutor(
            max_workers=1, env=self.environment, initializer=_end_with, initargs=(os.getpid(),)
        )

    def run(self, *arguments: Any) -> JobReturn:
        """Run one job. Raises BrokenExecutor where the process is lost."""
        try:
            self.pid = self.pool.submit(os.getpid).result()
            return self.pool.submit(run_in_worker, *arguments).result()
        except BrokenExecutor:
            self.pool.shutdown()
            self._create_pool()
            raise

    def interrupt(self) -> None:
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        self.pool.shutdown(kill_workers=True)


def worker_environments(
    num_workers: int, *, num_threads: int | None = None
) -> list[dict[str, str]]:
    """Of each worker: its share of the cores and, of several GPUs, its one."""
    from joblib import cpu_count

    from simplecnn.config.devices import num_cuda_devices

    threads = str(num_threads or max(1, cpu_count() // num_workers))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environments = [dict.fromkeys(names, threads) for _ in range(num_workers)]
    num_gpus = num_cuda_devices()
    if num_gpus > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(num_gpus)))
        gpus = visible.split(",")
        for i, environment in enumerate(environments):
            environment["CUDA_VISIBLE_DEVICES"] = gpus[i % num_gpus].strip()
    return environments


def _end_with(parent: int) -> None:
    """In a worker: interrupt the job when the command was killed, which ends nobody else."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(SECONDS_TO_END)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
