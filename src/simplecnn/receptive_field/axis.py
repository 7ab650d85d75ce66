"""One image axis of a tensor: which pixels of the image each unit along it sees.

Rows count from 0 at the top, columns from 0 at the left. Padding has negative numbers, or numbers
from the image size up.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Interval = tuple[int, int]  # the first and the last pixel
NOTHING: Interval = (0, -1)

# Which position of an input of length n stands at position i, outside of it too; "constant" has
# nothing there. The words of `torch.nn.functional.pad`.
BORDERS: dict[str, Callable[[int, int], int]] = {
    "constant": lambda i, n: i,
    "reflect": lambda i, n: n - 1 - abs(n - 1 - abs(i)),
    "replicate": lambda i, n: min(max(i, 0), n - 1),
    "circular": lambda i, n: i % n,
}


def hull(intervals: Iterable[Interval]) -> Interval:
    """The smallest interval that contains all the given ones; (0, -1) where all are empty."""
    seen = [interval for interval in intervals if interval != NOTHING]
    return (min(a for a, _ in seen), max(b for _, b in seen)) if seen else NOTHING


def ends(used: NDArray[np.bool_]) -> Interval:
    """The first and the last marked pixel; (0, -1) where none is marked."""
    pixels = used.nonzero()[0].tolist()
    return (pixels[0], pixels[-1]) if pixels else NOTHING


@dataclass(frozen=True)
class Reading:
    """Which of `num_in` positions an operation reads to make each of `num_out`.

    `reads` knows no border: one unit further it reads `step` positions further, on average. What
    stands outside of the input, `border` says.
    """

    num_in: int
    num_out: int
    reads: Callable[[int], Iterable[int]]
    step: int | Fraction = 1
    border: str = "constant"

    def inside(self, unit: int) -> list[int]:
        """The positions of the input that are read."""
        places = (BORDERS[self.border](i, self.num_in) for i in self.reads(unit))
        return [i for i in places if 0 <= i < self.num_in]


@dataclass(frozen=True)
class Pattern:
    """The intervals of units as if image and layers had no border.

    Unit `u + period` sees what unit `u` sees, `jump` pixels further. A chain of convolutions and
    poolings has period 1.
    """

    jump: int
    intervals: tuple[Interval, ...]

    @property
    def period(self) -> int:
        return len(self.intervals)

    def at(self, unit: int) -> Interval:
        cycle, phase = divmod(unit, self.period)
        first, last = self.intervals[phase]
        return (first + cycle * self.jump, last + cycle * self.jump) if first <= last else NOTHING

    def read(self, reading: Reading) -> "Pattern":
        step = reading.step
        cycles = self.period // math.gcd(self.period, step.numerator)
        jump = self.jump * (cycles * step.numerator) // self.period
        units = range(cycles * step.denominator)
        return Pattern(jump, tuple(hull(map(self.at, reading.reads(u))) for u in units))


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
        stride = Fraction(self.pattern.jump, self.pattern.period)
        return int(stride) if stride.denominator == 1 else stride

    @property
    def is_uniform(self) -> bool:
        """Whether all units depend on the same pixels."""
        return bool((self.used == self.used[0]).all())

    def interval(self, unit: int) -> Interval:
        """The first and the last pixel that a unit sees, as if the image had no border."""
        return ends(self.used[unit]) if self.pattern is None else self.pattern.at(unit)

    def covers(self, other: "Axis") -> bool:
        """Whether every unit sees all that the other's at its place sees; False also where their
        units do not correspond."""
        lengths = {len(self.used), len(other.used)}
        return (len(lengths) == 1 or 1 in lengths) and bool((other.used <= self.used).all())


def image_axis(dim: int, num_pixels: int) -> Axis:
    """The image itself: every pixel sees itself."""
    nowhere = np.zeros(num_pixels, dtype=bool)
    return Axis(np.eye(num_pixels, dtype=bool), nowhere, Pattern(1, ((0, 0),)), dim)


def read(axis: Axis, reading: Reading) -> Axis:
    """What the units of an operation's output depend on."""
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
    """Every element depends on all that any element depended on."""
    used = axis.used.max(axis=0, keepdims=True)
    return Axis(used, np.array([True]), None, None, 1, axis.misaligned, axis.bound or bound)


def spread(axis: Axis, num_positions: int) -> Axis:
    """The same axis with one unit a position of its dimension."""
    if len(axis.used) == num_positions:
        return axis
    units = np.arange(num_positions) // axis.inner % len(axis.used)
    return replace(axis, used=axis.used[units], cut=axis.cut[units], pattern=None, inner=1)


def joined(a: Axis, b: Axis) -> Axis:
    """The union of two axes whose units lie on one another, or of which one has a single unit."""
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
    """The union, and whether the two agree: same stride, and same center for every unit."""
    period = math.lcm(a.period, b.period)
    jump, other = a.jump * (period // a.period), b.jump * (period // b.period)
    same_stride = jump == other
    if not same_stride:  # the paths drift apart from unit to unit
        period, jump = num_units, round(Fraction(max(jump, other), period) * num_units)
    pairs = [(a.at(u), b.at(u)) for u in range(period)]
    centered = all(sum(x) == sum(y) for x, y in pairs if NOTHING not in (x, y))
    return Pattern(jump, tuple(map(hull, pairs))), same_stride and centered
