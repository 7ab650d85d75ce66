"""Receptive fields along one image axis of a tensor.

Rows count from 0 at the top, columns from 0 at the left. Padding has negative indices and indices
from the image size up.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Interval = tuple[int, int]  # the first and the last pixel, both included
EMPTY: Interval = (0, -1)

# Padding modes of `torch.nn.functional.pad`: map position i, also outside of an input of length n,
# to the position that is read there. "constant" reads nothing outside.
BORDERS: dict[str, Callable[[int, int], int]] = {
    "constant": lambda i, n: i,
    "reflect": lambda i, n: n - 1 - abs(n - 1 - abs(i)),
    "replicate": lambda i, n: min(max(i, 0), n - 1),
    "circular": lambda i, n: i % n,
}


def hull(intervals: Iterable[Interval]) -> Interval:
    """Return the smallest interval that contains all given ones; (0, -1) if all are empty."""
    nonempty = [interval for interval in intervals if interval != EMPTY]
    return (min(a for a, _ in nonempty), max(b for _, b in nonempty)) if nonempty else EMPTY


def ends(used: NDArray[np.bool_]) -> Interval:
    """Return the first and the last True index of a mask (pixels,); (0, -1) if there is none."""
    pixels = used.nonzero()[0].tolist()
    return (pixels[0], pixels[-1]) if pixels else EMPTY


@dataclass(frozen=True)
class Reading:
    """Input positions that an operation reads for each of its output positions.

    `reads` maps an output position to input positions, as if the input had no border; it may return
    positions outside of the input.
    """

    num_in: int
    num_out: int
    reads: Callable[[int], Iterable[int]]
    step: int | Fraction = 1  # input positions per output position, on average
    border: str = "constant"  # key of BORDERS: what is read outside of the input

    def inside(self, unit: int) -> list[int]:
        """Return the positions that are read, after mapping those outside into the input."""
        positions = (BORDERS[self.border](i, self.num_in) for i in self.reads(unit))
        return [i for i in positions if 0 <= i < self.num_in]


@dataclass(frozen=True)
class Pattern:
    """Receptive fields as intervals, as if image and layers had no border.

    They are periodic: the interval of unit `u + period` is that of unit `u`, shifted by `jump`
    pixels. A chain of convolutions and poolings has period 1.
    """

    jump: int
    intervals: tuple[Interval, ...]

    @property
    def period(self) -> int:
        return len(self.intervals)

    def at(self, unit: int) -> Interval:
        cycle, phase = divmod(unit, self.period)
        first, last = self.intervals[phase]
        return (first + cycle * self.jump, last + cycle * self.jump) if first <= last else EMPTY

    def read(self, reading: Reading) -> "Pattern":
        """Return the pattern of an operation's output."""
        step = reading.step
        cycles = self.period // math.gcd(self.period, step.numerator)
        jump = self.jump * (cycles * step.numerator) // self.period
        units = range(cycles * step.denominator)
        return Pattern(jump, tuple(hull(map(self.at, reading.reads(u))) for u in units))


