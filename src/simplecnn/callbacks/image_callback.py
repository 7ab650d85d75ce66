"""Base classes of callbacks that draw: when to draw, where figures and their arrays go."""

import math
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from simplecnn.atomic import atomic_write
from simplecnn.callbacks.between_epochs import BetweenEpochs
from simplecnn.figures.arrays import read_npz, write_npz
from simplecnn.figures.raster import encode_png
from simplecnn.figures.style import drawing
from simplecnn.models.activations import network_of, select_convolutions

UNKNOWN_STEPS = 1_000  # per epoch


# Name, figure, and the drawn arrays, which are empty if the callback saves them itself.
Figures = Iterator[tuple[str, Figure, dict[str, NDArray]]]


class ImageCallback(BetweenEpochs):
    """Draw figures before training, every n epochs and at the end, on rank zero.

    A figure is saved as `<dirpath>/<name>_epoch=…_step=….png`, with its arrays in an `.npz` beside
    it, and sent to TensorBoard. A `cumulative` figure, which covers the whole training so far,
    overwrites `<name>.png`. Subclasses implement `draw`. `seconds` is the total time spent drawing
    and writing.
    """

    cumulative = False

    def __init__(self, dirpath: str, every_n_epochs: int = 10) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs is {every_n_epochs}: it must be at least 1.")
        self.dirpath = Path(dirpath)
        self.every_n_epochs = every_n_epochs
        self.seconds = 0.0

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> Figures:
        """Yield the current figures; `when` (epoch and step) is for titles.

        Each is saved before the next one is drawn: those of a deep network fill gigabytes.
        """
        raise NotImplementedError

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:  # False when a run is resumed
            self.save_pictures(trainer, pl_module)

    def epoch_done(self, trainer: Trainer, module: LightningModule, *, is_last: bool) -> None:
        if is_last or trainer.current_epoch % self.every_n_epochs == 0:
            self.save_pictures(trainer, module)

    def save_pictures(self, trainer: Trainer, module: LightningModule) -> None:
        if not should_draw(trainer):
            return
        start = time.perf_counter()
        epoch, step = trainer.current_epoch, trainer.global_step
        with drawing(ink=getattr(trainer.datamodule, "ink", True)):
            for name, figure, arrays in self.draw(trainer, module, f"epoch {epoch}, step {step}"):
                png, width, height = encode_png(figure)
                stem = name if self.cumulative else f"{name}_epoch={epoch:03d}_step={step:06d}"
                self.dirpath.mkdir(parents=True, exist_ok=True)
                atomic_write(self.dirpath / f"{stem}.png", png)
                if arrays:
                    write_npz(self.dirpath / f"{stem}.npz", arrays)
                for logger in trainer.loggers:
                    if hasattr(logger, "add_png"):
                        # Lightning logs the epoch's metrics at this step, counted from 0; the
                        # global step counts the steps of all optimizers.
                        logged_step = step // max(1, len(trainer.optimizers)) - 1
                        tag = re.sub("^(filter_history|[^_]+)_", r"\1/", name)
                        logger.add_png(tag, png, width, height, max(0, logged_step))
        self.seconds += time.perf_counter() - start


class LayerCallback(ImageCallback):
    """Draw convolutions. `layers`: `first`, `last`, `all`, or a list of names."""

    def __init__(
        self, dirpath: str, layers: str | list[str] = "first", every_n_epochs: int = 10
    ) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.layers = layers

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.selected(pl_module)  # report an unknown name before the first step

    def selected(self, module: LightningModule) -> dict[str, nn.Conv2d]:
        """The selected convolutions by name. Raises InputError if a name does not exist."""
        return select_convolutions(network_of(module), self.layers)


def should_draw(trainer: Trainer) -> bool:
    """Whether this process draws: on rank zero, except in a `fast_dev_run`."""
    return bool(trainer.is_global_zero and not trainer.fast_dev_run)


def steps_per_epoch(trainer: Trainer) -> int:
    """The number of steps per epoch, of all optimizers together, as the global step counts them.

    For data without a length, that of the finished epochs; a guess in the first one.
    """
    if math.isinf(trainer.num_training_batches):
        num_epochs = trainer.current_epoch
        return max(1, trainer.global_step // num_epochs) if num_epochs else UNKNOWN_STEPS
    steps = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
    return max(1, steps) * max(1, len(trainer.optimizers))


def log_spaced(num_steps: int, num_points: int) -> list[int]:
    """Up to `num_points` steps from 1 to below `num_steps`, evenly spaced on a log scale."""
    if num_points < 1:
        return []
    steps = np.geomspace(1, max(num_steps, 1), num_points + 1)[:-1].round().astype(int)
    return sorted(set(steps.tolist()) - {num_steps})


class ValidationCallback(ImageCallback):
    """Receive the logits (N, num_classes) that `validation_step` returns for the first loader.

    Other batches than (images, labels) are ignored. Subclasses accumulate the batches of a pass in
    `add`, which must not synchronize with the device, and evaluate them in `finish`. `validated_at`
    is the global step of the last pass.
    """

    validated_at = -1

    def add(self, logits: Tensor, images: Tensor, labels: Tensor) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx != 0 or not in_training(trainer):
            return
        match outputs, batch:
            case Tensor(ndim=2) as logits, (Tensor(ndim=4) as images, Tensor(ndim=1) as labels):
                if not labels.is_floating_point():
                    self.validated_at = trainer.global_step
                    self.add(logits, images, labels)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if in_training(trainer) and self.validated_at == trainer.global_step:
            self.finish()

    def when_validated(self, trainer: Trainer, when: str) -> str:
        """`when` if the last validation pass was at this step, else the step of that pass."""
        is_current = self.validated_at == trainer.global_step
        return when if is_current else f"as of step {self.validated_at}"


def in_training(trainer: Trainer) -> bool:
    """Whether `fit` is running, and this is neither a sanity check nor a `fast_dev_run`."""
    return bool(
        trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run
    )


def validation_split(trainer: Trainer) -> str:
    """The split that the first validation loader iterates over: "val" or "test"."""
    return next(iter(getattr(trainer.datamodule, "validation_stages", ())), "val")


def split_name(trainer: Trainer) -> str:
    """The name of that split for titles."""
    return {"val": "validation", "test": "test"}[validation_split(trainer)]


class History:
    """Named arrays recorded at individual steps, and saved in the `.npz` file `path`.

    An existing file is loaded up to `step`, at which the run is resumed. `arrays` stacks the rows:
    `step` (n,), and every name (n, ...), with NaN in rows that lack it.
    """

    def __init__(self, path: Path, step: int = 0) -> None:
        self.path = path
        self.rows: dict[int, dict[str, NDArray]] = {}
        if arrays := read_npz(path):
            for i, row_step in enumerate(arrays.pop("step").tolist()):
                if row_step <= step:
                    self.add(row_step, **{name: values[i] for name, values in arrays.items()})

    def add(self, step: int, **values: ArrayLike) -> None:
        self.rows.setdefault(step, {}).update({k: np.asarray(v) for k, v in values.items()})

    def arrays(self) -> dict[str, NDArray]:
        steps = sorted(self.rows)
        names = list(dict.fromkeys(name for step in steps for name in self.rows[step]))
        stacked = {"step": np.array(steps, np.int64)}
        for name in names:
            first = next(self.rows[step][name] for step in steps if name in self.rows[step])
            missing = np.full(first.shape, np.nan)
            stacked[name] = np.stack([self.rows[step].get(name, missing) for step in steps])
        return stacked

    def save(self) -> None:
        if self.rows:
            write_npz(self.path, self.arrays())
