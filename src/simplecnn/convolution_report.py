"""Two figures of kernel responses, and a comparison of `conv2d` with PyTorch."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from simplecnn.convolution.definition import conv2d
from simplecnn.convolution.kernels import KERNELS, white_square
from simplecnn.figures.convolution import edge_kernel_figure, flip_figure

EDGE_KERNELS = ("Horizontal Edge", "Vertical Edge", "Sobel X", "Laplacian")
FLIPPED_KERNELS = ("Sobel X", "Laplacian", "Emboss")
# In float64. Pixels are at most 1 and a kernel's weights sum to at most 8, so rounding errors are
# about 1e-15, while a wrong weight or sign changes a response by 0.1 or more.
TOLERANCE = 1e-12


def convolution_report(*, digit: NDArray[Any], folder: Path) -> bool:
    """Save two figures to `folder`; return whether `conv2d` agrees with PyTorch on all responses.

    `digit` has shape (28, 28), any scale, and a background of 0.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image = digit / digit.max()
    images = {"White square": white_square(), "Digit": image}
    figures = {
        "edge_kernels.png": edge_kernel_figure(images, {n: KERNELS[n] for n in EDGE_KERNELS}),
        "flip.png": flip_figure(image, {n: KERNELS[n] for n in FLIPPED_KERNELS}),
    }
    for name, figure in figures.items():
        figure.savefig(folder / name)
        print(folder / name)
    drawn = [(x, KERNELS[n].values, False) for x in images.values() for n in EDGE_KERNELS]
    drawn += [(image, KERNELS[n].values, flip) for n in FLIPPED_KERNELS for flip in (False, True)]
    difference = largest_difference(drawn)
    agrees = difference <= TOLERANCE
    print(
        f"\nconv2d {'agrees' if agrees else 'DOES NOT AGREE'} with PyTorch {torch.__version__} on "
        f"the {len(drawn)} responses drawn: largest difference {difference:.1e}, "
        f"allowed {TOLERANCE:.0e}"
    )
    return agrees


def largest_difference(calls: Iterable[tuple[NDArray[Any], NDArray[Any], bool]]) -> float:
    """Largest absolute difference between `conv2d` and PyTorch over calls (image, kernel, flip).

    Padding is "same". Infinite if a shape differs or an output contains NaN.
    """
    largest = 0.0
    for image, kernel, flip in calls:
        output = conv2d(image, kernel, padding="same", flip=flip)
        weight = torch.from_numpy(kernel[::-1, ::-1].copy() if flip else kernel.copy())
        tensor = torch.from_numpy(image)[None, None]
        expected = functional.conv2d(tensor, weight[None, None], padding="same")[0, 0].numpy()
        if output.shape != expected.shape or np.isnan(output).any():
            return float("inf")
        largest = max(largest, float(abs(output - expected).max()))
    return largest
