"""Figure of the confusion matrix on the validation images."""

from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix

from simplecnn.callbacks.image_callback import (
    Figures,
    ValidationCallback,
    split_name,
    validation_split,
)
from simplecnn.callbacks.probes import class_names
from simplecnn.figures.confusion import confusion_figure


class Confusion(ValidationCallback):
    """Draw the counts of true (rows) and predicted classes (columns), and the recall of each class.

    They are those of the last validation pass, summed over all processes, and part of the
    checkpoint: a resumed run may draw before its first validation pass.
    """

    cumulative = True
    _metric: MulticlassConfusionMatrix | None = None  # of the current pass
    _counts: Any = None

    def state_dict(self) -> dict[str, Any]:
        if self._counts is None:
            return {}
        return {"counts": torch.from_numpy(self._counts), "step": self.validated_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "counts" in state_dict:
            self._counts, self.validated_at = state_dict["counts"].numpy(), state_dict["step"]

    def add(self, logits: Tensor, images: Tensor, labels: Tensor) -> None:
        if self._metric is None:
            metric = MulticlassConfusionMatrix(logits.shape[1], validate_args=False)
            self._metric = metric.to(logits.device)
        self._metric.update(logits, labels)

    def finish(self) -> None:
        assert self._metric is not None
        self._counts = self._metric.compute().cpu().numpy()
        self._metric = None

    def draw(self, trainer: Trainer, module: LightningModule, when: str) -> Figures:
        if self._counts is None:
            return
        figure = confusion_figure(
            self._counts,
            class_names=class_names(trainer, len(self._counts)),
            title=f"Confusion on the {split_name(trainer)} images, "
            f"{self.when_validated(trainer, when)}",
        )
        arrays = {"counts": self._counts, "step": np.array(self.validated_at)}
        yield f"confusion_{validation_split(trainer)}", figure, arrays
