"""What the picture callbacks share: when they draw, of which layers, and where a picture goes."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import nn

from simplecnn.atomic import atomic_write
from simplecnn.callbacks.between_epochs import BetweenEpochs
from simplecnn.callbacks.history import write_npz
from simplecnn.errors import InputError
from simplecnn.figures.raster import encode_png
from simplecnn.figures.style import drawing
from simplecnn.models.activations import convolutions


class Picture(NamedTuple):
    figure: Figure
    arrays: Mapping[str, NDArray]  # what it shows; empty where the callback writes them itself


class ImageCallback(BetweenEpochs):
    """Draws at the start, after every n-th epoch and at the end, on rank zero.

    A picture goes to `<dirpath>/<name>_epoch=…_step=….png` and to TensorBoard, its arrays to an
    `.npz` beside it; a `cumulative` one, of the training so far, keeps one name. Subclasses give
    `draw`. `seconds` adds up what drawing and writing took.
    """

    cumulative = False

    def __init__(self, dirpath: str, every_n_epochs: int = 10) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs is {every_n_epochs}: it must be at least 1.")
        self.dirpath = Path(dirpath)
        self.every_n_epochs = every_n_epochs
        self.seconds = 0.0

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        """The pictures of this moment by name; `when` belongs in their titles."""
        raise NotImplementedError

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.global_step == 0:  # a resumed run has drawn its start
            self.save_pictures(trainer, pl_module)

    def epoch_done(self, trainer: Trainer, module: LightningModule, *, is_last: bool) -> None:
        if is_last or trainer.current_epoch % self.every_n_epochs == 0:
            self.save_pictures(trainer, module)

    def save_pictures(self, trainer: Trainer, module: LightningModule) -> None:
        if not draws(trainer):
            return
        start = time.perf_counter()
        epoch, step = trainer.current_epoch, trainer.global_step
        with drawing(ink=getattr(trainer.datamodule, "ink", True)):
            for name, picture in self.draw(trainer, module, f"epoch {epoch}, step {step}").items():
                png, width, height = encode_png(picture.figure)
                stem = name if self.cumulative else f"{name}_epoch={epoch:03d}_step={step:06d}"
                self.dirpath.mkdir(parents=True, exist_ok=True)
                atomic_write(self.dirpath / f"{stem}.png", png)
                if picture.arrays:
                    write_npz(self.dirpath / f"{stem}.npz", picture.arrays)
                for logger in trainer.loggers:
                    if hasattr(logger, "add_png"):
                        # The step of the epoch's metrics, which Lightning counts from 0.
                        tag = name.replace("_", "/", 1)
                        logger.add_png(tag, png, width, height, max(0, step - 1))
        self.seconds += time.perf_counter() - start


class LayerCallback(ImageCallback):
    """Draws convolutions. `layers`: `first`, `all`, or a list of names."""

    def __init__(
        self, dirpath: str, layers: str | list[str] = "first", every_n_epochs: int = 10
    ) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.layers = layers

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.chosen(pl_module)  # a name that does not exist is told before the first step

    def chosen(self, module: LightningModule) -> dict[str, nn.Conv2d]:
        """The convolutions that are asked for, by name. Raises InputError."""
        layers = convolutions(network_of(module))
        if self.layers in ("all", "first"):
            return dict(list(layers.items())[: 1 if self.layers == "first" else None])
        names = [self.layers] if isinstance(self.layers, str) else list(self.layers)
        for name in names:
            if name not in layers:
                raise InputError(
                    f"layers: {name!r} is not a convolution of this network. "
                    f"Allowed: first, all, or a list of {', '.join(layers)}."
                )
        return {name: layers[name] for name in names}


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
