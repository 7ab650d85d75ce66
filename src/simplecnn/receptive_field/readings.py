"""Which positions along one dimension the operations of torch read."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction


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

    def inside(self, unit: int) -> list[int]:
        if self.reads_inside is not None:
            return list(self.reads_inside(unit))
        return [i for i in self.reads(unit) if 0 <= i < self.num_in]


def window(
    num_in: int, num_out: int, *, kernel: int, stride: int, before: int, dilation: int
) -> Reading:
    """Convolution and pooling: unit u starts at u * stride - before."""

    def reads(unit: int) -> range:
        start = unit * stride - before
        return range(start, start + kernel * dilation, dilation)

    return Reading(num_in, num_out, reads, step_in=stride)


def adaptive(num_in: int, num_out: int) -> Reading:
    """Adaptive pooling: unit u reads floor(u n / m) up to, not including, ceil((u + 1) n / m)."""

    def reads(unit: int) -> range:
        return range(unit * num_in // num_out, -(-(unit + 1) * num_in // num_out))

    common = math.gcd(num_in, num_out)
    return Reading(num_in, num_out, reads, num_out // common, num_in // common)


def sliced(num_in: int, num_out: int, *, start: int, step: int = 1) -> Reading:
    """A slice: unit u reads start + u * step."""
    return Reading(num_in, num_out, lambda u: (start + u * step,), step_in=step)


def padded(num_in: int, num_out: int, *, before: int, mode: str) -> Reading:
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


def interpolated(num_in: int, num_out: int, *, mode: str, scale: Fraction) -> Reading:
    """Interpolation by `nearest`, `nearest-exact`, `linear` or `cubic`; `scale` is the number of
    input positions a step of the output. Neighbors of weight zero are not read."""

    def source(unit: int) -> Fraction:
        if mode == "nearest":
            return unit * scale
        center = (unit + Fraction(1, 2)) * scale
        return center if mode == "nearest-exact" else center - Fraction(1, 2)

    def around(position: Fraction) -> range:
        low = math.floor(position)
        if mode.startswith("nearest") or position == low:
            return range(low, low + 1)
        return range(low, low + 2) if mode == "linear" else range(low - 1, low + 3)

    def reads_inside(unit: int) -> list[int]:
        position = max(source(unit), Fraction(0)) if mode == "linear" else source(unit)
        return [min(max(i, 0), num_in - 1) for i in around(position)]

    steps = scale.denominator, scale.numerator
    return Reading(num_in, num_out, lambda u: around(source(u)), *steps, reads_inside)
