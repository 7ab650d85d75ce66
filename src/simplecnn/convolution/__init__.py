"""Convolution from its definition, with gradients, and kernels with a name.

NumPy only; the report on it, `simplecnn.convolution_report`, needs torch and matplotlib.
"""

from simplecnn.convolution.definition import Conv2dGradients, conv2d, conv2d_gradients
from simplecnn.convolution.kernels import KERNELS, Match, NamedKernel, best_matches, white_square

__all__ = [
    "KERNELS",
    "Conv2dGradients",
    "Match",
    "NamedKernel",
    "best_matches",
    "conv2d",
    "conv2d_gradients",
    "white_square",
]
