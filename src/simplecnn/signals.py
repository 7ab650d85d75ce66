"""Signals that end a run: SIGINT, SIGTERM, and SLURM's warning. No torch.

A signal ends the run at once: last.ckpt holds its last finished epoch, and files are atomic.
"""

import logging
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

log = logging.getLogger(__name__)
JOB = "SLURM_JOB_ID"


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
        return os.getpid() != self.pid or os.environ.get("LOCAL_RANK", "0") != "0"

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


def slurm_job() -> str | None:
    """What SLURM calls this job, `123` or, in an array, `123_4`; None outside of SLURM."""
    job, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    name = f"{job}_{task}" if job and task else os.environ.get(JOB, "")
    return name if re.fullmatch(r"\d+(_\d+)?", name) else None


def was_requeued() -> bool:
    """Whether SLURM started this job before."""
    return slurm_job() is not None and os.environ.get("SLURM_RESTART_COUNT", "0") != "0"


def requeue() -> None:
    """Ask SLURM to start this job again."""
    job = slurm_job()
    if job is None:
        return
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, timeout=30
        )
        reason = done.stderr.strip() if done.returncode else ""
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = str(error)
    if reason:
        log.warning("SLURM does not start job %s again: %s", job, reason)
    else:
        log.info("SLURM starts job %s again, and the run resumes.", job)
