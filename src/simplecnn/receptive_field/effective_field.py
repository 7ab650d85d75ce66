"""Effective receptive fields: the influence of each pixel on a unit, measured by gradients.

Source: Luo, Li, Urtasun and Zemel, "Understanding the Effective Receptive Field in Deep
Convolutional Neural Networks", NeurIPS 2016, arXiv 1701.04128.
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
    """Distribution over the image of the gradient of one layer's central unit."""

    mass: Tensor  # (H, W) float64, mean over images of |d unit / d pixel|, summed over channels
    unit: tuple[int, int]
    interval: tuple[Interval, Interval]  # the theoretical field (rows, columns), with padding

    @property
    def sigma(self) -> tuple[float, float]:
        """Standard deviations (vertical, horizontal) of the mass in pixels; NaN without mass."""
        return _sigma(self.mass.sum(1)), _sigma(self.mass.sum(0))

    def square(self, share: float) -> int:
        """Return the side in pixels of the smallest square, centered in the theoretical field, that
        contains this fraction of the mass; 0 without mass."""
        if not 0 < share <= 1:
            raise ValueError(f"share is {share}: give a fraction of the mass above 0 and up to 1.")
        rows, columns = (
            (torch.arange(n) * 2 - sum(interval)).abs()  # twice the distance from the center
            for n, interval in zip(self.mass.shape, self.interval, strict=True)
        )
        sides = torch.maximum(rows[:, None], columns) + 1
        mass_within = torch.bincount(sides.flatten(), self.mass.flatten()).cumsum(0)
        if mass_within[-1] == 0:
            return 0
        tolerance = 1 - 1e-12  # sums of floats are not exact
        return int((mass_within >= share * mass_within[-1] * tolerance).nonzero()[0])

    @property
    def ratio(self) -> float:
        """Side of the square with 95 % of the mass, divided by the longer side of the theoretical
        field."""
        return self.square(0.95) / max(last - first + 1 for first, last in self.interval)


def _sigma(profile: Tensor) -> float:
    weights = profile / profile.sum()
    positions = torch.arange(len(profile))
    mean = (weights * positions).sum()
    return float((weights * (positions - mean) ** 2).sum().sqrt())


@torch.enable_grad()
def effective_fields(
    network: nn.Module,
    images: Tensor,
    *,
    layers: Collection[str] | None = None,
    fields: dict[str, Field] | None = None,
) -> dict[str, EffectiveField]:
    """Measure the effective field of the unit nearest to the image center, for each layer.

    For image n, the gradient is that of channel n modulo the number of channels, so that the mean
    is taken over images and channels alike.

    Args:
        images: inputs of the network (N, C, H, W).
        layers: by default those that enlarge the field and whose units lie on a grid: convolutions
            and poolings.
        fields: the theoretical fields; by default those of `receptive_fields`.
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
        if not fields[name].on_grid:
            raise ValueError(
                f"layer {name} has no grid of units: all its units have the same field."
            )
    responses: dict[str, Tensor] = {}

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if name in layers:  # cloned, because an in-place ReLU may follow
            responses[name] = _sum_of_channels(output.clone(), fields[name])

    x = images.detach().clone().requires_grad_()
    with named_outputs(network, receive):
        network(x)
    result = {}
    for name in (name for name in fields if name in layers):
        (gradient,) = torch.autograd.grad(responses[name], x, retain_graph=True)
        mass = gradient.abs().sum(1).mean(0).double().cpu()
        unit = central_unit(fields[name])
        result[name] = EffectiveField(mass, unit, fields[name].interval(unit))
    return result


def _growing(fields: dict[str, Field]) -> list[str]:
    """Return the layers on a grid whose field differs from that of every earlier layer."""
    first: dict[tuple, str] = {}
    for name, field in fields.items():
        if field.on_grid and all(field.stride):
            first.setdefault((field.size, field.stride, field.start), name)
    return list(first.values())


def central_unit(field: Field) -> tuple[int, int]:
    """Return the unit whose field is centered nearest to the image center."""
    rows, columns = (
        min(range(len(axis.used)), key=lambda u: abs(sum(axis.interval(u)) - (num_pixels - 1)))
        for axis, num_pixels in zip(field.axes, field.image_size, strict=True)
    )
    return rows, columns


def _sum_of_channels(output: Tensor, field: Field) -> Tensor:
    """Return the sum over images n of channel n (modulo their number) of the central unit."""
    for axis, position in zip(field.axes, central_unit(field), strict=True):
        assert axis.dim is not None
        output = output.narrow(axis.dim, position, 1)
    channels = output.flatten(1)
    chosen = torch.arange(len(channels), device=channels.device) % channels.shape[1]
    return channels.gather(1, chosen[:, None]).sum()
