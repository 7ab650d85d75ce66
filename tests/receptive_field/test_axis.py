"""Propagation of receptive fields along one axis, compared with sets of pixels."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplecnn.receptive_field.axis import (
    EMPTY,
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
    """The pixels that each unit depends on."""
    return [row.nonzero()[0].tolist() for row in axis.used]


def ends(pixels: set[int]) -> tuple[int, int]:
    return (min(pixels), max(pixels)) if pixels else EMPTY


def test_the_hull_of_intervals():
    assert hull([(3, 5), (-2, 0), EMPTY]) == (-2, 5)
    assert hull([EMPTY]) == EMPTY == hull([])


@st.composite
def readings(draw, num_in: int):
    """Windows of any step, integer or not; slices and paddings are windows of one position."""
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
    endless = [lambda u: {u}]  # for each layer, the field of a unit on an infinite image
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
    for unit in range(-7, 12):  # including units in the padding of the next layer
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
def test_padding_reads_pixels_by_its_mode_while_the_pattern_continues(border, expected):
    axis = read(image_axis(-1, 3), Reading(3, 7, lambda u: [u - 2], border=border))
    assert used(axis) == expected
    assert axis.pattern.at(0) == (-2, -2) and axis.stride == 1
    assert axis.cut.tolist() == [True, True, False, False, False, True, True]


def test_joining_paths_with_different_centers_is_reported_as_misaligned():
    axis = image_axis(-1, 8)
    centered = read(axis, window(8, 8, kernel=3, before=1))
    union = joined(centered, axis)
    assert [union.pattern.at(u) for u in (0, 1)] == [(-1, 1), (0, 2)]
    assert not union.misaligned
    shifted = read(axis, window(8, 8, kernel=2, before=1))
    misaligned = joined(shifted, axis)
    assert misaligned.misaligned
    # Later operations keep the flag.
    assert joined(misaligned, misaligned).misaligned
    assert read(misaligned, window(8, 4, kernel=1)).misaligned


def test_the_union_of_paths_with_different_strides_varies_from_unit_to_unit():
    """As remarked in the Distill article."""
    axis = image_axis(-1, 12)
    slow = read(axis, window(12, 6, kernel=3))
    fast = read(axis, window(12, 6, kernel=2, stride=2))
    union = joined(slow, fast)
    assert union.misaligned and union.stride == 2
    assert [union.pattern.at(u) for u in range(6)] == [
        (0, 2), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)
    ]  # fmt: skip
    assert [set(s) for s in used(union)] == [
        {u, u + 1, u + 2} | {2 * u, 2 * u + 1} for u in range(6)
    ]


def test_units_of_a_flattened_image_are_spread():
    flattened = spread(image_axis(-1, 3), num_positions=6)  # 2 channels of 3 positions
    assert used(flattened) == [[0], [1], [2]] * 2
    assert flattened.pattern is None


def test_mixing_joins_the_fields_of_all_units():
    axis = read(image_axis(-1, 9), window(9, 3, kernel=2, stride=3))
    union = mixed(axis)
    assert used(union) == [[0, 1, 3, 4, 6, 7]]
    assert union.dim is None and union.pattern is None
    assert union.covers(axis) and not axis.covers(union)
    assert np.array_equal(union.cut, [True])
