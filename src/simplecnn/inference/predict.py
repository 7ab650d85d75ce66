"""Which digit is on a person's own image: probabilities by a run's network."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from simplecnn.data.files import class_names
from simplecnn.errors import InputError
from simplecnn.inference.export import load_network

log = logging.getLogger(__name__)


def predict(
    checkpoint: Path,
    digits: np.ndarray,
    names: Sequence[str],
    *,
    dataset: str = "MNIST",
) -> list[str]:
    """Print what the network takes each of `digits` (N, 28, 28), 0 to 1, for; gives the classes.

    `names` are those of the N images.
    """
    classes = class_names(dataset)
    probabilities = classify(load_network(checkpoint), digits)
    if probabilities.shape[1] != len(classes):
        classes = tuple(str(i) for i in range(probabilities.shape[1]))
    width = max(map(len, names)) + 2
    best = []
    for name, row in zip(names, probabilities, strict=True):
        first, second = np.argsort(row)[::-1][:2]
        log.info(
            "%s%s  %5.1f %%   then %s  %.1f %%",
            f"{name:<{width}}", classes[first], 100 * row[first], classes[second],
            100 * row[second],
        )  # fmt: skip
        best.append(classes[first])
    return best


@torch.no_grad()
def classify(network: nn.Module, digits: np.ndarray) -> np.ndarray:
    """Probabilities (N, classes) of images (N, 28, 28), 0 to 1."""
    images = torch.from_numpy(np.ascontiguousarray(digits, np.float32)).unsqueeze(1)
    try:
        return network(images).softmax(1).numpy()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"The network does not take images of 1 x 28 x 28: {reason}") from None
