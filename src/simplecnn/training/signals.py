"""Signals that end a run: SIGINT, SIGTERM, and SLURM's warning. No torch.

While a step is under way a signal is only noted; the run obeys it where its state can be saved.
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
SECONDS_TO_FINISH = 4.0  # for the step under way; then the run ends without it
JOB = "SLURM_JOB_ID"


class Interrupted(SystemExit):
    """The run was told to stop. The exit code is that of a shell: 128 + signal."""

    def __init__(self, signum: int) -> None:
        # SLURM's warning is followed by SIGTERM: it counts as one.
        self.requeue = signum == getattr(signal, "SIGUSR1", None)
        super().__init__(128 + (signal.SIGTERM if self.requeue else signum))


class Stop:
    """Whether the run was told to stop, by which signal, and whether it may go on for a moment.

    Where the Trainer starts the processes of a run (`launcher`), this one only tells them. They
    have copies, which note that they were told and leave the rest to it.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.launcher: Any = None
        self.signum: int | None = None
        self.deferred = False
        self.ending = False
        self.listens = False

    def __bool__(self) -> bool:
        return self.signum is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "launcher": None}

    def obey(self) -> None:
        """Raise Interrupted if a signal has come."""
        if self.signum is not None:
            raise Interrupted(self.signum)

    def receive(self, signum: int, frame: FrameType | None) -> None:
        """The handler. It notes the first signal; one that nobody would look for, a second one,
        and the alarm are obeyed at once."""
        if self.ending:
            return
        if os.getpid() != self.pid:
            self.signum = self.signum or signum
            return
        started = [p for p in getattr(self.launcher, "procs", []) if p.is_alive()]
        timed_out = signum == getattr(signal, "SIGALRM", None)
        again, self.signum = bool(self), self.signum or signum
        if started and not again:
            for process in started:
                process.terminate()
        elif again or timed_out or not self.deferred:
            for process in started:
                process.kill()
            self.obey()
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_FINISH)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals, and give them back. Does nothing outside of the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.listens = True
        names = ["SIGINT", "SIGTERM", "SIGALRM"]
        usr1 = getattr(signal, "SIGUSR1", None)
        if JOB in os.environ and usr1 and signal.getsignal(usr1) == signal.SIG_DFL:
            names.append("SIGUSR1")  # submitit has a handler of its own
        before: dict[int, Any] = {}
        for name in names:
            if hasattr(signal, name):
                number = getattr(signal, name)
                before[number] = signal.signal(number, self.receive)
        try:
            yield
        finally:
            self.end()
            self.listens = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def take_back(self) -> None:
        """Listen to SIGTERM again, after somebody else has put a handler before ours."""
        if self.listens:
            signal.signal(signal.SIGTERM, self.receive)
            if os.getpid() != self.pid:  # a Ctrl-C reaches all processes: one of them answers
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end(self) -> None:
        """The run is ending, and writes down how: no further signal disturbs it."""
        self.ending = True
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)


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
        log.info("SLURM starts job %s again, and the run goes on.", job)
