"""Mean loss and accuracy in a single metric."""

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

# The dtype of sums over an epoch. MPS does not support float64.
SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


class LossAndAccuracy(Metric):
    """Mean loss (`loss`) and accuracy (`acc`, 0 to 1) over all images seen.

    Accumulates on the device, so no step waits for it. Replaces torchmetrics' MeanMetric and
    MulticlassAccuracy, which together cost 0.2 ms more per step.
    """

    full_state_update = False
    loss_sum: Tensor
    weight_sum: Tensor
    num_correct: Tensor
    num_images: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("loss_sum", "weight_sum", "num_correct", "num_images"):
            self.add_state(name, torch.zeros((), dtype=SUM_DTYPE), dist_reduce_fx="sum")

    def update(
        self, loss: Tensor, logits: Tensor, labels: Tensor, class_weights: Tensor | None = None
    ) -> None:
        """Add a batch: its mean loss, its logits (N, num_classes) and its labels (N,).

        class_weights: the weight of each class in that mean; None: all are equal.
        """
        loss = loss.detach().to(SUM_DTYPE)
        weight: int | Tensor = len(labels)
        if class_weights is not None:
            weight = class_weights[labels].sum()
            loss = torch.where(weight > 0, loss, 0)  # 0 / 0 if all images have the weight 0
        # In place: assigning to a module's attribute costs more than the addition.
        self.loss_sum.add_(loss * weight)
        self.weight_sum.add_(weight)
        self.num_correct.add_((logits.argmax(1) == labels).sum())
        self.num_images.add_(len(labels))

    def compute(self) -> dict[str, Tensor]:
        return {
            "loss": (self.loss_sum / self.weight_sum).float(),
            "acc": (self.num_correct / self.num_images).float(),
        }


class MacroAccuracy(MulticlassAccuracy):
    """The mean of the accuracies of the classes, without classes that have no image.

    torchmetrics' macro accuracy counts a class without images as 0 if it was predicted.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="macro")

    def compute(self) -> Tensor:
        assert isinstance(self.tp, Tensor) and isinstance(self.fn, Tensor)
        return (self.tp / (self.tp + self.fn)).nanmean()  # 0 / 0 is NaN
