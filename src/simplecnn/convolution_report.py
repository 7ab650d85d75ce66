"""What kernels respond to: two pictures, and whether PyTorch computes the same."""

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
# In float64. Brightness is at most 1 and the weights of a kernel sum to at most 8: rounding leaves
# about 1e-15, a wrong weight or sign a tenth and more.
TOLERANCE = 1e-12


def convolution_report(*, digit: NDArray[Any], folder: Path) -> bool:
    """Draw what kernels do into `folder`, say whether `conv2d` agrees with PyTorch on all of it.

    `digit` is (28, 28), 0 where there is no ink, of any scale.
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
    """Between `conv2d` and PyTorch, over (image, kernel, flip), padded to keep the image's size;
    infinite where a shape differs or NaN appears."""
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
