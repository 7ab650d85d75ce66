"""How a command fails: with sentences for the person who typed it, and an exit code.

0 done   1 failed   2 bad input: nothing was read, trained or written
130 interrupted by Ctrl-C (SIGINT)   143 interrupted by SIGTERM, or by SLURM's warning

The traceback of what nobody foresaw is in the log; HYDRA_FULL_ERROR=1 shows it on the screen too.
"""

import os
from collections.abc import Sequence
from pathlib import Path


class InputError(Exception):
    """What was typed cannot be done; each mistake is one sentence. Exit code 2."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes: Sequence[str] = mistakes


class RunError(Exception):
    """The run cannot go on, through no bug of ours; the message is one sentence. Exit code 1."""


def short(path: str | Path) -> str:
    """A path as one would type it from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
