"""Nine seeded image corruptions at five severities, modeled on MNIST-C but not identical to it.

The kinds are a subset of Mu and Gilmer, "MNIST-C", arXiv 1906.02337; the severities are defined
here. Lengths are in pixels of a 28 x 28 image and are scaled to the shorter side of others.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from simplecnn.explain.translation import shifted

SEVERITIES = (1, 2, 3, 4, 5)
SIDE = 28  # pixels of the images that the lengths below refer to
Apply = Callable[[Tensor, float, Generator], Tensor]


class Corruption(NamedTuple):
    """`apply(images, amount, generator)` with its amount at each severity, in `unit`."""

    unit: str
    amounts: tuple[float, float, float, float, float]
    apply: Apply


def corrupt(images: Tensor, kind: str, severity: int, *, seed: int) -> Tensor:
    """Return corrupted copies of images (N, C, H, W) from 0 to 1; deterministic in the seed.

    Severity 0 changes nothing.
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
    shifts = torch.stack([angles.sin(), angles.cos()], 1).mul(distance).round().int().tolist()
    return torch.stack([shifted(image, *by) for image, by in zip(images, shifts, strict=True)])


def _stripe(images: Tensor, pixels: float, generator: Generator) -> Tensor:
    """Draw a stripe of ones from border to border within the middle half of each image, vertical
    with probability 1/2."""
    width = max(1, round(_length(images, pixels)))
    corrupted = images.clone()
    random = torch.rand(2, len(images), generator=generator).T.tolist()
    for image, (direction, position) in zip(corrupted, random, strict=True):
        lines = image if direction < 0.5 else image.mT
        side = lines.shape[-1]
        first = round(side / 4 + position * (side / 2 - width))
        lines[..., first : first + width] = 1
    return corrupted


def _inversion(images: Tensor, share: float, generator: Generator) -> Tensor:
    """Invert the brightness of the left part of each image."""
    columns = round(share * images.shape[-1])
    return torch.cat([1 - images[..., :columns], images[..., columns:]], -1)


def _blur(images: Tensor, sigma: float, generator: Generator) -> Tensor:
    sigma = _length(images, sigma)
    max_radius = (min(images.shape[-2:]) - 1) // 2  # reflection padding reflects only once
    radius = min(int(4 * sigma + 0.5), max_radius)
    return transforms.gaussian_blur(images, [2 * radius + 1] * 2, [sigma] * 2)


def _length(images: Tensor, pixels: float) -> float:
    return pixels * min(images.shape[-2:]) / SIDE


def _random_direction(options: Callable[[float, int], dict[str, Any]]) -> Apply:
    """An affine corruption by `options(amount, sign)`, with a random sign for each image."""
    identity = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}

    def apply(images: Tensor, amount: float, generator: Generator) -> Tensor:
        positive, negative = (
            transforms.affine(
                images,
                **identity | options(amount, sign),
                interpolation=InterpolationMode.BILINEAR,
            )
            for sign in (1, -1)
        )
        coins = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
        return torch.where(coins, positive, negative)

    return apply


_rotation = _random_direction(lambda degrees, sign: {"angle": sign * degrees})
_scale = _random_direction(lambda factor, sign: {"scale": factor**sign})
_shear = _random_direction(lambda degrees, sign: {"shear": [sign * degrees, 0.0]})

CORRUPTIONS = {
    "noise": Corruption("standard deviation", (0.1, 0.2, 0.3, 0.4, 0.5), _noise),
    "shift": Corruption("pixels (of 28)", (1, 2, 3, 4, 6), _shift),
    "rotation": Corruption("degrees", (10, 20, 30, 45, 60), _rotation),
    "scale": Corruption("factor", (1.1, 1.2, 1.35, 1.5, 1.75), _scale),
    "shear": Corruption("degrees", (10, 20, 30, 40, 50), _shear),
    "brightness": Corruption(
        "added (range 0 to 1)", (0.1, 0.2, 0.4, 0.6, 0.8), lambda images, amount, _: images + amount
    ),
    "stripe": Corruption("pixels (of 28)", (1, 2, 3, 4, 6), _stripe),
    "inversion": Corruption("share of width", (0.2, 0.4, 0.6, 0.8, 1.0), _inversion),
    "blur": Corruption("sigma, pixels (of 28)", (0.5, 1.0, 1.5, 2.0, 3.0), _blur),
}
