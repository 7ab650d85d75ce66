"""How a command fails: with sentences for the person who typed it, and an exit code.

0 done   1 failed   2 bad input: nothing was read, trained or written
"""

from collections.abc import Sequence


class InputError(Exception):
    """What was typed cannot be done; each mistake is one sentence. Exit code 2."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes: Sequence[str] = mistakes


class RunError(Exception):
    """The run cannot go on, through no bug of ours; the message is one sentence. Exit code 1."""
