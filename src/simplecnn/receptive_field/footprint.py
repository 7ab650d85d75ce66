"""Footprints: which input columns each unit of a layer depends on, along one axis of the image.

Everything here is arithmetic on integers. Columns are numbered from 0 at the left (rows from 0
at the top); padding has negative numbers, or numbers from the image size up.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Columns:
    """A finite set of columns: bit i of `bits` stands for column `first + i`.

    Bit 0 is set unless the set is empty, so equal sets are equal objects.
    """

    first: int = 0
    bits: int = 0

    @property
    def last(self) -> int:
        return self.first + self.bits.bit_length() - 1

    @property
    def span(self) -> int:
        return self.bits.bit_length()

    @property
    def count(self) -> int:
        return self.bits.bit_count()

    def __bool__(self) -> bool:
        return self.bits != 0

    def __iter__(self) -> Iterator[int]:
        return (self.first + i for i in range(self.span) if self.bits >> i & 1)

    def __le__(self, other: "Columns") -> bool:
        """Subset."""
        return union((self, other)) == other

    def shifted(self, distance: int) -> "Columns":
        return Columns(self.first + distance, self.bits) if self.bits else self


def union(sets: Iterable[Columns]) -> Columns:
    members = [s for s in sets if s]
    if not members:
        return Columns()
    first = min(s.first for s in members)
    bits = 0
    for s in members:
        bits |= s.bits << (s.first - first)
    return Columns(first, bits)


@dataclass(frozen=True)
class Pattern:
    """The footprint of every unit of an endless layer: unit `u + period` sees what `u` sees,
    `jump` columns further. A chain of convolutions and poolings has period 1."""

    period: int
    jump: int
    sets: tuple[Columns, ...]

    @property
    def stride(self) -> Fraction:
        return Fraction(self.jump, self.period)

    def at(self, unit: int) -> Columns:
        cycle, phase = divmod(unit, self.period)
        return self.sets[phase].shifted(cycle * self.jump)


@dataclass(frozen=True)
class Reading:
    """Which positions of its input an operation reads to make one position of its output.

    `reads` knows no border. Unit `u + step_out` reads what `u` reads, `step_in` further. At the
    border, positions outside the input are dropped, unless `reads_inside` says otherwise.
    """

    num_in: int
    num_out: int
    reads: Callable[[int], Iterable[int]]
    step_out: int = 1
    step_in: int = 1
    reads_inside: Callable[[int], Iterable[int]] | None = None

    def inside(self, unit: int) -> Iterable[int]:
        if self.reads_inside is not None:
            return self.reads_inside(unit)
        return (i for i in self.reads(unit) if 0 <= i < self.num_in)

    @property
    def num_unread(self) -> int:
        """Input positions that no output position reads: a floor or a stride drops them."""
        return self.num_in - len({i for u in range(self.num_out) for i in self.inside(u)})


@dataclass(frozen=True)
class Axis:
    """The units of one tensor along one axis of the image, and what each of them depends on.

    Position x of tensor dimension `dim` (negative, from the last) belongs to unit
    `x // inner % len(inside)`; with `dim=None` all elements share one footprint. A unit is all
    elements at its position: a footprint is the union over channels.

    `inside` holds the image columns that each unit depends on; `endless` the same as if the
    image went on for ever, or None where units no longer lie on a regular grid. `bound` says
    why a footprint may be too large, and is empty where it is exact. `num_unread` counts the
    positions that the last operation left unread.
    """

    num_columns: int
    inside: tuple[Columns, ...]
    endless: Pattern | None
    dim: int | None
    inner: int = 1
    misaligned: bool = False
    bound: str = ""
    num_unread: int = 0


def image_axis(dim: int, num_columns: int) -> Axis:
    """The input itself: every column sees itself."""
    columns = tuple(Columns(i, 1) for i in range(num_columns))
    return Axis(num_columns, columns, Pattern(1, 1, (Columns(0, 1),)), dim)


def read(axis: Axis, reading: Reading) -> Axis:
    """What the units of the operation's output depend on; `axis` has one position a unit."""
    endless = axis.endless and _read_endless(axis.endless, reading)
    inside = tuple(union(axis.inside[i] for i in reading.inside(u)) for u in range(reading.num_out))
    return replace(axis, inside=inside, endless=endless, num_unread=reading.num_unread)


