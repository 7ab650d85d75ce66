"""Layers without weights: a crop, a normalization and a pool without aliasing. Plain torch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Crop(nn.Module):
    """Enlarges the pixels `first` up to, not including, `last` to the whole image (N, C, H, W).

    Down and across, by cubic interpolation; what it overshoots is cut off at 0 and 1. No weights.
    """

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self.first, self.last = first, last

    def forward(self, images: Tensor) -> Tensor:
        part = images[..., self.first : self.last, self.first : self.last]
        return functional.interpolate(part, images.shape[-2:], mode="bicubic").clamp(0, 1)

    def extra_repr(self) -> str:
        return f"{self.first}, {self.last}"


class Normalize(nn.Module):
    """Images (N, C, H, W) less the `mean` of each channel, divided by its `std`. No weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError("mean and std must be of the same channels, std above 0.")
        for name, values in (("mean", mean), ("std", std)):  # part of the configuration
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"{self.mean.flatten().tolist()}, {self.std.flatten().tolist()}"


class BlurPool(nn.Module):
    """Maximum of 2 x 2 at every pixel, a binomial blur of 3 x 3, then every `stride`-th pixel.

    Halves the size, rounding down, as a 2 x 2 max-pool does, without its aliasing. Has no weights.
    Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019, arXiv 1904.11486.
    """

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        dense = functional.max_pool2d(x, 2, stride=1)
        line = dense.new_tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(line, line).expand(dense.shape[1], 1, 3, 3)
        padded = functional.pad(dense, (1, 1, 1, 1), mode="replicate")
        return functional.conv2d(padded, kernel, stride=self.stride, groups=dense.shape[1])
