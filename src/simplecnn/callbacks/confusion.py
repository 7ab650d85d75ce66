"""Pictures of the confusion matrix on the validation images."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torchmetrics.classification import MulticlassConfusionMatrix

from simplecnn.callbacks.history import History
from simplecnn.callbacks.image_callback import (
    SPLITS,
    ImageCallback,
    Picture,
    draws,
    is_watched,
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

    cumulative = True

    def __init__(self, dirpath: str, every_n_epochs: int = 10) -> None:
        super().__init__(dirpath, every_n_epochs)
        self.history: History | None = None  # on rank zero only
        self._metric: MulticlassConfusionMatrix | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if draws(trainer):
            self.history = History(self.dirpath / f"confusion_{watched_split(trainer)}.npz")
            self.history.resume(trainer.global_step)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if not is_watched(trainer, outputs, dataloader_idx):
            return
        with self.timed():
            if self._metric is None:
                metric = MulticlassConfusionMatrix(outputs.shape[1], validate_args=False)
                self._metric = metric.to(outputs.device)
            self._metric.update(outputs, batch[1])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._metric is None:
            return
        with self.timed():
            counts = self._metric.compute().cpu().numpy()  # of all processes
            self._metric = None
            if self.history is not None:
                self.history.add(trainer.global_step, counts=counts)
                self.history.save()

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> dict[str, Picture]:
        if self.history is None or not self.history.rows:
            return {}
        arrays = self.history.arrays()
        counts, split = arrays["counts"][-1], watched_split(trainer)
        figure = confusion_figure(
            counts,
            class_names=class_names(trainer, len(counts)),
            title=f"Confusion on the {SPLITS[split]} images, "
            f"{when_validated(trainer, int(arrays['step'][-1]), when)}",
        )
        return {f"confusion_{split}": Picture(figure, arrays)}
