"""`hydra/launcher=joblib`: the jobs of a sweep side by side, in processes of this machine.

Hydra's own plugin of that name gives up the whole sweep when one process is killed. Here each
worker is a pool of one joblib process: what is lost with it is its job, and the next one gets a
new process. Hydra reads this file at each start, so nothing heavy is imported before it is used.
"""

import contextlib
import logging
import os
import queue
import re
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from simplecnn.sweeps.jobs import SECONDS_TO_END, JobLauncher, job_config

log = logging.getLogger("simplecnn.sweeps.report")


class JoblibLauncher(JobLauncher):
    """Runs `n_jobs` jobs at a time (-1: one a core, or one a GPU where there are several).

    The workers share the cores: each has cores / workers threads, or `num_threads`. Where there
    are several GPUs, each worker sees one of them.
    """

    def __init__(self, n_jobs: int = -1, num_threads: int | None = None) -> None:
        self.n_jobs = n_jobs
        self.num_threads = num_threads
        self.workers: list[Worker] = []

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
        setup_globals()
        # Once, here: what `now` gives is kept with the configuration and goes to the workers.
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        workers = self._hire(min(self.num_workers, len(job_overrides)))
        free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in workers:
            free.put(worker)

        def job(number: int, overrides: Sequence[str]) -> JobReturn:
            worker = free.get()
            try:
                return worker.run(
                    *(self.hydra_context, self.task_function, self.config),
                    *(list(overrides), number, Singleton.get_state()),
                )
            except (BrokenExecutor, SystemExit) as error:  # killed, or interrupted alone
                return self.lost(number, overrides, error=how_it_ended(error))
            finally:
                free.put(worker)

        pool = ThreadPoolExecutor(len(workers))
        try:
            jobs = [
                pool.submit(job, number, overrides)
                for number, overrides in enumerate(job_overrides, initial_job_idx)
            ]
            return [result.result() for result in jobs]
        except BaseException as error:
            pool.shutdown(wait=False, cancel_futures=True)
            if isinstance(error, SystemExit):  # a signal to this process alone
                for worker in workers:
                    worker.interrupt()
            # A Ctrl-C the workers got as well. They save, and write how their jobs ended.
            wait([result for result in jobs if result.running()], timeout=SECONDS_TO_END)
            for worker in workers:
                worker.close(kill=True)
            raise
        finally:
            pool.shutdown()

    def _hire(self, num_workers: int) -> list["Worker"]:
        """The workers. A search comes back for the same ones; they end with the command."""
        if len(self.workers) < num_workers:
            for worker in self.workers:
                worker.close()
            environments = worker_environments(num_workers, num_threads=self.num_threads)
            self.workers = [Worker(environment) for environment in environments]
            threads = environments[0]["OMP_NUM_THREADS"]
            log.info("%d jobs at a time, threads of each: %s", num_workers, threads)
        return self.workers


class Worker:
    """One process with an environment of its own; started when needed, again after a loss."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self.executor: Any = None

    def run(self, *arguments: Any) -> JobReturn:
        from joblib.externals.loky import ProcessPoolExecutor

        if self.executor is None:
            self.executor = ProcessPoolExecutor(
                max_workers=1, env=self.environment, initializer=_end_with, initargs=(os.getpid(),)
            )
        try:
            return self.executor.submit(_run, *arguments).result()
        except BrokenExecutor:
            self.close(kill=True)
            raise

    def interrupt(self) -> None:
        for number in self.executor._processes if self.executor is not None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)

    def close(self, *, kill: bool = False) -> None:
        if self.executor is not None:
            self.executor.shutdown(wait=True, kill_workers=kill)
            self.executor = None


def worker_environments(
    num_workers: int, *, num_threads: int | None = None
) -> list[dict[str, str]]:
    """What each worker's process is told: its share of the cores and, of several GPUs, its one."""
    from joblib import cpu_count

    from simplecnn.config.devices import num_cuda_devices

    threads = str(num_threads or max(1, cpu_count() // num_workers))
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    environments = [dict.fromkeys(names, threads) for _ in range(num_workers)]
    num_gpus = num_cuda_devices()
    if num_gpus > 1:
        named = os.environ.get("CUDA_VISIBLE_DEVICES")
        gpus = named.split(",") if named else [str(i) for i in range(num_gpus)]
        for i, environment in enumerate(environments):
            environment["CUDA_VISIBLE_DEVICES"] = gpus[i % num_gpus].strip()
    return environments


def how_it_ended(error: BaseException) -> str | None:
    """What became of a worker's process, where that is not the job's own doing."""
    if not isinstance(error, BrokenExecutor):
        return None
    codes = re.search(r"\{(.+)\}", str(error))
    how = codes.group(1) if codes else "an unknown exit code"
    return f"its process ended with {how}" + (": out of memory?" if "SIGKILL" in how else "")


def _end_with(parent: int) -> None:
    """In a worker: when the command was killed, interrupt the job, which nobody else would end."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(SECONDS_TO_END)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run(
    hydra_context: HydraContext,
    task_function: TaskFunction,
    config: DictConfig,
    overrides: list[str],
    number: int,
    state: Any,
) -> JobReturn:
    """One job, in its worker."""
    setup_globals()
    Singleton.set_state(state)
    return run_job(
        hydra_context=hydra_context,
        task_function=task_function,
        config=job_config(hydra_context, config, overrides, number),
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
