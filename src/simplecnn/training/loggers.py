"""Where logged numbers and pictures go: TensorBoard's event files, and metrics.csv beside them."""

import csv
import io
import math
import re
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from simplecnn.atomic import atomic_write

Rows = dict[int, dict[str, float]]  # by step
STAGES = ("train", "val", "test")


class TensorBoard(TensorBoardLogger):
    """TensorBoard events in `save_dir`: pictures and hyperparameters, and a directory a stage.

    `train/loss` is the scalar `loss` in `save_dir/train`, `val/loss` the scalar `loss` in
    `save_dir/val`: TensorBoard draws both into one chart.
    purge_step: what another process logged from this step on is hidden: the run was resumed there.
    """

    def __init__(self, save_dir: str, purge_step: int | None = None) -> None:
        self._options: dict[str, Any] = {"flush_secs": 30, "purge_step": purge_step}
        self._writers: dict[str, SummaryWriter] = {}
        super().__init__(save_dir, name="", version="", default_hp_metric=False, **self._options)

    def __getstate__(self) -> dict[str, Any]:
        """For a process that DDP spawns: it opens files of its own."""
        return {**super().__getstate__(), "_writers": {}}

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for key, value in metrics.items():
            stage, _, name = key.partition("/")
            if stage in STAGES and name:
                if stage not in self._writers:
                    folder = Path(self.save_dir, stage)
                    self._writers[stage] = SummaryWriter(folder, **self._options)
                self._writers[stage].add_scalar(name, value, step)
            elif key != "epoch":  # a chart of no use
                self.experiment.add_scalar(key, value, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Make this run a row of the HPARAMS tab; its metrics are what was logged.

        TensorBoard takes the description of all runs from the first one that has one, and hides
        what differs: so no run has one, and it looks at all of them. True and false are words:
        torch writes them as numbers, and then the table says 1.0000. So is what is no plain value,
        of a module that calls `save_hyperparameters`.
        """
        given = vars(params) if isinstance(params, Namespace) else params
        words = {k: v if type(v) in (int, float, str) else str(v) for k, v in given.items()}
        words |= {k: str(v).lower() for k, v in given.items() if isinstance(v, bool)}
        _, start, end = hparams(words, {})
        writer = self.experiment.file_writer
        writer.add_summary(start)
        writer.add_summary(end)

    @rank_zero_only
    def save(self) -> None:
        """Nothing: Lightning calls this at every log, and the writers flush by themselves."""

    @rank_zero_only
    def flush(self) -> None:
        for writer in (self.experiment, *self._writers.values()):
            writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush only: fit and test both end with this call, and one file should hold both."""
        if self._experiment is not None:
            self.flush()

    @rank_zero_only
    def close(self) -> None:
        for writer in (self.experiment, *self._writers.values()):
            writer.close()

    @rank_zero_only
    def add_png(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Add a picture as it is, without decoding and encoding it again."""
        image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        summary = Summary(value=[Summary.Value(tag=f"pictures/{tag}", image=image)])
        self.experiment.file_writer.add_summary(summary, step)


class MetricsCSV(Logger):
    """`metrics.csv` in `save_dir`: a row a step at which something was logged, a column a metric.

    The file is written atomically; rows that it holds already (DDP trains and tests in different
    processes) are kept.
    """

    name = version = ""

    def __init__(self, save_dir: str) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.rows: Rows = {}
        self._written = 0.0

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any) -> None:
        """Nothing: config.yaml holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = self.rows.setdefault(step if step is not None else len(self.rows), {})
        row.update({key: float(value) for key, value in metrics.items()})

    @rank_zero_only
    def save(self) -> None:
        """Write, at most once a second: Lightning calls this at every log."""
        if time.monotonic() - self._written > 1:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Write what was logged by now."""
        self._written = time.monotonic()
        if not self.rows:
            return
        rows = read_metrics(self.path) if self.path.is_file() else {}
        for step, row in self.rows.items():
            rows.setdefault(step, {}).update(row)
        write_metrics(self.path, rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.flush()


def read_metrics(path: Path) -> Rows:
    """The rows of a `metrics.csv` by step."""
    with path.open(newline="", encoding="utf-8") as file:
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


def rewind(directory: Path, step: int) -> None:
    """Remove what was logged and drawn in `directory` after `step`: it will be again.

    TensorBoard hides events from `purge_step` on, and the callbacks cut the arrays that they keep.
    """
    path = directory / "metrics.csv"
    if path.is_file():
        # Steps are counted from 0 in the log: that of the next step is `step`.
        write_metrics(path, {s: row for s, row in read_metrics(path).items() if s < step})
    for picture in (directory / "images").glob("*_step=*"):
        drawn = re.search(r"step=(\d+)", picture.name)
        if drawn and int(drawn[1]) > step:
            picture.unlink()


def _text(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.7g}"
