"""How a command fails: with sentences for the person who typed it, and an exit code.

0 done   1 failed   2 bad input: nothing was read, trained or written
130 interrupted by Ctrl-C (SIGINT)   143 interrupted by SIGTERM, or by SLURM's warning

The traceback of what nobody foresaw is in the log; HYDRA_FULL_ERROR=1 shows it on the screen too.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)


class InputError(Exception):
    """What was typed cannot be done; each mistake is one sentence. Exit code 2."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes: Sequence[str] = mistakes


class RunError(Exception):
    """The run has to stop, through no bug of ours; the message is one sentence. Exit code 1."""


def short(path: str | Path) -> str:
    """A path as one would type it from here."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # on another drive of Windows
        return str(path)
    return str(path) if relative.startswith("..") else relative


def log_error(error: Exception, folder: Path) -> tuple[int, str]:
    """Log an error, its traceback in the file only. Gives the exit code and the sentence."""
    if isinstance(error, InputError):
        log.error("%s", error, exc_info=error.__cause__)  # of a class of the user's own, say
        return 2, str(error)
    if isinstance(error, RunError):
        log.error("%s", error)
        return 1, str(error)
    reason = str(error).strip().splitlines()
    message = f"{type(error).__name__}: {reason[0] if reason else 'no message'}"
    log.error("Failed with %s\nThe traceback is in the log of %s", message, folder, exc_info=error)
    return 1, message
