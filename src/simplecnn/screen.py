"""What a person sees of the log: our messages, the warnings of others, tracebacks on request."""

import copy
import logging
import os


class ScreenHandler(logging.StreamHandler):
    """Shows our messages from INFO and those of libraries from WARNING; the log file has all.

    Tracebacks stay in the log file unless HYDRA_FULL_ERROR=1.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return record.name.startswith("simplecnn") or record.levelno >= logging.WARNING

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info and os.environ.get("HYDRA_FULL_ERROR") != "1":
            record = copy.copy(record)
            record.exc_info = record.exc_text = None
        return super().format(record)


def log_lightning_messages() -> None:
    """Send Lightning's messages, but not its adverts, to the root log: train.log has them."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_no_advert)
    logging.captureWarnings(True)


def _no_advert(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
