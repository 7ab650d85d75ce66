"""Pictures of what is taken for what on the validation images."""

from typing import Any

import numpy as np
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from simplecnn.callbacks.history import History
from simplecnn.callbacks.image_callback import (
    SPLITS,
    ImageCallback,
    Picture,
    draws,
    gather,
    in_training,
    watched_split,
    when_validated,
)
from simplecnn.callbacks.probes import class_names
from simplecnn.figures.confusion import confusion_figure


class Confusion(ImageCallback):
    """Counts of true and predicted classes after an epoch, with the recall of each class.

    They come from the validation pass itself, where `validation_step` returns logits (N, classes).
    `confusion_<split>.npz` holds the counts of all epochs: `counts` (n, classes, classes), a row a
    true class.
    """

    history = True

    def __init__(self, dirpath: str, every_n_epochs: int = 10) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.all: History | None = None  # on rank zero alone
        self._counts: Tensor | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if draws(trainer):
            self.all = History(self.dirpath / f"confusion_{watched_split(trainer)}.npz")
            self.all.resume(trainer.global_step)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if dataloader_idx or not in_training(trainer) or not is_logits(outputs):
            return
        with self.timed():
            logits, labels = outputs, batch[1]
            counts = multiclass_confusion_matrix(logits, labels, num_classes=logits.shape[1])
            self._counts = counts if self._counts is None else self._counts + counts

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._counts is None:
            return
        with self.timed():
            own, self._counts = self._counts.cpu().numpy(), None
            counts = np.sum(gather(trainer, own), axis=0)
            if self.all is not None:
                self.all.add(trainer.global_step, counts=counts)
                self.all.save()

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        if self.all is None or not self.all.rows:
            return {}
        arrays = self.all.arrays()
        counts, split = arrays["counts"][-1], watched_split(trainer)
        figure = confusion_figure(
            counts,
            class_names=class_names(trainer, len(counts)),
            title=f"Confusion on the {SPLITS[split]} images, "
            f"{when_validated(trainer, int(arrays['step'][-1]), when)}",
        )
        return {f"confusion_{split}": Picture(figure, arrays)}


def is_logits(outputs: Any) -> bool:
    """Whether a validation step gave logits (N, classes)."""
    return isinstance(outputs, Tensor) and outputs.ndim == 2
