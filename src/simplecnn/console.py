"""Logging to the screen and to the log file: what is shown of messages, warnings, tracebacks."""

import copy
import errno
import io
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any


class ScreenHandler(logging.StreamHandler):
    """Show simplecnn's messages from INFO and those of libraries from WARNING.

    Tracebacks go to the log file alone unless HYDRA_FULL_ERROR=1. With `brief`, of simplecnn's
    messages only those of `simplecnn.sweeps` are shown: one line per run.
    """

    brief = False

    def filter(self, record: logging.LogRecord) -> bool:
        if self.brief and record.name.startswith("simplecnn"):
            return record.name.startswith("simplecnn.sweeps")
        return record.name.startswith("simplecnn") or record.levelno >= logging.WARNING

    def emit(self, record: logging.LogRecord) -> None:
        # Not setStream, which flushes the previous stream: it may be closed.
        self.stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            discard_output()
        else:
            super().handleError(record)

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info and os.environ.get("HYDRA_FULL_ERROR") != "1":
            record = copy.copy(record)
            record.exc_info = record.exc_text = None
        return super().format(record)


class LogFile(logging.FileHandler):
    """A log file to which nothing is added while the disk is full: the screen shows the error.

    In UTF-8 whatever the locale; bytes of file names that are not UTF-8 are escaped.
    """

    def __init__(self, filename: str | os.PathLike[str], delay: bool = False) -> None:
        super().__init__(filename, encoding="utf-8", errors="backslashreplace", delay=delay)

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def prepare_output() -> None:
    """Prepare for an output that is closed, as by `>&-`, or that cannot encode a character.

    Also hide the traceback of a thread that cannot write because the disk is full.
    """
    threading.excepthook = partial(_report_unless_full, threading.excepthook)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):  # UTF-8 cannot encode every file name
            stream.reconfigure(errors="replace")


def _report_unless_full(report: Callable[[Any], object], error: threading.ExceptHookArgs) -> None:
    """Report an error of a thread, unless the disk is full: TensorBoard reports that twice."""
    if getattr(error.exc_value, "errno", None) not in (errno.ENOSPC, errno.EDQUOT):
        report(error)


def discard_output() -> None:
    """Discard further output to the screen: its reader, such as `head`, has closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# Warnings of Lightning 2.6 and torch 2.15 that a user cannot act on.
IGNORED_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*is smaller than the logging interval.*",  # metrics are logged once per epoch
    r".*Checkpoint directory .* exists and is not empty.*",  # a resumed run
    r".*You defined a `validation_step` but have no `val_dataloader`.*",
    r"You're using the WeightAveraging callback, but loading .*",  # a test uses only the averages
    r"Grad strides do not match bucket view strides",  # one channel: both layouts are equal
    # With an OnExceptionCheckpoint, each fit looks for the checkpoint of an earlier one.
    r"`.fit\(ckpt_path=None\)` was called without a model.*",
    r".fit\(ckpt_path=\"last\"\) is set, but there is no last checkpoint.*",
    r".*The `srun` command is available.*but is not used.*",  # one process needs no srun
)


def configure_lightning_logging() -> None:
    """Route Lightning's messages to the root logger, and so to train.log; filter its noise."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_not_advertisement)
    logging.captureWarnings(True)
    for message in IGNORED_WARNINGS:
        warnings.filterwarnings("ignore", message)


def log_in_spawned_process(folder: str) -> None:
    """Log to the screen and to train.log in a process that DDP spawned without Hydra's logging.

    Does nothing if the root logger has handlers.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    add_log_handlers(folder)
    root.setLevel(logging.INFO)
    configure_lightning_logging()


def add_log_handlers(folder: str | Path) -> list[logging.Handler]:
    """Log to train.log, and to the screen unless the root logger already has handlers."""
    root = logging.getLogger()
    file = LogFile(Path(folder) / "train.log", delay=True)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    handlers: list[logging.Handler] = [file] if root.handlers else [file, ScreenHandler()]
    for handler in handlers:
        root.addHandler(handler)
    return handlers


def _is_not_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()


def show_only_sweep_messages() -> None:
    """Show only messages about the sweep as a whole; the log files keep those of each run."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ScreenHandler):
            handler.brief = True
