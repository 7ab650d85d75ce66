"""Pictures of what is taken for what on the validation images."""

import numpy as np
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional

from simplecnn.callbacks.images import Picture
from simplecnn.callbacks.validation import (
    NAMES,
    ValidationImageCallback,
    as_of,
    class_names,
    gathered,
    stage,
)
from simplecnn.figures.confusion import confusion_figure


class Confusion(ValidationImageCallback):
    """Counts of true and predicted classes after an epoch, with the recall of each class.

    They come from the validation pass itself. `confusion_<split>.npz` holds the counts of all
    epochs: `counts` (n, classes, classes), a row a true class.
    """

    history = True
    record = "confusion_{split}.npz"

    def __init__(self, dirpath: str, every_n_epochs: int = 10) -> None:
        super().__init__(dirpath, every_n_epochs)
        self._counts: Tensor | None = None

    def see(self, logits: Tensor, images: Tensor, labels: Tensor) -> None:
        number = logits.shape[1]
        true, taken = (
            functional.one_hot(classes, number).double() for classes in (labels, logits.argmax(1))
        )
        counts = true.T @ taken  # no wait for the device, unlike bincount
        self._counts = counts if self._counts is None else self._counts + counts

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._counts is None:
            return
        with self.timed():
            mine, self._counts = self._counts.cpu().numpy(), None
            counts = np.sum(gathered(trainer, mine), axis=0).astype(np.int64)
            if self.all is not None:
                self.all.add(trainer.global_step, counts=counts)
                self.all.save()

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        if self.all is None or not self.all.rows:
            return {}
        arrays = self.all.arrays()
        counts, name = arrays["counts"][-1], stage(trainer)
        figure = confusion_figure(
            counts,
            class_names=class_names(trainer, len(counts)),
            title=f"Confusion on the {NAMES[name]} images, "
            f"{as_of(trainer, int(arrays['step'][-1]), when)}",
        )
        return {f"confusion_{name}": Picture(figure, arrays)}
