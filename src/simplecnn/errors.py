"""Errors that a command reports to its user as sentences, and its exit codes.

0 success   1 failure   2 bad input: nothing was read, trained or written
130 interrupted by Ctrl-C (SIGINT)   143 interrupted by SIGTERM, or by SLURM's warning

Tracebacks of unexpected errors are in the log; HYDRA_FULL_ERROR=1 prints them to the screen too.
"""

import errno
import logging
import os
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

log = logging.getLogger(__name__)
command_directory: str | None = None  # where the command was typed, if hydra.job.chdir is true
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)
OBSTRUCTED = (errno.EACCES, errno.EPERM, errno.EEXIST, errno.EISDIR, errno.ENOTDIR,
              errno.ENAMETOOLONG, errno.ELOOP)  # fmt: skip
EXTRAS = {  # optional package: the extra that installs it
    "captum": "explain",
    "onnx": "export",
    "onnxruntime": "export",
    "onnxscript": "export",
    "optuna": "optuna",
    "psutil": "monitor",
    "ray": "ray",
    "rich": "monitor",
    "submitit": "submitit",
}


class InputError(Exception):
    """Invalid input from the user; each mistake is one sentence. Exit code 2."""

    def __init__(self, *mistakes: str) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes: Sequence[str] = mistakes


class RunError(Exception):
    """The run must stop, but not because of a bug; the message is one sentence. Exit code 1."""


@contextmanager
def reraise(message: str, kind: type[Exception] = InputError) -> Iterator[None]:
    """Raise any other error as `kind`: the message, and the first line of the error.

    For an error in the user's own code, the message ends with the file and the line.
    """
    try:
        yield
    except (InputError, RunError):
        raise
    except Exception as error:
        raise kind(f"{message}: {first_line(error)}{own_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type if the message is empty.

    A line that only announces the next one, as in errors of `load_state_dict`, is skipped.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines = lines[1:]
    return lines[0][:300] if lines else type(error).__name__


def require_packages(user: str, *packages: str) -> None:
    """Raise InputError if optional packages that `user` needs are not installed."""
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        names, extra = ", ".join(missing), EXTRAS.get(missing[0])
        are = f"package {names}, which is" if len(missing) == 1 else f"packages {names}, which are"
        how = f" Type uv sync --extra {extra}, or pip install '.[{extra}]'." if extra else ""
        raise InputError(f"{user} needs the {are} not installed.{how}")


def relative_path(path: str | Path) -> str:
    """Return `path` relative to the working directory if it is inside, else unchanged.

    It is also unchanged in a job that runs in another directory than its command (hydra.job.chdir):
    what is printed must be valid where the command was typed.
    """
    if command_directory not in (None, os.getcwd()):
        return str(path)
    try:
        relative = os.path.relpath(path)
    except ValueError:  # on another Windows drive
        return str(path)
    return str(path) if relative.startswith("..") else relative


def full_or_obstructed(error: OSError) -> str | None:
    """The sentence for a full disk, no permission or an impossible path; else None."""
    name = relative_path(os.fsdecode(error.filename)) if error.filename else "A file"
    if error.errno in FULL:
        return f"{name} cannot be written: {error.strerror}."
    if error.errno in OBSTRUCTED and error.filename:
        return f"{name} cannot be accessed: {error.strerror}{own_line(error)}."
    return None


def log_error(error: Exception) -> tuple[int, str]:
    """Log an error, with its traceback in the log file. Returns the exit code and the message."""
    if isinstance(error, InputError):
        log.error("%s", error, exc_info=error.__cause__)  # for example from a user-defined class
        return 2, str(error)
    if isinstance(error, RunError):
        log.error("%s", error)
        return 1, str(error)
    if isinstance(error, OSError) and (message := full_or_obstructed(error)):
        log.error("%s", message, exc_info=error)
        return 1, message
    reason = first_line(error) if str(error).strip() else "no message"
    message = f"{type(error).__name__}: {reason}{own_line(error)}"
    files = [h.baseFilename for h in log.root.handlers if isinstance(h, logging.FileHandler)]
    where = f"is in {relative_path(files[0])}" if files else "is shown with HYDRA_FULL_ERROR=1"
    log.error("Failed with %s\nThe traceback %s", message, where, exc_info=error)
    return 1, message


def own_line(error: Exception) -> str:
    """The line of the user's own code, below the working directory, that raised an error."""
    source = Path(__file__).parents[1]
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = relative_path(frame.filename)
        is_own = not Path(frame.filename).is_relative_to(source) and not path.startswith("scripts/")
        if is_own and not os.path.isabs(path) and "site-packages" not in path and path[0] != "<":
            return f" ({path}, line {frame.lineno})"
    return ""
