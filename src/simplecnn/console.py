"""What a person sees of the log: our messages, the warnings of others, tracebacks on request."""

import copy
import logging
import os
import sys
import warnings
from pathlib import Path


class ScreenHandler(logging.StreamHandler):
    """Shows our messages from INFO and those of libraries from WARNING; the log file has all.

    Tracebacks stay in the log file unless HYDRA_FULL_ERROR=1. With `brief`, of many runs only a
    line each is seen, and what libraries warn of.
    """

    brief = False

    def filter(self, record: logging.LogRecord) -> bool:
        if self.brief and record.name.startswith("simplecnn"):
            return record.name.startswith("simplecnn.sweeps")
        return record.name.startswith("simplecnn") or record.levelno >= logging.WARNING

    def emit(self, record: logging.LogRecord) -> None:
        # Not by setStream, which flushes the one before: that may be closed.
        self.stream = sys.stderr if record.levelno >= logging.WARNING else sys.stdout
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info and os.environ.get("HYDRA_FULL_ERROR") != "1":
            record = copy.copy(record)
            record.exc_info = record.exc_text = None
        return super().format(record)


# Matters of Lightning 2.6 and torch 2.15 that a user can do nothing about.
THEIR_WARNINGS = (
    r".*isinstance\(treespec, LeafSpec\)` is deprecated.*",
    r".*is smaller than the logging interval.*",  # metrics are logged at the end of an epoch
    r".*Checkpoint directory .* exists and is not empty.*",  # a run that is resumed
    r".*You defined a `validation_step` but have no `val_dataloader`.*",
    r"You're using the WeightAveraging callback, but loading .*",  # to test, the averages are all
    r"Grad strides do not match bucket view strides",  # of one channel: both are the same order
    r".*The `srun` command is available.*but is not used.*",  # one process needs no srun
)


def configure_lightning_logging() -> None:
    """Send Lightning's messages to the root log, so that train.log has them; drop its noise."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_no_advert)
    logging.captureWarnings(True)
    for message in THEIR_WARNINGS:
        warnings.filterwarnings("ignore", message)


def log_in_spawned_process(folder: str) -> None:
    """Log in a process that DDP spawned, which knows nothing of Hydra's logging: to the screen
    and to `train.log`. Does nothing where there is a log."""
    root = logging.getLogger()
    if root.handlers:
        return
    screen = ScreenHandler()
    file = logging.FileHandler(Path(folder) / "train.log")
    screen.setFormatter(logging.Formatter("%(message)s"))
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    root.addHandler(screen)
    root.addHandler(file)
    root.setLevel(logging.INFO)
    configure_lightning_logging()


def _no_advert(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()


def only_sweep_lines() -> None:
    """Of our messages, show only those on the sweep as a whole; the log files have all."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, ScreenHandler):
            handler.brief = True
