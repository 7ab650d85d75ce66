"""Signals that end a run: SIGINT, SIGTERM, and SLURM's warning. No torch.

A signal ends the run at once: last.ckpt holds its last finished epoch, and files are atomic.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from simplecnn.slurm import JOB, is_further_process


class Interrupted(SystemExit):
    """A signal ended the run. The exit code is that of a shell: 128 + signal."""

    def __init__(self, signum: int) -> None:
        # SLURM's warning is followed by SIGTERM: it counts as one.
        self.requeue = signum == getattr(signal, "SIGUSR1", None)
        super().__init__(128 + (signal.SIGTERM if self.requeue else signum))


class Stop:
    """Raises Interrupted in the main thread when a signal arrives while it listens."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.ending = False
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handlers": {}}

    @property
    def is_child(self) -> bool:
        """Whether this process was started by another one of the same run."""
        return os.getpid() != self.pid or is_further_process()

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Handle the signals inside. Does nothing outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = [signal.SIGINT, signal.SIGTERM]
        usr1 = getattr(signal, "SIGUSR1", None)
        if JOB in os.environ and usr1 and signal.getsignal(usr1) == signal.SIG_DFL:
            signals.append(usr1)  # submitit has a handler of its own
        self._handlers = {number: signal.getsignal(number) for number in signals}
        self.restore()
        try:
            yield
        finally:
            self.ending = True
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def restore(self) -> None:
        """Handle the signals again, after somebody else has put another handler there."""
        for number in self._handlers:
            signal.signal(number, self.receive)

    def receive(self, signum: int, frame: FrameType | None) -> None:
        if not self.ending:  # a run that is writing down how it ended is not disturbed
            self.ending, self.received = True, signum
            raise Interrupted(signum)
