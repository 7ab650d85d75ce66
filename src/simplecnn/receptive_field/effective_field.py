"""Effective receptive fields: how much each pixel matters to a unit, measured by gradients.

Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep Convolutional
Neural Networks", NeurIPS 2016, arXiv 1701.04128.
"""

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from simplecnn.receptive_field.axis import Interval
from simplecnn.receptive_field.fields import Field, receptive_fields
from simplecnn.receptive_field.trace import named_outputs


@dataclass(frozen=True)
class EffectiveField:
    """Where the gradient of one layer's central unit lies in the image."""

    mass: Tensor  # (H, W) float64, mean over images of |d unit / d pixel|, summed over colors
    unit: tuple[int, int]
    interval: tuple[Interval, Interval]  # what the unit sees in theory, padding included

    @property
    def sigma(self) -> tuple[float, float]:
        """Standard deviations (vertical, horizontal) of the mass in pixels; NaN without mass."""
        return _sigma(self.mass.sum(1)), _sigma(self.mass.sum(0))

    def square(self, share: float) -> int:
        """Side in pixels of the smallest square, centered in the theoretical field, that holds
        this share (0 to 1) of the mass; 0 without mass."""
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}: give a part of the mass above 0 and up to 1.")
        rows, columns = (
            (torch.arange(n) * 2 - sum(interval)).abs()  # twice the distance from the center
            for n, interval in zip(self.mass.shape, self.interval, strict=True)
        )
        sides = torch.maximum(rows[:, None], columns) + 1
        held = torch.bincount(sides.flatten(), self.mass.flatten()).cumsum(0)
        if held[-1] == 0:
            return 0
        enough = held >= share * held[-1] * (1 - 1e-12)  # sums of floats are not exact
        return int(enough.nonzero()[0])

    @property
    def ratio(self) -> float:
        """Side of the square with 95 % of the mass, in sides of the theoretical field."""
        return self.square(0.95) / max(last - first + 1 for first, last in self.interval)


def _sigma(profile: Tensor) -> float:
    shares = profile / profile.sum()
    places = torch.arange(len(profile))
    mean = (shares * places).sum()
    return float((shares * (places - mean) ** 2).sum().sqrt())


@torch.enable_grad()
def effective_fields(
    network: nn.Module,
    images: Tensor,
    *,
    layers: Collection[str] | None = None,
    fields: dict[str, Field] | None = None,
) -> dict[str, EffectiveField]:
    """The effective field of the unit nearest the image's center, for each layer.

    `images` (N, C, H, W) are as the network takes them. Image n asks channel n modulo the number
    of channels, so that the mean is over images and channels alike. The default layers are those
    where a field grows and units still lie on a grid: convolutions and poolings, before ReLU.
    """
    if images.dim() != 4 or len(images) == 0:
        raise ValueError(f"images has shape {tuple(images.shape)}: give (N, C, H, W), N > 0.")
    if fields is None:
        fields = receptive_fields(network, tuple(images.shape[1:]))
    if layers is None:
        layers = _growing(fields)
    for name in layers:
        if name not in fields:
            raise ValueError(f"there is no layer {name}: choose from {', '.join(fields)}.")
        if not _on_grid(fields[name]):
            raise ValueError(f"layer {name} has no grid of units: all its units see the same.")
    answers: dict[str, Tensor] = {}

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if name in layers:
            answers[name] = _one_channel_each(output.clone(), fields[name])  # ReLU may overwrite it

    x = images.detach().clone().requires_grad_()
    with named_outputs(network, receive):
        network(x)
    result = {}
    for name in (name for name in fields if name in layers):
        (gradient,) = torch.autograd.grad(answers[name], x, retain_graph=True)
        mass = gradient.abs().sum(1).mean(0).double().cpu()
        unit = _central_unit(fields[name])
        result[name] = EffectiveField(mass, unit, fields[name].interval(unit))
    return result


def _on_grid(field: Field) -> bool:
    dims = {axis.dim for axis in field.axes}
    return None not in dims and len(dims) == 2 and all(a.inner == 1 for a in field.axes)


def _growing(fields: dict[str, Field]) -> list[str]:
    """Layers on a grid whose field is none that an earlier layer has."""
    first: dict[tuple, str] = {}
    for name, field in fields.items():
        if _on_grid(field) and all(field.stride):
            first.setdefault((field.size, field.stride, field.start), name)
    return list(first.values())


def _central_unit(field: Field) -> tuple[int, int]:
    """The unit whose field has its center nearest the image's."""
    rows, columns = (
        min(range(len(axis.used)), key=lambda u: abs(sum(axis.interval(u)) - (num_pixels - 1)))
        for axis, num_pixels in zip(field.axes, field.image_size, strict=True)
    )
    return rows, columns


def _one_channel_each(output: Tensor, field: Field) -> Tensor:
    """The sum over images of one channel of the central unit."""
    for axis, place in zip(field.axes, _central_unit(field), strict=True):
        assert axis.dim is not None
        output = output.narrow(axis.dim, place, 1)
    channels = output.flatten(1)
    turn = torch.arange(len(channels), device=channels.device) % channels.shape[1]
    return channels.gather(1, turn[:, None]).sum()
