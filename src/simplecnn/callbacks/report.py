"""The report of a run, report.html, written after its record."""

import logging
from pathlib import Path

from pytorch_lightning import Callback, Trainer

from simplecnn.callbacks.image_callback import should_draw
from simplecnn.run_directory import RunDirectory

log = logging.getLogger(__name__)


class Report(Callback):
    """Write `report.html` to the run directory, also for interrupted and failed runs.

    No Lightning hook is called after the test, or knows how the run ended: `training.run` calls
    `write` once that is recorded.
    """

    def write(self, trainer: Trainer, directory: RunDirectory) -> Path | None:
        """Write the report if this process draws. Returns its path, or None if it is not written.

        A report that cannot be written does not fail the run: the error is logged as a warning.
        """
        if not should_draw(trainer):
            return None
        from simplecnn.page.report import write_report  # not needed before the run ends

        try:
            return write_report([directory], datamodule=getattr(trainer, "datamodule", None))
        except Exception as error:
            log.warning("report.html could not be written: %s", error, exc_info=error)
            return None
