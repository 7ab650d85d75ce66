"""What the callbacks share that watch the validation pass."""

from typing import Any

from pytorch_lightning import LightningModule, Trainer
from torch import Tensor

from simplecnn.callbacks.image_callback import ImageCallback


class ValidationCallback(ImageCallback):
    """Sees the logits (N, classes) that `validation_step` returns, of the first loader.

    A subclass adds up the batches of a pass by `add`, which must not wait for the device, and
    evaluates them by `finish`. `validated_at` is the step of the last pass.
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
        is_logits = isinstance(outputs, Tensor) and outputs.ndim == 2
        if is_logits and dataloader_idx == 0 and in_training(trainer):
            self.validated_at = trainer.global_step
            self.add(outputs, *batch)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if in_training(trainer) and self.validated_at == trainer.global_step:
            self.finish()

    def when_validated(self, trainer: Trainer, when: str) -> str:
        """`when`, the words for now, if the last pass was now; else the step of that pass."""
        is_now = self.validated_at == trainer.global_step
        return when if is_now else f"as it was at step {self.validated_at}"


def in_training(trainer: Trainer) -> bool:
    """Whether this validation pass belongs to the training and is no trial run."""
    return bool(
        trainer.state.fn == "fit" and not trainer.sanity_checking and not trainer.fast_dev_run
    )


def watched_split(trainer: Trainer) -> str:
    """Which split the first validation loader gives: "val" or "test"."""
    return next(iter(getattr(trainer.datamodule, "validation_stages", ())), "val")


def split_name(trainer: Trainer) -> str:
    """The word for that split in a title."""
    return {"val": "validation", "test": "test"}[watched_split(trainer)]
