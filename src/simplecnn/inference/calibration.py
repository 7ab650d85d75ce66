"""Whether a network's probabilities are as often right as they say."""

from typing import Any

from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_calibration_error

NUM_BINS = 15  # as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017


def calibration(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Of logits (N, classes) and labels (N,): top-2 accuracy, calibration error, and its bins.

    The expected calibration error (`ece`) is the mean over images of how far the accuracy of their
    bin is from its mean confidence, bins of equal width. A bin has `num_images`, and, unless that
    is 0, mean `confidence` and accuracy (`acc`), all of them shares from 0 to 1.
    """
    num_classes = logits.shape[1]
    # Below 1: torchmetrics gives what is 1 in float32 a bin of its own.
    shares = logits.softmax(1).clamp(max=1 - 2**-24)
    confidences, classes = shares.max(1)
    bins = (confidences * NUM_BINS).long()
    counts = bins.bincount(minlength=NUM_BINS).tolist()
    sums = bins.bincount(confidences.double(), minlength=NUM_BINS).tolist()
    right = bins.bincount((classes == labels).double(), minlength=NUM_BINS).tolist()
    error = multiclass_calibration_error(shares, labels, num_classes, n_bins=NUM_BINS, norm="l1")
    top2 = multiclass_accuracy(shares, labels, num_classes, average="micro", top_k=2)
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
            for i, (n, total, correct) in enumerate(zip(counts, sums, right, strict=True))
        ],
    }
