"""Kernels with a name, each with what it responds to; every one is (3, 3) and float64.

The words hold for `conv2d` as deep learning defines it, cross-correlation: brightness that grows
downwards or to the right is positive. A response is in units of the image's brightness, times the
kernel's own gain: nothing is normalized but the two that average.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
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
            "spots, corners and thin lines: 4 times a pixel less its 4 neighbors, 0 on a slope",
        ),
        # Others of the field
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
            "vertical edges, more exact in their angle than Sobel: 32 times the slope to the right",
        ),
        "Scharr Y": _kernel(
            [[-3, -10, -3], [0, 0, 0], [3, 10, 3]],
            "horizontal edges, more exact in their angle than Sobel: 32 times the slope downwards",
        ),
        "Gaussian": _kernel(
            np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16,
            "brightness, averaged with more weight on the center: a blur that keeps flat areas",
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


class Match(NamedTuple):
    """The named kernel that a filter is most similar to."""

    name: str
    cosine: float  # -1 to 1; negative: the kernel with all its signs changed
    kernel: NDArray[np.float64]  # of the filter's shape, norm and sign


def best_matches(filters: ArrayLike) -> list[Match | None]:
    """For each filter (N, channels, K, L) the named kernel with the largest absolute cosine to it.

    A kernel may lie anywhere inside a larger filter, and is the same on every channel. Nine
    random weights reach 0.57 on average: that much is chance. None for a filter that is zero or not
    finite, or smaller than 3 x 3.
    """
    filters = np.asarray(filters, dtype=np.float64)
    num_filters, channels, height, width = filters.shape
    if min(height, width) < 3:
        return [None] * num_filters
    names = list(KERNELS)
    units = np.stack([k.values / np.linalg.norm(k.values) for k in KERNELS.values()])
    units /= np.sqrt(channels)
    windows = sliding_window_view(filters, (3, 3), axis=(2, 3))
    products = np.einsum("nchwkl,mkl->nmhw", windows, units)
    matches: list[Match | None] = []
    for one, product in zip(filters, products, strict=True):
        norm = np.linalg.norm(one)
        if not 0 < norm < np.inf:
            matches.append(None)
            continue
        # Rounded, so that of kernels with two names the first wins.
        best = np.abs(product / norm).round(9).argmax()
        which, top, left = (int(i) for i in np.unravel_index(best, product.shape))
        cosine = float(product[which, top, left] / norm)
        placed = np.zeros_like(one)
        placed[:, top : top + 3, left : left + 3] = units[which] * norm * np.sign(cosine)
        matches.append(Match(names[which], cosine, placed))
    return matches


def white_square() -> NDArray[np.float64]:
    """The tutorial's test image: (10, 10), black, with a white square of 6 x 6 in the middle."""
    image = np.zeros((10, 10))
    image[2:8, 2:8] = 1.0
    return image
