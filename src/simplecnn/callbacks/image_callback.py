"""What the picture callbacks share: when they draw, and where a picture goes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from simplecnn.atomic import atomic_write
from simplecnn.callbacks.history import write_npz
from simplecnn.errors import InputError
from simplecnn.figures.raster import encode_png
from simplecnn.figures.style import drawing

SPLITS = {"val": "validation", "test": "test"}


class Picture(NamedTuple):
    figure: Figure
    arrays: Mapping[str, NDArray]  # what it shows


class ImageCallback(Callback):
    """Draws at the start, after every n-th epoch and at the end, on rank zero.

    A picture goes to `<dirpath>/<name>_epoch=…_step=….png` and to TensorBoard, its arrays to an
    `.npz` beside it. A picture of the whole training so far (`cumulative`) keeps one name, and its
    callback writes its arrays itself. Subclasses give `draw`. `seconds` adds up what all of it
    cost: subclasses that do more, do it inside `timed`.
    """

    cumulative = False

    def __init__(self, dirpath: str, every_n_epochs: int) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs is {every_n_epochs}: it must be at least 1.")
        self.dirpath = Path(dirpath)
        self.every_n_epochs = every_n_epochs
        self.seconds = 0.0
        self._drawn_at_step = -1

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        """The pictures of this moment by name; `when` belongs in their titles."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        return {"drawn_at_step": self._drawn_at_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._drawn_at_step = state_dict["drawn_at_step"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:  # a resumed run has drawn its start
            self.save_pictures(trainer, pl_module, epoch=0)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            self.save_pictures(trainer, pl_module, epoch=trainer.current_epoch + 1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.save_pictures(trainer, pl_module, epoch=trainer.current_epoch)

    @contextmanager
    def timed(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start

    def save_pictures(self, trainer: Trainer, module: LightningModule, epoch: int) -> None:
        """Draw and write the pictures of this step, once, after `epoch` epochs."""
        step = trainer.global_step
        if not draws(trainer) or step == self._drawn_at_step:
            return
        self._drawn_at_step = step
        ink = getattr(trainer.datamodule, "ink", True)
        with self.timed(), drawing(ink=ink):
            pictures = self.draw(trainer, module, f"epoch {epoch}, step {step}")
            self.dirpath.mkdir(parents=True, exist_ok=True)
            for name, (figure, arrays) in pictures.items():
                png, width, height = encode_png(figure)
                stem = name if self.cumulative else f"{name}_epoch={epoch:03d}_step={step:06d}"
                atomic_write(self.dirpath / f"{stem}.png", png)
                if not self.cumulative:
                    write_npz(self.dirpath / f"{stem}.npz", arrays)
                for logger in trainer.loggers:
                    if hasattr(logger, "add_png"):
                        # The step of the epoch's metrics, which Lightning counts from 0.
                        tag = name.replace("_", "/", 1)
                        logger.add_png(tag, png, width, height, max(0, step - 1))


def draws(trainer: Trainer) -> bool:
    """Whether this process draws at all."""
    return bool(trainer.is_global_zero and not trainer.fast_dev_run)


def network_of(module: LightningModule) -> nn.Module:
    """The network that pictures show: the module's `network`, or the whole of it."""
    network = getattr(module, "network", module)
    return network if isinstance(network, nn.Module) else module


def steps_per_epoch(trainer: Trainer) -> int:
    """Optimizer steps of an epoch."""
    return max(1, -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches))


def log_spaced(num_steps: int, number: int) -> list[int]:
    """Up to `number` steps from 1 to below `num_steps`, evenly spaced on a logarithmic scale."""
    if number < 1:
        return []
    steps = np.geomspace(1, max(num_steps, 1), number + 1)[:-1].round().astype(int)
    return sorted(set(steps.tolist()) - {num_steps})


def select_layers(names: list[str], wanted: str | list[str]) -> list[str]:
    """The convolutions asked for: `first`, `all`, or a list of names. Raises InputError."""
    if wanted == "all":
        return names
    if wanted == "first":
        return names[:1]
    chosen = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in chosen:
        if name not in names:
            raise InputError(
                f"layers: {name!r} is not a convolution of this network. "
                f"Allowed: first, all, or a list of {', '.join(names)}."
            )
    return chosen


# For the callbacks that watch the validation.


def in_training(trainer: Trainer) -> bool:
    """Whether this validation pass belongs to the training and is no trial run."""
    return bool(
        trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run
    )


def is_watched(trainer: Trainer, outputs: Any, dataloader_idx: int) -> bool:
    """Whether these are logits (N, classes) of the first validation loader, in training."""
    is_logits = isinstance(outputs, Tensor) and outputs.ndim == 2
    return is_logits and dataloader_idx == 0 and in_training(trainer)


def watched_split(trainer: Trainer) -> str:
    """Which split the first validation loader gives: "val" or "test"."""
    return next(iter(getattr(trainer.datamodule, "validation_stages", ())), "val")


def when_validated(trainer: Trainer, step: int, when: str) -> str:
    """`when`, the words for now, where the pass at `step` was now; else the step of that pass."""
    return when if step == trainer.global_step else f"as it was at step {step}"
