"""Calibration of a network: how well its confidence matches its accuracy."""

from typing import Any

from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

NUM_BINS = 15  # as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017


def calibration(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Top-2 accuracy, calibration error and its bins, from logits (N, classes) and labels (N,).

    The expected calibration error (`ece`) is the mean over images of |accuracy - mean confidence|
    of their bin, with bins of equal width. Each bin has `num_images`, mean `confidence` and
    accuracy (`acc`); the latter two are None in an empty bin. All values are between 0 and 1.
    """
    num_classes = logits.shape[1]
    # Less than 1: torchmetrics puts a confidence of exactly 1 into an additional bin.
    probabilities = logits.softmax(1).clamp(max=1 - 2**-24)
    confidences, classes = probabilities.max(1)
    bins = (confidences * NUM_BINS).long()
    counts = bins.bincount(minlength=NUM_BINS).tolist()
    sums = bins.bincount(confidences.double(), minlength=NUM_BINS).tolist()
    num_correct = bins.bincount((classes == labels).double(), minlength=NUM_BINS).tolist()
    error = multiclass_calibration_error(
        probabilities, labels, num_classes, n_bins=NUM_BINS, norm="l1"
    )
    top2 = multiclass_accuracy(probabilities, labels, num_classes, average="micro", top_k=2)
    return {
        "top2_acc": round(float(top2), 6),
        "ece": round(float(error), 6),
        "calibration_bins": [
            {
                "from": round(i / NUM_BINS, 6),
                "to": round((i + 1) / NUM_BINS, 6),
                "num_images": n,
                "confidence": round(total / n, 6) if n else None,
                "acc": round(correct / n, 6) if n else None,
            }
            for i, (n, total, correct) in enumerate(zip(counts, sums, num_correct, strict=True))
        ],
    }
