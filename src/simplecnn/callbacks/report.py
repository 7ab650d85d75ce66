"""The page of a run, report.html: written when its record says how the run ended."""

import logging
from pathlib import Path

from pytorch_lightning import Callback, Trainer

from simplecnn.callbacks.image_callback import draws
from simplecnn.run_directory import RunDirectory

log = logging.getLogger(__name__)


class Report(Callback):
    """Leaves `report.html` in the run directory, also of an interrupted or failed run.

    None of Lightning's hooks comes after the test, or knows how the run ended: the run itself
    calls `write`, once that is recorded.
    """

    def write(self, trainer: Trainer, directory: RunDirectory) -> Path | None:
        """Write the page. A page that cannot be written is a warning, and no failure of the run."""
        if not draws(trainer):
            return None
        from simplecnn.page.report import write_report  # not needed before the run ends

        try:
            return write_report([directory], datamodule=getattr(trainer, "datamodule", None))
        except Exception as error:
            log.warning("report.html could not be written: %s", error, exc_info=error)
            return None
