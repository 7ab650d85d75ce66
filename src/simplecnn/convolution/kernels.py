"""Well-known kernels, (3, 3) float64, each with a description of its response.

The descriptions hold for cross-correlation, the default of `conv2d`: the response to brightness
that increases downwards or to the right is positive. Only the averaging kernels are normalized.
"""

from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray


class NamedKernel(NamedTuple):
    values: NDArray[np.float64]
    responds_to: str


def _kernel(values: ArrayLike, responds_to: str) -> NamedKernel:
    return NamedKernel(np.array(values, dtype=np.float64), responds_to)


KERNELS = {
    # The four kernels of the tutorial
    "Horizontal Edge": _kernel(
        [[-1, -1, -1], [0, 0, 0], [1, 1, 1]],
        "horizontal edges: positive if brighter below (the same as Prewitt Y)",
    ),
    "Vertical Edge": _kernel(
        [[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]],
        "vertical edges: positive if brighter to the right (the same as Prewitt X)",
    ),
    "Sobel X": _kernel(
        [[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]],
        "vertical edges, smoothed along the edge: 8 times the slope to the right",
    ),
    "Laplacian": _kernel(
        [[0, -1, 0], [-1, 4, -1], [0, -1, 0]],
        "spots, corners and thin lines: 4 times the pixel minus its 4 neighbors, 0 on a slope",
    ),
    # Other common kernels
    "Sobel Y": _kernel(
        [[-1, -2, -1], [0, 0, 0], [1, 2, 1]],
        "horizontal edges, smoothed along the edge: 8 times the slope downwards",
    ),
    "Prewitt X": _kernel(
        [[-1, 0, 1], [-1, 0, 1], [-1, 0, 1]],
        "vertical edges, with equal weights: 6 times the slope to the right",
    ),
    "Prewitt Y": _kernel(
        [[-1, -1, -1], [0, 0, 0], [1, 1, 1]],
        "horizontal edges, with equal weights: 6 times the slope downwards",
    ),
    "Scharr X": _kernel(
        [[-3, 0, 3], [-10, 0, 10], [-3, 0, 3]],
        "vertical edges, with more accurate angles than Sobel: 32 times the slope to the right",
    ),
    "Scharr Y": _kernel(
        [[-3, -10, -3], [0, 0, 0], [3, 10, 3]],
        "horizontal edges, with more accurate angles than Sobel: 32 times the slope downwards",
    ),
    "Gaussian": _kernel(
        np.array([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16,
        "brightness, averaged with more weight on the center: a blur that preserves flat areas",
    ),
    "Box": _kernel(
        np.full((3, 3), 1 / 9),
        "brightness: the mean of the 9 pixels",
    ),
    "Sharpen": _kernel(
        [[0, -1, 0], [-1, 5, -1], [0, -1, 0]],
        "the pixel plus its Laplacian: preserves flat areas, edges overshoot on both sides",
    ),
    "Emboss": _kernel(
        [[-2, -1, 0], [-1, 1, 1], [0, 1, 2]],
        "the pixel plus the slope to the lower right: a relief lit from the upper left",
    ),
}


class Match(NamedTuple):
    """The named kernel that a filter is most similar to."""

    name: str
    cosine: float  # -1 to 1; negative for the negated kernel
    kernel: NDArray[np.float64]  # with the filter's shape and norm, and the sign of the cosine


def best_matches(filters: ArrayLike) -> list[Match | None]:
    """Find the named kernel with the largest absolute cosine similarity to each filter.

    A kernel may be anywhere inside a larger filter, and is repeated on every channel. The baseline
    is 0.55, the mean for nine random weights. The match is None for a filter that is zero, not
    finite, or smaller than 3 x 3.

    Args:
        filters: (N, channels, K, L).
    """
    filters = np.asarray(filters, dtype=np.float64)
    num_filters, channels, height, width = filters.shape
    if min(height, width) < 3:
        return [None] * num_filters
    names = list(KERNELS)
    unit_kernels = np.stack([k.values / np.linalg.norm(k.values) for k in KERNELS.values()])
    unit_kernels /= np.sqrt(channels)
    windows = sliding_window_view(filters, (3, 3), axis=(2, 3))
    products = np.einsum("nchwkl,mkl->nmhw", windows, unit_kernels)
    matches: list[Match | None] = []
    for weights, product in zip(filters, products, strict=True):
        norm = np.linalg.norm(weights)
        if not 0 < norm < np.inf:
            matches.append(None)
            continue
        # Rounded, so that the first name wins for a kernel with two names.
        best = np.abs(product / norm).round(9).argmax()
        i, top, left = (int(n) for n in np.unravel_index(best, product.shape))
        cosine = float(product[i, top, left] / norm)
        kernel = np.zeros_like(weights)
        kernel[:, top : top + 3, left : left + 3] = unit_kernels[i] * norm * np.sign(cosine)
        matches.append(Match(names[i], cosine, kernel))
    return matches


def white_square() -> NDArray[np.float64]:
    """Return the tutorial's test image: (10, 10), black with a centered white 6 x 6 square."""
    return np.pad(np.ones((6, 6)), 2)
