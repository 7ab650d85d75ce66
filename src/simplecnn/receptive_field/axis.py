"""One image axis of a tensor: which pixels of the image each unit along it sees.

Rows count from 0 at the top, columns from 0 at the left. Padding has negative numbers, or numbers
from the image size up.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from simplecnn.receptive_field.readings import Reading

Interval = tuple[int, int]  # the first and the last pixel
NOTHING: Interval = (0, -1)


def hull(intervals: Iterable[Interval]) -> Interval:
    """The smallest interval that contains all the given ones; (0, -1) where all are empty."""
    seen = [interval for interval in intervals if interval != NOTHING]
    return (min(a for a, _ in seen), max(b for _, b in seen)) if seen else NOTHING


def ends(used: NDArray[np.bool_]) -> Interval:
    """The first and the last marked pixel; (0, -1) where none is marked."""
    pixels = used.nonzero()[0].tolist()
    return (pixels[0], pixels[-1]) if pixels else NOTHING


@dataclass(frozen=True)
class Pattern:
    """The interval of every unit as if image and layers had no border.

    Unit `u + period` sees what unit `u` sees, `jump` pixels further. A chain of convolutions and
    poolings has period 1.
    """

    period: int
    jump: int
    intervals: tuple[Interval, ...]

    @property
    def stride(self) -> Fraction:
        """Pixels from one unit to the next, on average."""
        return Fraction(self.jump, self.period)

    def at(self, unit: int) -> Interval:
        cycle, phase = divmod(unit, self.period)
        first, last = self.intervals[phase]
        return (first + cycle * self.jump, last + cycle * self.jump) if first <= last else NOTHING


@dataclass(frozen=True, eq=False)
class Axis:
    """The units of one tensor along one axis of the image, and the pixels that each depends on.

    Position x of tensor dimension `dim` (negative, from the last) belongs to unit
    `x // inner % len(used)`; with `dim=None` all elements share one unit. A unit is all elements
    at its position: what it sees is the union over channels.

    `used` (units, pixels) marks the pixels of the image that each unit depends on, `cut` (units,)
    the units that a border keeps from seeing all that `pattern` says; `pattern` is None where
    units lie on no regular grid. `bound` says why `used` may be too large, and is empty where it
    is exact. `num_unread` counts the positions that the last operation left unread: a floor or a
    stride drops them.
    """

    used: NDArray[np.bool_]
    cut: NDArray[np.bool_]
    pattern: Pattern | None
    dim: int | None
    inner: int = 1
    misaligned: bool = False
    bound: str = ""
    num_unread: int = 0

    @property
    def size(self) -> int:
        """Pixels from the first to the last one seen, padding included; of the largest unit."""
        num_units = len(self.used) if self.pattern is None else self.pattern.period
        return max(last - first + 1 for first, last in map(self.interval, range(num_units)))

    @property
    def stride(self) -> int | Fraction | None:
        """Pixels from unit to unit, on average; 0 if all see the same, None without a grid."""
        if self.pattern is None:
            return 0 if self.is_uniform else None
        stride = self.pattern.stride
        return int(stride) if stride.denominator == 1 else stride

    @property
    def is_uniform(self) -> bool:
        """Whether all units depend on the same pixels."""
        return bool((self.used == self.used[0]).all())

    def interval(self, unit: int) -> Interval:
        """The first and the last pixel that a unit sees, as if the image had no border."""
        return self.clipped(unit) if self.pattern is None else self.pattern.at(unit)

    def clipped(self, unit: int) -> Interval:
        """The first and the last pixel of the image that a unit depends on."""
        return ends(self.used[unit])

    def equals(self, other: "Axis") -> bool:
        layout = (self.pattern, self.dim, self.inner)
        same_layout = layout == (other.pattern, other.dim, other.inner)
        return same_layout and np.array_equal(self.used, other.used)


def image_axis(dim: int, num_pixels: int) -> Axis:
    """The image itself: every pixel sees itself."""
    nowhere = np.zeros(num_pixels, dtype=bool)
    return Axis(np.eye(num_pixels, dtype=bool), nowhere, Pattern(1, 1, ((0, 0),)), dim)


def read(axis: Axis, reading: Reading) -> Axis:
    """What the units of an operation's output depend on; `axis` has one position a unit."""
    inside = [reading.inside(u) for u in range(reading.num_out)]
    cut = [axis.cut[i].any() or i != list(reading.reads(u)) for u, i in enumerate(inside)]
    return replace(
        axis,
        used=np.array([axis.used[i].any(0) for i in inside]),
        cut=np.array(cut),
        pattern=axis.pattern and _read_pattern(axis.pattern, reading),
        num_unread=reading.num_in - len(set().union(*inside)),
    )


