"""Where logged numbers and pictures go: TensorBoard's event file, and metrics.csv beside it."""

import csv
import io
import math
import os
import re
from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard.summary import hparams

from simplecnn.atomic import atomic_write

Rows = dict[int, dict[str, float]]  # by step


class TensorBoard(TensorBoardLogger):
    """TensorBoard events straight in the folder `save_dir`, without sub-folders."""

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version="", default_hp_metric=False, flush_secs=30)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Make this run a row of the HPARAMS tab; `metrics` are those that were logged before.

        TensorBoard takes the description of all runs from the first one that has one, and hides
        what differs: so no run has one, and it looks at all of them. True and false are words:
        torch writes them as numbers, and then the table says 1.0000.
        """
        said = {k: str(v).lower() if isinstance(v, bool) else v for k, v in params.items()}
        _, start, end = hparams(said, dict.fromkeys(metrics or {}, 0.0))
        writer = self.experiment._get_file_writer()
        writer.add_summary(start)
        writer.add_summary(end)

    @rank_zero_only
    def save(self) -> None:
        """Nothing: Lightning calls this at every log, and the writer flushes by itself."""

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush only: fit and test both end with this call, and one file should hold both."""
        if self._experiment is not None:
            self.experiment.flush()

    def state(self) -> dict[str, int]:
        """How many bytes of each event file in the folder are on disk by now."""
        if self._experiment is not None:
            self.experiment.flush()
        return {path.name: _flushed_size(path) for path in event_files(Path(self.save_dir))}

    @rank_zero_only
    def add_png(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Add a picture as it is, without decoding and encoding it again."""
        image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        summary = Summary(value=[Summary.Value(tag=tag, image=image)])
        self.experiment._get_file_writer().add_summary(summary, step)


class MetricsCSV(Logger):
    """`metrics.csv` in `save_dir`: a row a step at which something was logged, a column a metric.

    What is logged at one step stands in one row. The file is written whole, under a temporary
    name, and so is never seen half-written; rows that it holds already (DDP trains and tests in
    different processes) are kept.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.rows: Rows = {}

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = self.rows.setdefault(step if step is not None else len(self.rows), {})
        # As the file has them, so that a run that goes on from the file has the same rows.
        row.update({key: float(_text(float(value))) for key, value in metrics.items()})

    @rank_zero_only
    def save(self) -> None:
        if self.rows:
            write_metrics(self.path, self.state())

    def state(self) -> Rows:
        """All rows by step, those that the file holds already included."""
        rows = {step: dict(row) for step, row in self._written().items()}
        for step, row in self.rows.items():
            rows.setdefault(step, {}).update(row)
        return rows

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.save()

    def _written(self) -> Rows:
        if not self.path.is_file():
            return {}
        with self.path.open(newline="", encoding="utf-8") as file:
            return {
                int(row.pop("step")): {k: float(v) for k, v in row.items() if v}
                for row in csv.DictReader(file)
            }


def write_metrics(path: Path, rows: Rows) -> None:
    """Write `metrics.csv` whole: a row a step, a column a metric."""
    metrics = sorted({key for row in rows.values() for key in row} - {"epoch"})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["step", "epoch", *metrics], lineterminator="\n")
    writer.writeheader()
    for step, row in sorted(rows.items()):
        writer.writerow({"step": step} | {k: _text(v) for k, v in row.items()})
    atomic_write(path, text.getvalue().encode())


def history(loggers: Sequence[Any]) -> dict[str, Any]:
    """What has been logged until now, for a checkpoint to remember: rows, and sizes of files."""
    state: dict[str, Any] = {}
    for logger in loggers:
        if isinstance(logger, MetricsCSV):
            state["rows"] = logger.state()
            logger.save()
        elif isinstance(logger, TensorBoard):
            state["events"] = logger.state()
    return state


def restore_history(state: Mapping[str, Any], step: int, *, source: Path, folder: Path) -> None:
    """Bring the logs and pictures in `folder` to where a checkpoint, at `step`, was written.

    What was logged afterwards is removed: it will be logged again. If the checkpoint is that of
    another run, `source`, its past becomes that of the run in `folder`. The arrays by step that
    callbacks keep are cut by them.
    """
    if state.get("rows"):
        write_metrics(folder / "metrics.csv", state["rows"])
    elif source == folder:
        (folder / "metrics.csv").unlink(missing_ok=True)
    sizes = state.get("events", {})
    for path in event_files(source):
        if path.name in sizes and source == folder:
            os.truncate(path, min(sizes[path.name], path.stat().st_size))
        elif path.name in sizes:
            atomic_write(folder / path.name, path.read_bytes()[: sizes[path.name]])
        elif source == folder:
            path.unlink()
    for path in sorted((source / "images").glob("[!.]*")):
        drawn = re.search(r"step=(\d+)", path.name)
        if source == folder:
            if drawn and int(drawn[1]) > step:
                path.unlink()
        elif int(drawn[1]) <= step if drawn else path.suffix == ".npz":
            (folder / "images").mkdir(exist_ok=True)
            atomic_write(folder / "images" / path.name, path.read_bytes())


def event_files(folder: Path) -> list[Path]:
    """TensorBoard's files of a run."""
    return sorted(folder.glob("events.out.tfevents.*"))


def _flushed_size(path: Path) -> int:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return file.seek(0, os.SEEK_END)


def _text(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.7g}"
