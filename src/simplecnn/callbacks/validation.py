"""What callbacks see of a validation pass that is going on anyway."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.history import History
from simplecnn.callbacks.images import ImageCallback, looks

NAMES = {"val": "validation", "test": "test"}


class ValidationImageCallback(ImageCallback):
    """Draws what the validation passes of the training have shown.

    Subclasses give `record`, the name of the file that holds `all` of them, and `see`.
    """

    record = "{split}.npz"

    def __init__(self, dirpath: str, every_n_epochs: int) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.all: History | None = None  # on rank zero alone

    def see(self, logits: Tensor, images: Tensor, labels: Tensor) -> None:
        """Keep what is needed of a batch."""
        raise TypeError(f"{type(self).__name__} has to define see")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if looks(trainer):
            self.all = History(self.dirpath / self.record.format(split=stage(trainer)))
            self.all.resume(trainer.global_step)
        super().on_train_start(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: tuple[Tensor, Tensor],
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx == 0 and in_training(trainer):
            with self.timed():
                self.see(outputs, *batch)


def in_training(trainer: Trainer) -> bool:
    """Whether this validation pass belongs to the training and is no trial run."""
    return bool(
        trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run
    )


def stage(trainer: Trainer) -> str:
    """Which split the first validation loader gives, the only one that is looked at."""
    return next(iter(getattr(trainer.datamodule, "validation_stages", ())), "val")


def as_of(trainer: Trainer, step: int, when: str) -> str:
    """`when`, the words for now, where a pass at `step` was now; else the step of that pass."""
    return when if step == trainer.global_step else f"as it was at step {step}"


def class_names(trainer: Trainer, num_classes: int) -> list[str]:
    names = getattr(trainer.datamodule, "class_names", ())
    return list(names) if len(names) == num_classes else [str(i) for i in range(num_classes)]


def gathered(trainer: Trainer, mine: Any) -> list[Any]:
    """What every process of the run hands in, in their order; all must call this."""
    if trainer.world_size == 1:
        return [mine]
    everybodys: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(everybodys, mine)
    return everybodys


def joined(parts: list[dict[str, NDArray]]) -> dict[str, NDArray]:
    """The arrays of several processes, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
