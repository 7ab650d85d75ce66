"""Receptive field and cost of a chain of layers, given as a list of (kernel, stride)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np


def receptive_field(layers: Sequence[tuple[int, int]]) -> int:
    """Return the receptive field in pixels of a chain of (kernel, stride) layers.

    r = 1 + sum over layers of (kernel - 1) x (product of all earlier strides), independent of the
    padding. Source: Araujo, Norris and Sim, Distill 2019, doi 10.23915/distill.00021.
    """
    _check_layers(layers)
    jumps = accumulate((stride for _, stride in layers), int.__mul__, initial=1)
    return 1 + sum((kernel - 1) * jump for (kernel, _), jump in zip(layers, jumps, strict=False))


@dataclass(frozen=True)
class Stack:
    """Receptive field and cost of a chain of layers."""

    sizes: tuple[int, ...]  # receptive field in pixels after each layer
    num_parameters: int  # weights and biases
    num_macs: int  # multiply-accumulates of the convolutions for one image
    profile: tuple[float, ...]  # weight of each input column with uniform kernels; sums to 1

    @property
    def sigma(self) -> float:
        """Standard deviation of the profile in pixels: the square root of the sum over layers
        of (kernel² - 1) / 12 x jump²."""
        center = (len(self.profile) - 1) / 2
        return sum(w * (i - center) ** 2 for i, w in enumerate(self.profile)) ** 0.5


def stack(
    layers: Sequence[tuple[int, int]],
    *,
    channels: Sequence[int | None],
    in_channels: int = 1,
    image_size: int = 28,
) -> Stack:
    """Compute the receptive field and the cost of a chain of (kernel, stride) layers.

    Convolutions are padded by kernel // 2, poolings are not padded.

    Args:
        channels: the output channels of each convolution, None for each pooling.
        image_size: side in pixels of the square input image.
    """
    _check_layers(layers)
    if len(channels) != len(layers):
        raise ValueError(
            f"channels has {len(channels)} entries for {len(layers)} layers: give one per layer, "
            "None for a pooling."
        )
    sizes: list[int] = []
    parameters = macs = 0
    width, size, jump = in_channels, image_size, 1
    profile = np.ones(1)
    for i, ((kernel, stride), out) in enumerate(zip(layers, channels, strict=True)):
        padding = 0 if out is None else kernel // 2
        size = (size + 2 * padding - kernel) // stride + 1
        if size < 1:
            raise ValueError(f"nothing is left of {image_size} pixels after {i} layers.")
        if out is not None:
            parameters += kernel**2 * width * out + out
            macs += kernel**2 * width * out * size**2
            width = out
        taps = np.zeros((kernel - 1) * jump + 1)
        taps[::jump] = 1 / kernel
        profile = np.convolve(profile, taps)
        sizes.append(len(profile))
        jump *= stride
    return Stack(tuple(sizes), parameters, macs, tuple(profile.tolist()))


def _check_layers(layers: Sequence[tuple[int, int]]) -> None:
    for i, layer in enumerate(layers):
        pair = tuple(layer) if isinstance(layer, list | tuple) else (layer,)
        if len(pair) != 2 or any(type(n) is not int or n < 1 for n in pair):
            raise ValueError(
                f"layer {i} is {layer!r}: give a pair of positive integers, (kernel, stride)."
            )
