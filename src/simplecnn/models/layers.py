"""Layers without weights: a crop, a normalization and an anti-aliased pooling. Plain PyTorch."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class Crop(nn.Module):
    """Zoom in on rows and columns `first` to `last - 1` of images (N, C, H, W).

    The crop is resized to H x W by bicubic interpolation; overshoot is clamped to [0, 1].
    """

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self.first, self.last = first, last

    def forward(self, images: Tensor) -> Tensor:
        cropped = images[..., self.first : self.last, self.first : self.last]
        return functional.interpolate(cropped, images.shape[-2:], mode="bicubic").clamp(0, 1)

    def extra_repr(self) -> str:
        return f"{self.first}, {self.last}"


class Normalize(nn.Module):
    """Subtract each channel's `mean` from images (N, C, H, W) and divide by its `std`."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError("mean and std must have one value per channel, std above 0.")
        # Not persistent: the values are part of the configuration.
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def extra_repr(self) -> str:
        return f"{self.mean.flatten().tolist()}, {self.std.flatten().tolist()}"


class BlurPool(nn.Module):
    """Anti-aliased max-pooling: a 2 x 2 maximum with stride 1, a 3 x 3 binomial blur, subsampling.

    With the default `stride`, halves the size, rounding down, as a 2 x 2 max-pool does.
    Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019, arXiv 1904.11486.
    """

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        maxima = functional.max_pool2d(x, 2, stride=1)
        num_channels = maxima.shape[1]
        binomial = maxima.new_tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(binomial, binomial).expand(num_channels, 1, 3, 3)
        padded = functional.pad(maxima, (1, 1, 1, 1), mode="replicate")
        return functional.conv2d(padded, kernel, stride=self.stride, groups=num_channels)
