"""Nine ways to corrupt an image, each in five severities, from a seed: MNIST-C-like, not MNIST-C.

The kinds are among those of Mu and Gilmer, "MNIST-C", arXiv 1906.02337; the severities are our
own, stated here, and lengths are in pixels of an image 28 pixels high, scaled for others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from simplecnn.explain.translation import shifted

SEVERITIES = (1, 2, 3, 4, 5)
SIDE = 28  # pixels that the lengths below are meant for
Apply = Callable[[Tensor, float, Generator], Tensor]


class Corruption(NamedTuple):
    """What `apply(images, amount, generator)` does by how much at each severity."""

    unit: str
    amounts: tuple[float, float, float, float, float]
    apply: Apply


def corrupt(images: Tensor, kind: str, severity: int, *, seed: int) -> Tensor:
    """Images (N, C, H, W) from 0 to 1, corrupted: the same for the same arguments.

    A severity of 0 changes nothing.
    """
    if severity == 0:
        return images.clone()
    corruption = CORRUPTIONS[kind]
    generator = torch.Generator().manual_seed(seed)
    amount = corruption.amounts[severity - 1]
    return corruption.apply(images, amount, generator).clamp(0, 1)


def _noise(images: Tensor, sigma: float, generator: Generator) -> Tensor:
    return images + sigma * torch.randn(images.shape, generator=generator)


def _shift(images: Tensor, pixels: float, generator: Generator) -> Tensor:
    angles = 2 * torch.pi * torch.rand(len(images), generator=generator)
    distance = _length(images, pixels)
    moves = torch.stack([angles.sin(), angles.cos()], 1).mul(distance).round().int().tolist()
    return torch.stack([shifted(image, *move) for image, move in zip(images, moves, strict=True)])


def _brightness(images: Tensor, amount: float, generator: Generator) -> Tensor:
    return images + amount


def _stripe(images: Tensor, pixels: float, generator: Generator) -> Tensor:
    """A full stripe across each image, in the middle half, half of them upright."""
    width = max(1, round(_length(images, pixels)))
    corrupted = images.clone()
    random = torch.rand(2, len(images), generator=generator).T.tolist()
    for image, (upright, place) in zip(corrupted, random, strict=True):
        lines = image if upright < 0.5 else image.mT
        side = lines.shape[-1]
        first = round(side / 4 + place * (side / 2 - width))
        lines[..., first : first + width] = 1
    return corrupted


def _inversion(images: Tensor, share: float, generator: Generator) -> Tensor:
    """Dark and bright change places in the left part of the image."""
    columns = round(share * images.shape[-1])
    return torch.cat([1 - images[..., :columns], images[..., columns:]], -1)


def _blur(images: Tensor, sigma: float, generator: Generator) -> Tensor:
    sigma = _length(images, sigma)
    largest = (min(images.shape[-2:]) - 1) // 2  # the border is reflected once
    radius = min(int(4 * sigma + 0.5), largest)
    return transforms.gaussian_blur(images, [2 * radius + 1] * 2, [sigma] * 2)


def _length(images: Tensor, pixels: float) -> float:
    return pixels * min(images.shape[-2:]) / SIDE


def _either_way(options: Callable[[float, int], dict[str, Any]]) -> Apply:
    """Each image is changed by an affine map, one way or the other, by a coin."""
    still = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}

    def apply(images: Tensor, amount: float, generator: Generator) -> Tensor:
        forth, back = (
            transforms.affine(
                images,
                **still | options(amount, sign),
                interpolation=InterpolationMode.BILINEAR,
            )
            for sign in (1, -1)
        )
        coins = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
        return torch.where(coins, forth, back)

    return apply


_rotation = _either_way(lambda degrees, sign: {"angle": sign * degrees})
_scale = _either_way(lambda factor, sign: {"scale": factor**sign})
_shear = _either_way(lambda degrees, sign: {"shear": [sign * degrees, 0.0]})

CORRUPTIONS = {
    "noise": Corruption("standard deviation", (0.1, 0.2, 0.3, 0.4, 0.5), _noise),
    "shift": Corruption("pixels", (1, 2, 3, 4, 6), _shift),
    "rotation": Corruption("degrees", (10, 20, 30, 45, 60), _rotation),
    "scale": Corruption("times", (1.1, 1.2, 1.35, 1.5, 1.75), _scale),
    "shear": Corruption("degrees", (10, 20, 30, 40, 50), _shear),
    "brightness": Corruption("of white", (0.1, 0.2, 0.4, 0.6, 0.8), _brightness),
    "stripe": Corruption("pixels", (1, 2, 3, 4, 6), _stripe),
    "inversion": Corruption("of the width", (0.2, 0.4, 0.6, 0.8, 1.0), _inversion),
    "blur": Corruption("pixels (sigma)", (0.5, 1.0, 1.5, 2.0, 3.0), _blur),
}