@dataclass(frozen=True, eq=False)
class Axis:
    """The units of one tensor along one image axis, and the pixels that each depends on.

    Position x of tensor dimension `dim` belongs to unit `x // inner % len(used)`. A unit comprises
    all elements at its position: its receptive field is the union over channels.
    """

    used: NDArray[np.bool_]  # (units, pixels): whether a unit depends on a pixel
    cut: NDArray[np.bool_]  # (units,): whether a border cuts off part of the interval of `pattern`
    pattern: Pattern | None  # None if units lie on no regular grid
    dim: int | None  # negative, counted from the last; None if all elements share one unit
    inner: int = 1
    misaligned: bool = False  # whether branches that differ in stride or center were joined
    bound: str = ""  # why `used` is only an upper bound; empty if it is exact
    num_unread: int = 0  # input positions that the last operation drops, by a floor or a stride

    @property
    def size(self) -> int:
        """Size in pixels, padding included, of the unit with the largest field."""
        num_units = len(self.used) if self.pattern is None else self.pattern.period
        return max(last - first + 1 for first, last in map(self.interval, range(num_units)))

    @property
    def stride(self) -> int | Fraction | None:
        """Pixels between neighboring units, on average; 0 if all have the same field, None without
        a grid."""
        if self.pattern is None:
            return 0 if self.is_uniform else None
        stride = Fraction(self.pattern.jump, self.pattern.period)
        return int(stride) if stride.denominator == 1 else stride

    @property
    def is_uniform(self) -> bool:
        """Whether all units depend on the same pixels."""
        return bool((self.used == self.used[0]).all())

    def interval(self, unit: int) -> Interval:
        """Return the first and the last pixel of a unit's field, as if the image had no border."""
        return ends(self.used[unit]) if self.pattern is None else self.pattern.at(unit)

    def covers(self, other: "Axis") -> bool:
        """Return whether every unit depends on all pixels that the corresponding unit of `other`
        depends on; False if the units do not correspond."""
        lengths = {len(self.used), len(other.used)}
        return (len(lengths) == 1 or 1 in lengths) and bool((other.used <= self.used).all())


def image_axis(dim: int, num_pixels: int) -> Axis:
    """Return an axis of the image itself: every pixel depends on itself."""
    cut = np.zeros(num_pixels, dtype=bool)
    return Axis(np.eye(num_pixels, dtype=bool), cut, Pattern(1, ((0, 0),)), dim)


def read(axis: Axis, reading: Reading) -> Axis:
    """Return the axis of an operation's output."""
    axis = spread(axis, reading.num_in)
    inside = [reading.inside(u) for u in range(reading.num_out)]
    cut = [axis.cut[i].any() or i != list(reading.reads(u)) for u, i in enumerate(inside)]
    return replace(
        axis,
        used=np.array([axis.used[i].any(0) for i in inside]),
        cut=np.array(cut),
        pattern=axis.pattern and axis.pattern.read(reading),
        num_unread=reading.num_in - len(set().union(*inside)),
    )


def mixed(axis: Axis, bound: str = "") -> Axis:
    """Return an axis with one unit that depends on all pixels that any unit depends on.

    `bound` is the reason if this is an upper bound.
    """
    used = axis.used.max(axis=0, keepdims=True)
    return Axis(used, np.array([True]), None, None, 1, axis.misaligned, axis.bound or bound)


def spread(axis: Axis, num_positions: int) -> Axis:
    """Return the same axis with one unit for each position of its dimension."""
    if len(axis.used) == num_positions:
        return axis
    units = np.arange(num_positions) // axis.inner % len(axis.used)
    return replace(axis, used=axis.used[units], cut=axis.cut[units], pattern=None, inner=1)


def joined(a: Axis, b: Axis) -> Axis:
    """Return the union of two axes whose units correspond, or one of which has a single unit."""
    pattern, aligned = None, True
    if a.pattern is not None and b.pattern is not None:
        pattern, aligned = _joined_patterns(a.pattern, b.pattern, len(a.used))
    return replace(
        b if a.dim is None else a,
        used=a.used | b.used,
        cut=a.cut | b.cut,
        pattern=pattern,
        misaligned=a.misaligned or b.misaligned or not aligned,
        bound=a.bound or b.bound,
    )


def _joined_patterns(a: Pattern, b: Pattern, num_units: int) -> tuple[Pattern, bool]:
    """Return the union, and whether both patterns have the same stride and the same centers."""
    period = math.lcm(a.period, b.period)
    jump_a, jump_b = a.jump * (period // a.period), b.jump * (period // b.period)
    same_stride, jump = jump_a == jump_b, max(jump_a, jump_b)
    if not same_stride:  # the distance between the two fields changes from unit to unit
        period, jump = num_units, round(Fraction(jump, period) * num_units)
    pairs = [(a.at(u), b.at(u)) for u in range(period)]
    same_centers = all(sum(x) == sum(y) for x, y in pairs if EMPTY not in (x, y))
    return Pattern(jump, tuple(map(hull, pairs))), same_stride and same_centers
