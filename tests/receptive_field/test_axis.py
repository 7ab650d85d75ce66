"""How operations carry what a unit sees, against plain Python sets."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplecnn.receptive_field.axis import (
    NOTHING,
    Axis,
    Reading,
    hull,
    image_axis,
    joined,
    mixed,
    read,
    spread,
)


def window(num_in: int, num_out: int, kernel: int, stride: int = 1, before: int = 0) -> Reading:
    return Reading(
        num_in, num_out, lambda u: range(u * stride - before, u * stride - before + kernel), stride
    )


def used(axis: Axis) -> list[list[int]]:
    """By unit."""
    return [row.nonzero()[0].tolist() for row in axis.used]


def ends(pixels: set[int]) -> tuple[int, int]:
    return (min(pixels), max(pixels)) if pixels else NOTHING


def test_the_hull_of_intervals():
    assert hull([(3, 5), (-2, 0), NOTHING]) == (-2, 5)
    assert hull([NOTHING]) == NOTHING == hull([])


@st.composite
def readings(draw, num_in: int):
    """Windows of any step, whole or not; a slice and a padding are windows of one position."""
    num_out, kernel, before = (draw(st.integers(*e)) for e in ((1, 9), (1, 4), (-3, 3)))
    dilation = draw(st.integers(1, 3))
    step = draw(st.sampled_from([1, 2, 3, Fraction(1, 2), Fraction(num_in, num_out)]))

    def reads(unit: int) -> list[int]:
        return [int(unit * step // 1) - before + k * dilation for k in range(kernel)]

    return Reading(num_in, num_out, reads, step)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_chains_of_any_operations_equal_sets_of_pixels(data):
    num_pixels = data.draw(st.integers(1, 9))
    axis = image_axis(-1, num_pixels)
    endless = [lambda u: {u}]  # by layer: what a unit sees of an endless image
    inside = {u: {u} for u in range(num_pixels)}
    for _ in range(data.draw(st.integers(1, 4))):
        reading = data.draw(readings(len(axis.used)))
        axis = read(axis, reading)
        below = endless[-1]
        endless.append(
            lambda u, below=below, reads=reading.reads: set().union(*(below(i) for i in reads(u)))
        )
        inside = {
            u: set().union(*(inside[i] for i in reading.reads(u) if i in inside))
            for u in range(reading.num_out)
        }
    assert [set(s) for s in used(axis)] == [inside[u] for u in range(len(axis.used))]
    for unit in range(-7, 12):  # in the padding of the next layer, too
        assert axis.pattern.at(unit) == ends(endless[-1](unit))
    for unit, cut in enumerate(axis.cut):
        assert cut or ends(inside[unit]) == axis.pattern.at(unit)


def test_a_floor_leaves_positions_unread():
    assert read(image_axis(-1, 7), window(7, 3, kernel=2, stride=2)).num_unread == 1
    assert read(image_axis(-1, 6), window(6, 3, kernel=2, stride=2)).num_unread == 0


@pytest.mark.parametrize(
    ("border", "expected"),
    [
        ("constant", [[], [], [0], [1], [2], [], []]),
        ("reflect", [[2], [1], [0], [1], [2], [1], [0]]),
        ("replicate", [[0], [0], [0], [1], [2], [2], [2]]),
        ("circular", [[1], [2], [0], [1], [2], [0], [1]]),
    ],
)
def test_padding_reads_inside_by_its_mode_and_endless_by_distance(border, expected):
    axis = read(image_axis(-1, 3), Reading(3, 7, lambda u: [u - 2], border=border))
    assert used(axis) == expected
    assert axis.pattern.at(0) == (-2, -2) and axis.stride == 1
    assert axis.cut.tolist() == [True, True, False, False, False, True, True]


def test_joining_paths_reports_what_does_not_align():
    axis = image_axis(-1, 8)
    three = read(axis, window(8, 8, kernel=3, before=1))
    both = joined(three, axis)
    assert [both.pattern.at(u) for u in (0, 1)] == [(-1, 1), (0, 2)]
    assert not both.misaligned
    two = read(axis, window(8, 8, kernel=2, before=1))
    flagged = joined(two, axis)
    assert flagged.misaligned
    # a flag once set stays
    assert joined(flagged, flagged).misaligned
    assert read(flagged, window(8, 4, kernel=1)).misaligned


def test_paths_of_different_stride_drift_apart():
    """Distill's remark: the size of the field then depends on the unit."""
    axis = image_axis(-1, 12)
    slow = read(axis, window(12, 6, kernel=3))
    fast = read(axis, window(12, 6, kernel=2, stride=2))
    both = joined(slow, fast)
    assert both.misaligned and both.stride == 2
    assert [both.pattern.at(u) for u in range(6)] == [
        (0, 2), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)
    ]  # fmt: skip
    assert [set(s) for s in used(both)] == [
        {u, u + 1, u + 2} | {2 * u, 2 * u + 1} for u in range(6)
    ]


def test_units_of_a_flattened_image_are_spread():
    over = spread(image_axis(-1, 3), num_positions=6)  # channels times positions, channels outside
    assert used(over) == [[0], [1], [2]] * 2
    assert over.pattern is None


def test_after_mixing_every_unit_sees_everything():
    axis = read(image_axis(-1, 9), window(9, 3, kernel=2, stride=3))
    whole = mixed(axis)
    assert used(whole) == [[0, 1, 3, 4, 6, 7]]
    assert whole.dim is None and whole.pattern is None
    assert whole.covers(axis) and not axis.covers(whole)
    assert np.array_equal(whole.cut, [True])
