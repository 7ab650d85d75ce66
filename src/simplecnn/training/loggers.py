"""Loggers for metrics and pictures: TensorBoard's event files, and `metrics.csv` beside them."""

import csv
import io
import math
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
from simplecnn.run_directory import name_and_step

Rows = dict[int, dict[str, float]]  # by step
STAGES = ("train", "val", "test")


class TensorBoard(TensorBoardLogger):
    """Log pictures and hyperparameters to `save_dir`, and scalars to one directory per stage.

    `train/loss` is the scalar `loss` in `save_dir/train`, `val/loss` the scalar `loss` in
    `save_dir/val`, so that TensorBoard draws both in one chart.
    purge_step: the step at which the run is resumed, from which TensorBoard hides earlier events.
    """

    def __init__(self, save_dir: str, purge_step: int | None = None) -> None:
        self._options: dict[str, Any] = {"flush_secs": 30, "purge_step": purge_step}
        self._writers: dict[str, SummaryWriter] = {}
        super().__init__(save_dir, name="", version="", default_hp_metric=False, **self._options)

    def __getstate__(self) -> dict[str, Any]:
        """Drop the open writers when pickled: a process that DDP spawns opens its own."""
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
            elif key != "epoch":  # not worth a chart
                self.experiment.add_scalar(key, value, step)

    @rank_zero_only
    def log_hyperparams(self, params: Any, metrics: Any = None, step: int | None = None) -> None:
        """Add this run to the HPARAMS tab, whose metrics are the logged scalars.

        Writes no experiment summary: TensorBoard would apply the first one it finds to all runs and
        hide hyperparameters that are not in it. Without one it collects those of all runs.
        Booleans are written as text, because torch stores them as numbers (1.0000); so are values
        of other types, which a module may have passed to `save_hyperparameters`.
        """
        values = vars(params) if isinstance(params, Namespace) else params
        plain = {k: v if type(v) in (int, float, str) else str(v) for k, v in values.items()}
        plain |= {k: str(v).lower() for k, v in values.items() if isinstance(v, bool)}
        _, start, end = hparams(plain, {})
        writer = self.experiment.file_writer
        writer.add_summary(start)
        writer.add_summary(end)

    @rank_zero_only
    def save(self) -> None:
        """Do nothing: Lightning calls this after every log call; the writers flush themselves."""

    @rank_zero_only
    def flush(self) -> None:
        for writer in (self.experiment, *self._writers.values()):
            writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Flush without closing: `fit` and `test` both end with this call, and share one file."""
        if self._experiment is not None:
            self.flush()

    @rank_zero_only
    def close(self) -> None:
        for writer in (self.experiment, *self._writers.values()):
            writer.close()

    @rank_zero_only
    def add_png(self, tag: str, png: bytes, width: int, height: int, step: int) -> None:
        """Add an encoded picture, which `SummaryWriter.add_image` would encode again."""
        image = Summary.Image(encoded_image_string=png, width=width, height=height, colorspace=3)
        summary = Summary(value=[Summary.Value(tag=f"pictures/{tag}", image=image)])
        self.experiment.file_writer.add_summary(summary, step)


class MetricsCSV(Logger):
    """Write `metrics.csv` in `save_dir`: one row per logged step, one column per metric.

    The file is replaced atomically. Rows already in it are kept: DDP may train and test in
    different processes.
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
        """Do nothing: they are in config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = self.rows.setdefault(step if step is not None else len(self.rows), {})
        row.update({key: float(value) for key, value in metrics.items()})

    @rank_zero_only
    def save(self) -> None:
        """Write at most once per second: Lightning calls this after every log call."""
        if time.monotonic() - self._written > 1:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Write everything logged so far."""
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
    """Read the rows of a `metrics.csv`, by step."""
    with path.open(newline="", encoding="utf-8") as file:
        return {
            int(row.pop("step")): {k: float(v) for k, v in row.items() if v}
            for row in csv.DictReader(file)
        }


def write_metrics(path: Path, rows: Rows) -> None:
    """Write a complete `metrics.csv`: one row per step, one column per metric."""
    metrics = sorted({key for row in rows.values() for key in row} - {"epoch"})
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["step", "epoch", *metrics], lineterminator="\n")
    writer.writeheader()
    for step, row in sorted(rows.items()):
        writer.writerow({"step": step} | {k: _text(v) for k, v in row.items()})
    atomic_write(path, text.getvalue().encode())


def next_logged_step(checkpoint: Mapping[str, Any]) -> int:
    """The step at which a run resumed from `checkpoint` logs its first metrics.

    With several optimizers, `global_step` counts the steps of all.
    """
    state: Mapping[str, Any] = checkpoint["loops"]["fit_loop"]["epoch_loop.state_dict"]
    return int(state.get("_batches_that_stepped", checkpoint["global_step"]))


def rewind(directory: Path, logged_step: int, global_step: int) -> None:
    """Remove the metrics from `logged_step` on and the pictures after `global_step`.

    TensorBoard's events are hidden by `purge_step`, and callbacks truncate their own arrays.
    """
    path = directory / "metrics.csv"
    if path.is_file():
        rows = read_metrics(path)
        write_metrics(path, {step: row for step, row in rows.items() if step < logged_step})
    for picture in (directory / "images").glob("*_step=*"):
        if name_and_step(picture)[1] > global_step:
            picture.unlink()


def _text(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:.7g}"
