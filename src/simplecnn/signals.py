"""Signals that interrupt a run: SIGINT, SIGTERM, and SLURM's warning (SIGUSR1).

A signal ends the run immediately: last.ckpt holds the last finished epoch, and files are written
atomically.
"""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from simplecnn.slurm import JOB, is_further_process


class Interrupted(SystemExit):
    """A signal interrupted the run. The exit code is 128 + signal, as in a shell."""

    def __init__(self, signum: int) -> None:
        # SLURM's warning announces SIGTERM, and so has its exit code.
        self.requeue = signum == getattr(signal, "SIGUSR1", None)
        super().__init__(128 + (signal.SIGTERM if self.requeue else signum))


class SignalHandler:
    """Raise Interrupted in the main thread when a signal arrives inside `handle_signals`."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.ending = False
        self.received: int | None = None
        self._handlers: dict[int, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handlers": {}}

    @property
    def is_child(self) -> bool:
        """Whether another process of the same run started this one."""
        return os.getpid() != self.pid or is_further_process()

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Handle signals within the context. Does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = [signal.SIGINT, signal.SIGTERM]
        usr1 = getattr(signal, "SIGUSR1", None)
        if JOB in os.environ and usr1 and signal.getsignal(usr1) == signal.SIG_DFL:
            signals.append(usr1)  # else submitit handles it
        self._handlers = {number: signal.getsignal(number) for number in signals}
        print_unraisable = sys.unraisablehook

        def ignore_interrupted(unraisable: Any) -> None:
            if not isinstance(unraisable.exc_value, Interrupted):  # see raise_if_received
                print_unraisable(unraisable)

        sys.unraisablehook = ignore_interrupted
        self.restore()
        try:
            yield
        finally:
            self.ending = True
            sys.unraisablehook = print_unraisable
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def restore(self) -> None:
        """Reinstall the handlers, after other code may have replaced them."""
        for number in self._handlers:
            signal.signal(number, self.receive)

    def raise_if_received(self) -> None:
        """Raise Interrupted if a signal has arrived, but Python has discarded its exception.

        It discards those that a handler raises while the process forks, or in a destructor.
        """
        if self.received is not None:
            raise Interrupted(self.received)

    def receive(self, signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGINT and os.getpid() != self.pid:
            return  # Ctrl-C reaches all processes; a DataLoader's worker is ended by its parent
        if not self.ending:  # a further signal must not interrupt recording how the run ended
            self.ending, self.received = True, signum
            raise Interrupted(signum)