def _read_endless(pattern: Pattern, reading: Reading) -> Pattern:
    cycles = pattern.period // math.gcd(pattern.period, reading.step_in)
    return Pattern(
        cycles * reading.step_out,
        pattern.jump * (cycles * reading.step_in) // pattern.period,
        tuple(
            union(pattern.at(i) for i in reading.reads(unit))
            for unit in range(cycles * reading.step_out)
        ),
    )


def uniform(axis: Axis, columns: Columns, bound: str = "") -> Axis:
    """All elements depend on the same columns."""
    return replace(
        axis, inside=(columns,), endless=None, dim=None, inner=1, bound=axis.bound or bound
    )


def mixed(axis: Axis, bound: str = "") -> Axis:
    """Every element depends on all that any element depended on."""
    return uniform(axis, union(axis.inside), bound)


def spread(axis: Axis, num_positions: int) -> Axis:
    """The same axis with one unit a position of its dimension."""
    num_units = len(axis.inside)
    if num_units == num_positions:
        return axis
    if num_units * axis.inner == num_positions:  # each unit stands `inner` times side by side
        repeat = Reading(num_units, num_positions, lambda u: (u // axis.inner,), axis.inner)
        return replace(read(axis, repeat), inner=1)
    inside = tuple(axis.inside[x // axis.inner % num_units] for x in range(num_positions))
    return replace(axis, inside=inside, endless=None, inner=1)


def joined(axes: Sequence[Axis], sizes: Sequence[int | None], num_positions: int) -> Axis:
    """The footprint of an elementwise operation on several tensors, or of their concatenation
    along another dimension. `sizes` holds the length of each axis' own dimension, None where it
    has none, and `num_positions` the length of that dimension in the result."""
    dims = {a.dim for a in axes if a.dim is not None}
    if len(dims) > 1:
        reason = "an operation combines one image axis lying in two dimensions"
        axes = [mixed(a, reason) for a in axes]
    laid = [
        # a single position is stretched over all others
        uniform(axis, axis.inside[0]) if size == 1 and num_positions > 1 else axis
        for axis, size in zip(axes, sizes, strict=True)
    ]
    if len({(a.dim, a.inner, len(a.inside)) for a in laid if a.dim is not None}) > 1:
        laid = [a if a.dim is None else spread(a, num_positions) for a in laid]
    result = laid[0]
    for other in laid[1:]:
        result = _joined_pair(result, other)
    return result


def _joined_pair(a: Axis, b: Axis) -> Axis:
    if a.dim is None:
        a, b = b, a
    bound = a.bound or b.bound
    misaligned = a.misaligned or b.misaligned
    endless = None
    if b.dim is None:
        inside = tuple(union((s, b.inside[0])) for s in a.inside)
    else:
        inside = tuple(union(pair) for pair in zip(a.inside, b.inside, strict=True))
        if a.endless is not None and b.endless is not None:
            endless, aligned = _joined_patterns(a.endless, b.endless, len(inside))
            misaligned = misaligned or not aligned
    return replace(a, inside=inside, endless=endless, misaligned=misaligned, bound=bound)


def _joined_patterns(a: Pattern, b: Pattern, num_units: int) -> tuple[Pattern, bool]:
    """The union, and whether the two agree: same stride, and same centre for every unit."""
    same_stride = a.stride == b.stride
    if same_stride:
        period, jump = math.lcm(a.period, b.period), int(a.stride * math.lcm(a.period, b.period))
    else:  # the paths drift apart from unit to unit: no cycle shorter than the layer
        period = num_units
        jump = round(max(a.stride, b.stride) * num_units)
    pairs = [(a.at(u), b.at(u)) for u in range(period)]
    aligned = same_stride and all(x.first + x.last == y.first + y.last for x, y in pairs if x and y)
    return Pattern(period, jump, tuple(union(pair) for pair in pairs)), aligned


def covers(a: Axis, b: Axis) -> bool:
    """Whether every unit of `a` sees all that the unit of `b` at its place sees; False also where
    their units do not correspond."""
    positions = max(len(a.inside) * a.inner, len(b.inside) * b.inner)
    a, b = (spread(x, positions) if len(x.inside) * x.inner == positions else x for x in (a, b))
    if len(a.inside) == len(b.inside):
        return all(y <= x for x, y in zip(a.inside, b.inside, strict=True))
    if a.dim is None or b.dim is None:
        return all(y <= x for x in a.inside for y in b.inside)
    return False


def window(
    num_in: int, num_out: int, *, kernel: int, stride: int, before: int, dilation: int
) -> Reading:
    """Convolution and pooling: unit u starts at u * stride - before."""

    def reads(unit: int) -> range:
        start = unit * stride - before
        return range(start, start + kernel * dilation, dilation)

    return Reading(num_in, num_out, reads, step_in=stride)


def transposed(
    num_in: int, num_out: int, *, kernel: int, stride: int, before: int, dilation: int
) -> Reading:
    """Transposed convolution: the units i with i * stride - before + t * dilation = unit."""

    def reads(unit: int) -> list[int]:
        offsets = (unit + before - t * dilation for t in range(kernel))
        return [offset // stride for offset in offsets if offset % stride == 0]

    return Reading(num_in, num_out, reads, step_out=stride)


def adaptive(num_in: int, num_out: int) -> Reading:
    """Adaptive pooling: unit u reads floor(u n / m) up to, not including, ceil((u + 1) n / m)."""

    def reads(unit: int) -> range:
        return range(unit * num_in // num_out, -(-(unit + 1) * num_in // num_out))

    common = math.gcd(num_in, num_out)
    return Reading(num_in, num_out, reads, num_out // common, num_in // common)


def moved(num_in: int, num_out: int, *, start: int, step: int = 1) -> Reading:
    """A slice, or constant padding with a negative start: unit u reads start + u * step."""
    return Reading(num_in, num_out, lambda u: (start + u * step,), step_in=step)


def bordered(num_in: int, num_out: int, *, before: int, mode: str) -> Reading:
    """Padding by `constant`, `reflect`, `replicate` or `circular`, as torch does it."""

    def reads_inside(unit: int) -> tuple[int, ...]:
        i = unit - before
        if mode == "constant":
            return (i,) if 0 <= i < num_in else ()
        if mode == "reflect":
            i = abs(i)
            return (i if i < num_in else 2 * (num_in - 1) - i,)
        if mode == "replicate":
            return (min(max(i, 0), num_in - 1),)
        return (i % num_in,)

    return Reading(num_in, num_out, lambda u: (u - before,), reads_inside=reads_inside)


def resampled(
    num_in: int, num_out: int, *, mode: str, scale: Fraction, align_corners: bool = False
) -> Reading:
    """Interpolation by `nearest`, `nearest-exact`, `linear` or `cubic`; `scale` is the number of
    input positions a step of the output. Neighbours of weight zero are not read."""

    def source(unit: int) -> Fraction:
        if mode == "nearest" or (align_corners and mode in ("linear", "cubic")):
            return unit * scale
        centre = (unit + Fraction(1, 2)) * scale
        return centre if mode == "nearest-exact" else centre - Fraction(1, 2)

    def around(position: Fraction) -> range:
        low = math.floor(position)
        if mode.startswith("nearest") or position == low:
            return range(low, low + 1)
        return range(low, low + 2) if mode == "linear" else range(low - 1, low + 3)

    def reads_inside(unit: int) -> list[int]:
        position = source(unit)
        if mode == "linear":
            position = max(position, Fraction(0))
        return [min(max(i, 0), num_in - 1) for i in around(position)]

    return Reading(
        num_in,
        num_out,
        lambda u: around(source(u)),
        scale.denominator,
        scale.numerator,
        reads_inside,
    )
