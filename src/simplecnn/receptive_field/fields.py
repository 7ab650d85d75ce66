"""Receptive fields: which part of the image one unit of a layer sees.

Pairs are (vertical, horizontal), rows and columns count from 0 at the top left, and intervals
hold their first and their last member. Padding lies at negative numbers and from the image size
up. Formulas: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural
Networks", Distill 2019, doi 10.23915/distill.00021.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

import torch
from torch import nn

from simplecnn.receptive_field.footprint import Axis, Columns
from simplecnn.receptive_field.trace import trace

Interval = tuple[int, int]
Unit = int | tuple[int, int]


def receptive_field(layers: Sequence[tuple[int, int]]) -> int:
    """Width in pixels of what one unit sees through a chain of (kernel, stride) layers.

    r = 1 + sum over layers of (kernel - 1) x (product of all earlier strides). Padding does not
    enter.
    """
    _check_layers(layers)
    jumps = accumulate((stride for _, stride in layers), int.__mul__, initial=1)
    return 1 + sum((kernel - 1) * jump for (kernel, _), jump in zip(layers, jumps, strict=False))


@dataclass(frozen=True)
class Stack:
    """What a chain of layers sees and costs; one entry a layer where a tuple is given."""

    sizes: tuple[int, ...]  # receptive field in pixels
    strides: tuple[int, ...]  # pixels between neighbouring units
    num_pair_weights: int  # sum of kernel², for one input and one output channel
    num_parameters: int  # weights and biases with the real numbers of channels
    num_macs: int  # multiply-accumulates of the convolutions for one image
    profile: tuple[float, ...]  # weight of each input column with uniform kernels; sums to 1

    @property
    def sigma(self) -> float:
        """Standard deviation of the profile in pixels: the square root of the sum over layers
        of (kernel² - 1) / 12 x jump²."""
        centre = (len(self.profile) - 1) / 2
        return sum(w * (i - centre) ** 2 for i, w in enumerate(self.profile)) ** 0.5


def stack(
    layers: Sequence[tuple[int, int]],
    *,
    channels: Sequence[int | None],
    in_channels: int = 1,
    image_size: int = 28,
) -> Stack:
    """The field and the cost of a chain of (kernel, stride) layers.

    `channels` holds the output channels of each convolution and None for each pooling, which
    has no weights. Convolutions are padded by kernel // 2, poolings are not padded, and square
    images of `image_size` pixels come in.
    """
    _check_layers(layers)
    if len(channels) != len(layers):
        raise ValueError(
            f"channels has {len(channels)} entries for {len(layers)} layers: give one a layer, "
            "None for a pooling."
        )
    pairs = parameters = macs = 0
    width, size, jump = in_channels, image_size, 1
    profile = [1.0]
    strides: list[int] = []
    for (kernel, stride), out in zip(layers, channels, strict=True):
        padding = 0 if out is None else kernel // 2
        size = (size + 2 * padding - kernel) // stride + 1
        if size < 1:
            raise ValueError(f"nothing is left of {image_size} pixels after {len(strides)} layers.")
        if out is not None:
            pairs += kernel**2
            parameters += kernel**2 * width * out + out
            macs += kernel**2 * width * out * size**2
            width = out
        profile = _spread_profile(profile, kernel, jump)
        jump *= stride
        strides.append(jump)
    sizes = tuple(receptive_field(layers[: i + 1]) for i in range(len(layers)))
    return Stack(sizes, tuple(strides), pairs, parameters, macs, tuple(profile))


def _spread_profile(profile: list[float], kernel: int, jump: int) -> list[float]:
    """Convolves with `kernel` equal weights, `jump` columns apart."""
    wider = [0.0] * (len(profile) + (kernel - 1) * jump)
    for i, weight in enumerate(profile):
        for t in range(kernel):
            wider[i + t * jump] += weight / kernel
    return wider


def _check_layers(layers: Sequence[tuple[int, int]]) -> None:
    for i, layer in enumerate(layers):
        pair = tuple(layer) if isinstance(layer, list | tuple) else (layer,)
        if len(pair) != 2 or any(isinstance(n, bool) or not isinstance(n, int) for n in pair):
            raise ValueError(f"layer {i} is {layer!r}: give a pair of integers (kernel, stride).")
        if min(pair) < 1:
            raise ValueError(f"layer {i} is {layer!r}: kernel and stride must be 1 or more.")


@dataclass(frozen=True)
class Field:
    """What the units of one layer see of the image.

    A unit (i, j) is all channels at row i and column j of the layer's output: its field is the
    union over channels. `interval` counts padding as if the image went on; `used` gives the rows
    and columns that the unit really depends on.
    """

    axes: tuple[Axis, Axis]
    operations: frozenset[str]  # names of the torch operations between the image and the layer
    rectangular: bool  # False where a unit does not see all pixels in its rows and columns: a cross

    @property
    def units(self) -> tuple[int, int]:
        """How many rows and columns of units the layer has."""
        return len(self.axes[0].inside), len(self.axes[1].inside)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.axes[0].num_columns, self.axes[1].num_columns

    @property
    def size(self) -> tuple[int, int]:
        """Pixels from the first to the last one seen; of the largest unit where they differ."""
        return max(s.span for s in _sets(self.axes[0])), max(s.span for s in _sets(self.axes[1]))

    @property
    def num_used(self) -> tuple[int, int]:
        """Rows and columns used within `size`: fewer where dilation or stride leaves holes."""
        return max(s.count for s in _sets(self.axes[0])), max(s.count for s in _sets(self.axes[1]))

    @property
    def stride(self) -> tuple[int | Fraction | None, int | Fraction | None]:
        """Pixels between the fields of neighbouring units, also called jump. A mean where the
        steps differ; 0 where all units see the same; None where units lie on no grid."""
        return _stride(self.axes[0]), _stride(self.axes[1])

    @property
    def start(self) -> tuple[int, int]:
        """First row and column that unit (0, 0) sees; negative in the padding."""
        (top, _), (left, _) = self.interval(0)
        return top, left

    @property
    def padding(self) -> tuple[int, int]:
        """How far unit (0, 0) reaches into the padding: minus `start`."""
        return -self.start[0], -self.start[1]

    @property
    def whole(self) -> bool:
        """All units see the same: after flatten and linear, global pooling, attention."""
        return all(a.endless is None and len(set(a.inside)) == 1 for a in self.axes)

    @property
    def misaligned(self) -> bool:
        """Paths through branches that differ in stride or centre meet on the way here: the
        field's size or centre then changes from unit to unit."""
        return any(a.misaligned for a in self.axes)

    @property
    def bound(self) -> str:
        """Why the field may be smaller than given here; empty where it is exact."""
        return next((a.bound for a in self.axes if a.bound), "")

    @property
    def num_unread(self) -> tuple[int, int]:
        """Rows and columns of its input that the layer's last operation drops."""
        return self.axes[0].num_unread, self.axes[1].num_unread

    def interval(self, unit: Unit) -> tuple[Interval, Interval]:
        """First and last row, first and last column that the unit sees, padding included. They
        are (0, -1) for a unit that sees nothing. What circular padding or a roll brings from
        the other side counts as beyond the border."""
        i, j = self._position(unit)
        return _interval(self.axes[0], i), _interval(self.axes[1], j)

    def clipped(self, unit: Unit) -> tuple[Interval, Interval]:
        """The part of `interval` that lies in the image; last < first where none does."""
        intervals = self.interval(unit)
        clips = [
            (max(first, 0), min(last, n - 1))
            for (first, last), n in zip(intervals, self.image_size, strict=True)
        ]
        return clips[0], clips[1]

    def used(self, unit: Unit) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The rows and the columns of the image that the unit depends on."""
        i, j = self._position(unit)
        return tuple(self.axes[0].inside[i]), tuple(self.axes[1].inside[j])

    def _position(self, unit: Unit) -> tuple[int, int]:
        i, j = (unit, unit) if isinstance(unit, int) else unit
        rows, columns = self.units
        if not (0 <= i < rows and 0 <= j < columns):
            raise ValueError(f"unit is {unit}: the layer has {rows} x {columns} units from (0, 0).")
        return i, j


def _sets(axis: Axis) -> tuple[Columns, ...]:
    return axis.inside if axis.endless is None else axis.endless.sets


def _stride(axis: Axis) -> int | Fraction | None:
    if axis.endless is None:
        return 0 if len(set(axis.inside)) == 1 else None
    stride = axis.endless.stride
    return int(stride) if stride.denominator == 1 else stride


def _interval(axis: Axis, unit: int) -> Interval:
    columns = axis.inside[unit] if axis.endless is None else axis.endless.at(unit)
    return (columns.first, columns.last)


def receptive_fields(network: nn.Module, input_size: int | Sequence[int]) -> dict[str, Field]:
    """The field of every layer of a network, by module name, in the order of the calls.

    `input_size` is the image's side, (height, width) or (channels, height, width); without
    channels, the first convolution's are taken. The network runs once, in eval mode, on one
    blank image, and is left as it was. A module called again gets the name `pool_1`; a module
    with children has a field of its own where it works on after its last child (a residual
    block that adds), and the network's own name is `output`. Layers that do not depend on the
    image are left out.
    """
    image = blank_image(network, input_size)
    try:
        trails = trace(network, image)
    except RuntimeError as error:
        raise ValueError(
            f"the network does not run on one image of shape {tuple(image.shape)}: {error}"
        ) from error
    return {name: Field(t.axes, t.operations, t.rectangular) for name, t in trails.items()}


def blank_image(network: nn.Module, input_size: int | Sequence[int]) -> torch.Tensor:
    """One image of zeros (1, C, H, W) on the network's device, in its dtype."""
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) not in (2, 3) or any(not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(
            f"input_size is {input_size!r}: give the side, (height, width) or "
            "(channels, height, width) in positive integers."
        )
    parameters = list(network.parameters())
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters):
        raise ValueError("the network has lazy layers without weights: run one image first.")
    if len(size) == 2:
        first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
        size = (first.in_channels if first else 1, *size)
    like = next((p for p in parameters if p.is_floating_point()), torch.zeros(0))
    return torch.zeros(1, *size, dtype=like.dtype, device=like.device)
