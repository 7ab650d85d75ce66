"""Decode many image files in parallel, in threads or processes. No torch import.

`python -m simplecnn.data.decoding` is the worker process.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from simplecnn.data.images import Fit, fit_pixels, read_pixels
from simplecnn.errors import InputError, RunError

CHUNK_SIZE = 128  # files per task of a worker
Pixels = NDArray[np.uint8]
Decode = Callable[[Sequence[str]], list[Pixels | str]]


@dataclass(frozen=True)
class Decoding:
    """How image files are decoded into pixels (channels, size, size)."""

    size: int
    channels: int
    fit: Fit

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def decode_file(self, path: str) -> Pixels | str:
        """Return the pixels of a file, or an error message if it cannot be read."""
        try:
            pixels = fit_pixels(read_pixels(path, color=self.channels == 3), self.size, self.fit)
        except InputError as error:
            return str(error)
        return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)

    def decode_files(self, paths: Sequence[str]) -> list[Pixels | str]:
        return [self.decode_file(path) for path in paths]

    def decode_in_parallel(
        self, paths: Sequence[str], *, processes: bool
    ) -> Generator[Pixels | str, None, None]:
        """Yield the result of `decode_file` for each path, in order, with a worker per CPU core.

        Threads suit photographs, which Pillow decodes and resizes without holding the GIL. Small
        files take so little time that threads contend for it: `processes` are faster.
        """
        num_workers = os.cpu_count() or 1
        chunks = [paths[i : i + CHUNK_SIZE] for i in range(0, len(paths), CHUNK_SIZE)]
        # Pillow warns about odd headers, and about sizes that `read_pixels` checks itself. The
        # filter applies to all threads.
        with contextlib.ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decode: Decode = self.decode_files
            if processes:
                decode = stack.enter_context(_worker_processes(self, num_workers))
            pool = ThreadPoolExecutor(max_workers=num_workers)
            stack.callback(pool.shutdown, cancel_futures=True)
            for results in pool.map(decode, chunks):
                yield from results


@contextlib.contextmanager
def _worker_processes(decoding: Decoding, num_workers: int) -> Iterator[Decode]:
    """Start worker processes, and yield a thread-safe function that decodes files in one of them.

    Workers read tasks from a pipe and exit when it closes, even if this process is killed. (Those
    of joblib would then wait forever; multiprocessing would re-import the main script.)
    """
    command = [sys.executable, "-P", "-m", __name__]
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def decode(paths: Sequence[str]) -> list[Pixels | str]:
        worker = idle.get()
        assert worker.stdin is not None and worker.stdout is not None
        try:
            pickle.dump((decoding, paths), worker.stdin)
            worker.stdin.flush()
            decoded: list[Pixels | str] = pickle.load(worker.stdout)
        except (OSError, EOFError):
            raise RunError("A process that decodes images was killed: start again.") from None
        finally:
            idle.put(worker)
        return decoded

    with contextlib.ExitStack() as stack:
        for _ in range(num_workers):
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.callback(worker.communicate)  # closes the pipes and waits for the exit
            stack.callback(worker.kill)
            idle.put(worker)
        yield decode


def _run_worker() -> None:
    """Decode the files requested on standard input until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    warnings.simplefilter("ignore")
    try:
        while True:
            decoding, paths = pickle.load(sys.stdin.buffer)
            pickle.dump(decoding.decode_files(paths), sys.stdout.buffer)
            sys.stdout.buffer.flush()
    except (EOFError, OSError):  # the parent is done or was killed
        os._exit(0)


if __name__ == "__main__":
    _run_worker()
