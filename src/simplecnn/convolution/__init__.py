"""2-D convolution implemented from its definition, its gradients, and well-known kernels.

Requires only NumPy; `simplecnn.convolution_report`, which compares it with PyTorch, also requires
torch and matplotlib.
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
