"""Many image files decoded side by side. No torch.

Run as a program (`python -m simplecnn.data.decoding`), it is one of the processes that do so.
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

TOGETHER = 128  # files that a thread or a process decodes before it takes others
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Decoding:
    """How image files become pixels (channels, size, size)."""

    size: int
    channels: int
    fit: Fit

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def one(self, path: str) -> Pixels | str:
        """The pixels of a file, or a sentence on what is wrong with it."""
        try:
            pixels = fit_pixels(read_pixels(path, color=self.channels == 3), self.size, self.fit)
        except InputError as error:
            return str(error)
        return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)

    def some(self, paths: Sequence[str]) -> list[Pixels | str]:
        """The same for several files."""
        return [self.one(path) for path in paths]

    def many(self, paths: Sequence[str], *, processes: bool) -> Generator[Pixels | str, None, None]:
        """The same for many files, in their order, by as many workers as there are cores.

        Threads do for photographs, which Pillow decodes and resizes without Python's lock. Of small
        files that is so little that threads wait for each other: there, `processes` are faster.
        """
        cores = os.cpu_count() or 1
        parts = [paths[i : i + TOGETHER] for i in range(0, len(paths), TOGETHER)]
        # Pillow warns of odd headers, and of sizes that are looked at. Threads share the filters.
        with contextlib.ExitStack() as stack, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            decode = stack.enter_context(_processes(self, cores)) if processes else self.some
            pool = ThreadPoolExecutor(max_workers=cores)
            stack.callback(pool.shutdown, cancel_futures=True)
            for pixels in pool.map(decode, parts):
                yield from pixels


@contextlib.contextmanager
def _processes(
    decoding: Decoding, number: int
) -> Iterator[Callable[[Sequence[str]], list[Pixels | str]]]:
    """A function for threads, which has processes do what `decoding.some` does.

    They read from a pipe, and end with it: also where this process is killed. (Those of joblib wait
    for ever then; those of multiprocessing import the script that is run once more.)
    """
    command = [sys.executable, "-P", "-m", __name__]
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def some(paths: Sequence[str]) -> list[Pixels | str]:
        process = idle.get()
        assert process.stdin is not None and process.stdout is not None
        try:
            pickle.dump((decoding, paths), process.stdin)
            process.stdin.flush()
            decoded: list[Pixels | str] = pickle.load(process.stdout)
        except (OSError, EOFError):
            raise RunError("A process that decodes images was killed: start again.") from None
        finally:
            idle.put(process)
        return decoded

    with contextlib.ExitStack() as stack:
        for _ in range(number):
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            stack.callback(process.communicate)  # closes the pipes, and waits for its end
            stack.callback(process.kill)
            idle.put(process)
        yield some


def _serve() -> None:
    """Decode what is asked for on standard input, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    warnings.simplefilter("ignore")
    try:
        while True:
            decoding, paths = pickle.load(sys.stdin.buffer)
            pickle.dump(decoding.some(paths), sys.stdout.buffer)
            sys.stdout.buffer.flush()
    except (EOFError, OSError):  # the process that asks is done, or gone
        os._exit(0)


if __name__ == "__main__":
    _serve()