def _read_pattern(pattern: Pattern, reading: Reading) -> Pattern:
    cycles = pattern.period // math.gcd(pattern.period, reading.step_in)
    period = cycles * reading.step_out
    jump = pattern.jump * (cycles * reading.step_in) // pattern.period
    units = range(period)
    return Pattern(
        period, jump, tuple(hull(pattern.at(i) for i in reading.reads(u)) for u in units)
    )


def uniform(axis: Axis, used: NDArray[np.bool_], bound: str = "") -> Axis:
    """All elements depend on the same pixels (pixels,)."""
    return Axis(used[None], np.array([True]), None, None, 1, axis.misaligned, axis.bound or bound)


def mixed(axis: Axis, bound: str = "") -> Axis:
    """Every element depends on all that any element depended on."""
    return uniform(axis, axis.used.max(axis=0), bound)


def spread(axis: Axis, num_positions: int) -> Axis:
    """The same axis with one unit a position of its dimension."""
    num_units = len(axis.used)
    if num_units == num_positions:
        return axis
    if num_units * axis.inner == num_positions:  # each unit stands `inner` times side by side
        repeat = Reading(num_units, num_positions, lambda u: (u // axis.inner,), axis.inner)
        return replace(read(axis, repeat), inner=1)
    units = np.arange(num_positions) // axis.inner % num_units
    return replace(axis, used=axis.used[units], cut=axis.cut[units], pattern=None, inner=1)


def joined(axes: Sequence[Axis], sizes: Sequence[int | None], num_positions: int) -> Axis:
    """What an elementwise operation on several tensors sees, or their concatenation along another
    dimension. `sizes` holds the length of each axis' own dimension, None where it has none, and
    `num_positions` the length of that dimension in the result."""
    if len({a.dim for a in axes if a.dim is not None}) > 1:
        reason = "an operation combines one image axis lying in two dimensions"
        axes = [mixed(a, reason) for a in axes]
    axes = [
        # a single position is broadcast to all others
        uniform(axis, axis.used[0]) if size == 1 and num_positions > 1 else axis
        for axis, size in zip(axes, sizes, strict=True)
    ]
    if len({(a.inner, len(a.used)) for a in axes if a.dim is not None}) > 1:
        axes = [a if a.dim is None else spread(a, num_positions) for a in axes]
    result = axes[0]
    for other in axes[1:]:
        result = _joined_pair(result, other)
    return result


def _joined_pair(a: Axis, b: Axis) -> Axis:
    if a.dim is None:
        a, b = b, a
    pattern, misaligned = None, a.misaligned or b.misaligned
    if a.pattern is not None and b.pattern is not None:
        pattern, aligned = _joined_patterns(a.pattern, b.pattern, len(a.used))
        misaligned = misaligned or not aligned
    return replace(
        a,
        used=a.used | b.used,
        cut=a.cut | b.cut,
        pattern=pattern,
        misaligned=misaligned,
        bound=a.bound or b.bound,
    )


def _joined_patterns(a: Pattern, b: Pattern, num_units: int) -> tuple[Pattern, bool]:
    """The union, and whether the two agree: same stride, and same center for every unit."""
    period = math.lcm(a.period, b.period)
    jump = a.jump * (period // a.period)
    if a.stride != b.stride:  # the paths drift apart from unit to unit
        period, jump = num_units, round(max(a.stride, b.stride) * num_units)
    pairs = [(a.at(u), b.at(u)) for u in range(period)]
    centered = all(sum(x) == sum(y) for x, y in pairs if NOTHING not in (x, y))
    pattern = Pattern(period, jump, tuple(map(hull, pairs)))
    return pattern, centered and a.stride == b.stride


def covers(a: Axis, b: Axis) -> bool:
    """Whether every unit of `a` sees all that the unit of `b` at its place sees; False also where
    their units do not correspond."""
    lengths = {len(a.used), len(b.used)}
    return (len(lengths) == 1 or 1 in lengths) and bool((b.used <= a.used).all())
