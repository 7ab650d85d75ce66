"""Kernels with a name, each with what it responds to; every one is (3, 3) and float64.

The words hold for `conv2d` as deep learning defines it, cross-correlation: brightness that grows
downwards or to the right is positive. A response is in units of the image's brightness, times the
kernel's own gain: nothing is normalised but the two that average.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class NamedKernel(NamedTuple):
    values: NDArray[np.float64]  # read-only; `.astype(image.dtype)` gives one to change
    responds_to: str


def _kernel(values: ArrayLike, responds_to: str) -> NamedKernel:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return NamedKernel(array, responds_to)


KERNELS: Mapping[str, NamedKernel] = MappingProxyType(
    {
        # The four of the tutorial
        "Horizontal Edge": _kernel(
            [[-1, -1, -1], [0, 0, 0], [1, 1, 1]],
            "horizontal edges: positive where it is brighter below (Prewitt Y by another name)",
        ),
        "Vertical Edge": _kernel(
            [[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]],
            "vertical edges: positive where it is brighter to the right (Prewitt X)",
        ),
        "Sobel X": _kernel(
            [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
            "vertical edges, smoothed along the edge: 8 times the slope to the right",
        ),
        "Laplacian": _kernel(
            [[0, -1, 0], [-1, 4, -1], [0, -1, 0]],
            "spots, corners and thin lines: 4 times a pixel less its 4 neighbours, 0 on a slope",
        ),
        # Their natural companions
        "Sobel Y": _kernel(
            [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
            "horizontal edges, smoothed along the edge: 8 times the slope downwards",
        ),
        "Prewitt X": _kernel(
            [[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]],
            "vertical edges, all three rows alike: 6 times the slope to the right",
        ),
        "Prewitt Y": _kernel(
            [[-1, -1, -1], [0, 0, 0], [1, 1, 1]],
            "horizontal edges, all three columns alike: 6 times the slope downwards",
        ),
        "Scharr X": _kernel(
            [[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]],
            "vertical edges, truer to an edge's angle than Sobel: 32 times the slope to the right",
        ),
        "Scharr Y": _kernel(
            [[-3, -10, -3], [0, 0, 0], [3, 10, 3]],
            "horizontal edges, truer to an edge's angle than Sobel: 32 times the slope downwards",
        ),
        "Gaussian": _kernel(
            np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16,
            "brightness, averaged with more weight on the centre: a blur that keeps flat areas",
        ),
        "Box": _kernel(
            np.full((3, 3), 1 / 9),
            "brightness, averaged evenly: the plain mean of the 9 pixels",
        ),
        "Sharpen": _kernel(
            [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
            "the pixel plus its Laplacian: flat areas stay, steps overshoot on both sides",
        ),
        "Emboss": _kernel(
            [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
            "the pixel plus the slope to the lower right: a relief lit from the upper left",
        ),
    }
)


def white_square() -> NDArray[np.float64]:
    """The tutorial's test image: (10, 10), black, with a white square of 6 x 6 in the middle."""
    image = np.zeros((10, 10))
    image[2:8, 2:8] = 1.0
    return image
