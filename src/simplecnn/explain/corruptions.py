"""Nine ways to corrupt an image, each in five severities, from a seed: MNIST-C-like, not MNIST-C.

The kinds are among those of Mu and Gilmer, "MNIST-C", arXiv 1906.02337; the severities are our
own, stated here, and lengths are in pixels of an image 28 pixels high, scaled for others.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from simplecnn.explain.translation import shifted

SEVERITIES = (1, 2, 3, 4, 5)
SIDE = 28  # pixels that the lengths below are meant for


class Corruption(NamedTuple):
    """What `apply(images, amount, generator)` does by how much at each severity."""

    unit: str
    amounts: tuple[float, float, float, float, float]
    apply: Callable[[Tensor, float, Generator], Tensor]


def corrupt(images: Tensor, kind: str, severity: int, *, seed: int) -> Tensor:
    """Images (N, C, H, W) from 0 to 1, corrupted: the same for the same arguments.

    A severity of 0 changes nothing. Raises ValueError for another kind or severity.
    """
    if kind not in CORRUPTIONS:
        raise ValueError(f"corruption is {kind!r}: choose from {', '.join(CORRUPTIONS)}.")
    if severity not in (0, *SEVERITIES):
        raise ValueError(f"severity is {severity}: it must be 0 to {SEVERITIES[-1]}.")
    if severity == 0:
        return images.clone()
    corruption = CORRUPTIONS[kind]
    generator = torch.Generator().manual_seed(seed)
    amount = corruption.amounts[severity - 1]
    return corruption.apply(images, amount, generator).clamp(0, 1)


def _noise(images: Tensor, sigma: float, generator: Generator) -> Tensor:
    return images + sigma * torch.randn(images.shape, generator=generator)


def _shift(images: Tensor, pixels: float, generator: Generator) -> Tensor:
    distance = _length(images, pixels)
    angles = 2 * torch.pi * torch.rand(len(images), generator=generator)
    moves = torch.stack([angles.cos(), angles.sin()], 1) * distance
    return torch.cat(
        [
            shifted(image[None], round(float(y)), round(float(x)))
            for image, (x, y) in zip(images, moves, strict=True)
        ]
    )


def _rotation(images: Tensor, degrees: float, generator: Generator) -> Tensor:
    return _either_way(images, generator, lambda part, sign: _affine(part, angle=sign * degrees))


def _scale(images: Tensor, factor: float, generator: Generator) -> Tensor:
    return _either_way(images, generator, lambda part, sign: _affine(part, scale=factor**sign))


def _shear(images: Tensor, degrees: float, generator: Generator) -> Tensor:
    return _either_way(
        images, generator, lambda part, sign: _affine(part, shear=[sign * degrees, 0.0])
    )


def _brightness(images: Tensor, amount: float, generator: Generator) -> Tensor:
    return images + amount


def _stripe(images: Tensor, pixels: float, generator: Generator) -> Tensor:
    """A full stripe across each image, in the middle half, half of them upright."""
    width = max(1, round(_length(images, pixels)))
    corrupted = images.clone()
    for image, u, v in zip(
        corrupted, *torch.rand(2, len(images), generator=generator), strict=True
    ):
        upright = bool(u < 0.5)
        side = image.shape[-1 if upright else -2]
        first = round(side / 4 + float(v) * (side / 2 - width))
        if upright:
            image[..., first : first + width] = 1
        else:
            image[..., first : first + width, :] = 1
    return corrupted


def _inversion(images: Tensor, share: float, generator: Generator) -> Tensor:
    """Dark and bright change places in the left part of the image."""
    columns = round(share * images.shape[-1])
    corrupted = images.clone()
    corrupted[..., :columns] = 1 - corrupted[..., :columns]
    return corrupted


def _blur(images: Tensor, sigma: float, generator: Generator) -> Tensor:
    sigma = _length(images, sigma)
    largest = (min(images.shape[-2:]) - 1) // 2  # the border is reflected once
    radius = min(int(4 * sigma + 0.5), largest)
    return transforms.gaussian_blur(images, [2 * radius + 1] * 2, [sigma] * 2)


def _length(images: Tensor, pixels: float) -> float:
    return pixels * min(images.shape[-2:]) / SIDE


def _affine(
    images: Tensor,
    *,
    angle: float = 0.0,
    scale: float = 1.0,
    shear: list[float] | None = None,
) -> Tensor:
    return transforms.affine(
        images,
        angle=angle,
        translate=[0, 0],
        scale=scale,
        shear=shear or [0.0, 0.0],
        interpolation=InterpolationMode.BILINEAR,
    )


def _either_way(
    images: Tensor, generator: Generator, change: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Each image is changed one way or the other, by a coin."""
    forth = torch.rand(len(images), generator=generator) < 0.5
    corrupted = images.clone()
    for part, sign in ((forth, 1), (~forth, -1)):
        if part.any():
            corrupted[part] = change(images[part], sign)
    return corrupted


CORRUPTIONS: Mapping[str, Corruption] = MappingProxyType(
    {
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
)
