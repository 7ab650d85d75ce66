"""`hydra/launcher=joblib`: run the jobs of a sweep in parallel processes on this machine.

Hydra's joblib launcher aborts the sweep when one worker is killed. Here each worker is a loky pool
of one process, so that only its own job is lost.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor, wait
from itertools import cycle
from queue import SimpleQueue
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus

from simplecnn.sweeps.workers import SECONDS_TO_END, WorkerLauncher, lost_job, run_in_worker

log = logging.getLogger("simplecnn.sweeps")
Worker = tuple[Mapping[str, str], Any]  # environment variables, and a pool of one process


class JoblibLauncher(WorkerLauncher):
    """Run jobs in parallel processes on this machine.

    n_jobs: the number of parallel jobs; -1: one per core, or one per GPU on a multi-GPU machine.
    num_threads: threads per job; None: an equal share of the cores.

    On a multi-GPU machine each worker sees one GPU.
    """

    def __init__(self, n_jobs: int = -1, num_threads: int | None = None) -> None:
        self.n_jobs = n_jobs
        self.num_threads = num_threads
        # Kept between calls of `launch`: a search launches its trials in batches.
        self.idle: SimpleQueue[Worker] = SimpleQueue()

    @property
    def num_workers(self) -> int:
        """The maximum number of parallel jobs."""
        from joblib import cpu_count

        return self.n_jobs if self.n_jobs > 0 else len(several_gpus()) or cpu_count()

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        num_workers = min(self.num_workers, len(job_overrides))
        if self.idle.qsize() < num_workers:
            self.idle = SimpleQueue()
            for environment in worker_environments(num_workers, num_threads=self.num_threads):
                self.idle.put((environment, new_pool(environment)))
            num_threads = environment["OMP_NUM_THREADS"]
            log.info("%d jobs in parallel, threads per job: %s", num_workers, num_threads)

        interrupted = threading.Event()

        def run(number: int, overrides: Sequence[str]) -> JobReturn:
            environment, pool = self.idle.get()
            try:
                job = pool.submit(
                    run_in_worker, self.basic, number, list(overrides), Singleton.get_state()
                )
                return job.result()
            except BrokenExecutor:
                if interrupted.is_set():  # before the job could handle the signal
                    return JobReturn(list(overrides), status=JobStatus.COMPLETED)
                pool = new_pool(environment)
                reason = "its process ended suddenly (kill -9, or out of memory)"
                return lost_job(number, overrides, reason, job_overrides)
            except SystemExit:  # the job was interrupted and has logged it
                return JobReturn(list(overrides), status=JobStatus.COMPLETED)
            finally:
                self.idle.put((environment, pool))

        with warnings.catch_warnings(), ThreadPoolExecutor(self.idle.qsize()) as threads:
            # loky restarts a worker whose memory has grown, as by its first import of torch.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs were given")
            jobs = [threads.submit(run, n, o) for n, o in enumerate(job_overrides, initial_job_idx)]
            try:
                return [job.result() for job in jobs]
            except (KeyboardInterrupt, SystemExit):
                interrupted.set()
                threads.shutdown(wait=False, cancel_futures=True)
                workers = multiprocessing.active_children()
                for worker in workers:
                    worker.terminate()
                wait([job for job in jobs if job.running()], timeout=SECONDS_TO_END)
                for worker in workers:
                    if worker.is_alive() and worker.pid:
                        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                            os.kill(worker.pid, signal.SIGKILL)  # loky's processes have no kill()
                raise


def worker_environments(
    num_workers: int, *, num_threads: int | None = None
) -> list[dict[str, str]]:
    """Environment variables of each worker: its share of the cores and, with several GPUs, one."""
    from joblib import cpu_count

    threads = str(num_threads or max(1, cpu_count() // num_workers))
    environments = [{"OMP_NUM_THREADS": threads} for _ in range(num_workers)]
    for environment, gpu in zip(environments, cycle(several_gpus()), strict=False):
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environments


def several_gpus() -> list[str]:
    """The GPUs of this machine, named as in CUDA_VISIBLE_DEVICES, if there are several."""
    from simplecnn.config.devices import num_cuda_devices

    number = num_cuda_devices()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(number)))
    return [name.strip() for name in visible.split(",")][:number] if number > 1 else []


def new_pool(environment: Mapping[str, str]) -> Any:
    """A pool of one process, which starts with its first job and ends with this process."""
    from joblib.externals.loky import ProcessPoolExecutor

    return ProcessPoolExecutor(
        max_workers=1, env=dict(environment), initializer=_start_worker, initargs=(os.getpid(),)
    )


def _start_worker(parent: int) -> None:
    """Interrupt the job of this worker, then exit, once the `parent` process has died.

    Loky's workers outlive a parent that is killed by SIGKILL. They also set the start method
    `loky`, with which a DataLoader cannot start its workers.
    """
    multiprocessing.set_start_method(None, force=True)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(SECONDS_TO_END)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
