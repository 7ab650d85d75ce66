"""How operations carry what a unit sees, against plain Python sets."""

from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simplecnn.receptive_field.axis import (
    NOTHING,
    Axis,
    covers,
    hull,
    image_axis,
    joined,
    mixed,
    read,
    spread,
)
from simplecnn.receptive_field.readings import (
    adaptive,
    interpolated,
    padded,
    sliced,
    window,
)

many = settings(max_examples=60, deadline=None, derandomize=True)


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
    """Any operation on a layer of this length."""
    kind = draw(st.sampled_from(["window", "adaptive", "slice", "pad", "resample"]))
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    before, dilation = draw(st.integers(0, 3)), draw(st.integers(1, 3))
    num_out = draw(st.integers(1, 9))
    options = {"kernel": kernel, "stride": stride, "before": before, "dilation": dilation}
    if kind == "window":
        return window(num_in, num_out, **options)
    if kind == "adaptive":
        return adaptive(num_in, num_out)
    if kind == "slice":
        return sliced(num_in, num_out, start=draw(st.integers(-3, 3)), step=stride)
    if kind == "pad":
        return padded(num_in, num_in + 2 * before, before=before, mode="constant")
    mode = draw(st.sampled_from(["nearest", "nearest-exact", "linear", "cubic"]))
    return interpolated(num_in, num_out, mode=mode, scale=Fraction(num_in, num_out))


@many
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
            u: set().union(*(inside[i] for i in reading.inside(u))) for u in range(reading.num_out)
        }
    assert [set(s) for s in used(axis)] == [inside[u] for u in range(len(axis.used))]
    for unit in range(-7, 12):  # in the padding of the next layer, too
        assert axis.pattern.at(unit) == ends(endless[-1](unit))
    for unit, cut in enumerate(axis.cut):
        assert cut or ends(inside[unit]) == axis.pattern.at(unit)


@many
@given(st.integers(1, 30), st.integers(1, 30))
def test_adaptive_pooling_covers_everything_once_or_overlapping(num_in, num_out):
    reading = adaptive(num_in, num_out)
    positions = [list(reading.reads(u)) for u in range(num_out)]
    assert positions[0][0] == 0 and positions[-1][-1] == num_in - 1
    assert read(image_axis(-1, num_in), reading).num_unread == 0
    for left, right in zip(positions, positions[1:], strict=False):
        assert right[0] <= left[-1] + 1


def test_a_floor_leaves_positions_unread():
    seven_to_three = window(7, 3, kernel=2, stride=2, before=0, dilation=1)
    assert read(image_axis(-1, 7), seven_to_three).num_unread == 1
    six_to_three = window(6, 3, kernel=2, stride=2, before=0, dilation=1)
    assert read(image_axis(-1, 6), six_to_three).num_unread == 0


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("constant", [[], [], [0], [1], [2], [], []]),
        ("reflect", [[2], [1], [0], [1], [2], [1], [0]]),
        ("replicate", [[0], [0], [0], [1], [2], [2], [2]]),
        ("circular", [[1], [2], [0], [1], [2], [0], [1]]),
    ],
)
def test_padding_reads_inside_by_its_mode_and_endless_by_distance(mode, expected):
    axis = read(image_axis(-1, 3), padded(3, 7, before=2, mode=mode))
    assert used(axis) == expected
    assert axis.pattern.at(0) == (-2, -2) and axis.pattern.stride == 1
    assert axis.cut.tolist() == [True, True, False, False, False, True, True]


def test_interpolation_reads_no_neighbor_of_weight_zero():
    same = interpolated(5, 5, mode="linear", scale=Fraction(1))
    assert [list(same.reads(u)) for u in range(3)] == [[0], [1], [2]]
    double = interpolated(4, 8, mode="linear", scale=Fraction(1, 2))
    assert [list(double.reads(u)) for u in range(3)] == [[-1, 0], [0, 1], [0, 1]]
    assert list(double.inside(0)) == [0]  # torch stops at the border before it interpolates


def test_joining_paths_reports_what_does_not_align():
    axis = image_axis(-1, 8)
    three = read(axis, window(8, 8, kernel=3, stride=1, before=1, dilation=1))
    both = joined([three, axis], [8, 8], 8)
    assert [both.pattern.at(u) for u in (0, 1)] == [(-1, 1), (0, 2)]
    assert not both.misaligned
    two = read(axis, window(8, 8, kernel=2, stride=1, before=1, dilation=1))
    assert joined([two, axis], [8, 8], 8).misaligned
    assert joined([read(both, sliced(8, 8, start=0)), two], [8, 8], 8).misaligned
    # a flag once set stays
    flagged = joined([two, axis], [8, 8], 8)
    assert joined([flagged, flagged], [8, 8], 8).misaligned
    assert read(flagged, sliced(8, 4, start=0)).misaligned


def test_paths_of_different_stride_drift_apart():
    """Distill's remark: the size of the field then depends on the unit."""
    axis = image_axis(-1, 12)
    slow = read(axis, window(12, 6, kernel=3, stride=1, before=0, dilation=1))
    fast = read(axis, window(12, 6, kernel=2, stride=2, before=0, dilation=1))
    both = joined([slow, fast], [6, 6], 6)
    assert both.misaligned
    assert [both.pattern.at(u) for u in range(6)] == [
        (0, 2), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)
    ]  # fmt: skip
    assert [set(s) for s in used(both)] == [
        {u, u + 1, u + 2} | {2 * u, 2 * u + 1} for u in range(6)
    ]


def test_units_that_stand_side_by_side_are_spread():
    axis = image_axis(-1, 3)
    pairs = spread(replace(axis, inner=2), num_positions=6)
    assert used(pairs) == [[0], [0], [1], [1], [2], [2]]
    assert pairs.pattern.stride == Fraction(1, 2)
    over = spread(axis, num_positions=6)  # channels times positions, channels outside
    assert used(over) == [[0], [1], [2]] * 2
    assert over.pattern is None


def test_after_mixing_every_unit_sees_everything():
    axis = read(image_axis(-1, 9), window(9, 3, kernel=2, stride=3, before=0, dilation=1))
    whole = mixed(axis)
    assert used(whole) == [[0, 1, 3, 4, 6, 7]]
    assert whole.dim is None and whole.pattern is None
    assert covers(whole, axis) and not covers(axis, whole)
