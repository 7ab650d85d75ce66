"""Calibration of a network: how well its confidence matches its accuracy."""

from typing import Any

import numpy as np
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy

NUM_BINS = 15  # as in Guo et al., "On Calibration of Modern Neural Networks", ICML 2017


def calibration(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Top-2 accuracy, calibration error and its bins, from logits (N, classes) and labels (N,).

    The expected calibration error (`ece`) is the mean over images of |accuracy - mean confidence|
    of their bin, with bins of equal width. Each bin has `num_images`, mean `confidence` and
    accuracy (`acc`); the latter two are None in an empty bin. All values are between 0 and 1.
    """
    confidences, classes = logits.float().softmax(1).max(1)
    counts, sums, num_correct = (
        np.histogram(confidences, NUM_BINS, (0, 1), weights=weights)[0]
        for weights in (None, confidences.double(), (classes == labels).double())
    )
    error = np.abs(sums - num_correct).sum() / len(labels)
    top2 = multiclass_accuracy(logits, labels, logits.shape[1], average="micro", top_k=2)
    return {
        "top2_acc": round(float(top2), 6),
        "ece": round(float(error), 6),
        "calibration_bins": [
            {
                "from": round(i / NUM_BINS, 6),
                "to": round((i + 1) / NUM_BINS, 6),
                "num_images": int(n),
                "confidence": round(total / n, 6) if n else None,
                "acc": round(correct / n, 6) if n else None,
            }
            for i, (n, total, correct) in enumerate(zip(counts, sums, num_correct, strict=True))
        ],
    }
