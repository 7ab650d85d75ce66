"""The figures of receptive fields: positions of boxes, hatched padding, color scales."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from rendered_text import assert_text_fits

from simplecnn.figures.receptive_field import (
    COLORS,
    Chain,
    FieldMap,
    LayerBoxes,
    boxes_figure,
    chains_figure,
    effective_fields_figure,
)


def rectangles(ax) -> list[Rectangle]:
    return [p for p in ax.patches if isinstance(p, Rectangle)]


def bounds(rectangle: Rectangle) -> tuple[float, float, float, float]:
    return (*rectangle.get_xy(), rectangle.get_width(), rectangle.get_height())


def shown(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255


def pixel(figure, ax, x: float, y: float) -> np.ndarray:
    canvas = shown(figure)
    column, row = ax.transData.transform((x, y))
    return canvas[canvas.shape[0] - 1 - int(row), int(column)]


def boxes():
    image = np.zeros((28, 28))
    image[10, 12] = 1.0
    small = {(0, 0): ((-1, 1), (-1, 1)), (14, 14): ((13, 15), (13, 15))}
    layers = [
        LayerBoxes("conv1: size 3", small, ((0, 27), (0, 27))),
        LayerBoxes("pool3: size 22", {(0, 2): ((-7, 14), (9, 30))}, ((0, 27), (0, 27))),
    ]
    return boxes_figure(image, layers)


@pytest.mark.parametrize(
    ("size", "reach", "ticks"),
    [(28, 0, range(0, 28, 4)), (28, 6, range(-4, 33, 4)), (128, 0, range(0, 128, 16)),
     (128, 300, range(-128, 193, 64))],
)  # fmt: skip
def test_ticks_of_large_images_do_not_overlap(size, reach, ticks):
    box = (-reach, size - 1 + reach)
    layer = LayerBoxes("conv", {(0, 0): (box, box)}, ((0, size - 1), (0, size - 1)))
    figure = boxes_figure(np.zeros((size, size)), [layer])
    (ax,) = figure.axes
    for axis in (ax.xaxis, ax.yaxis):
        assert axis.get_ticklocs().tolist() == list(ticks)
        assert_text_fits(figure, axis.get_ticklabels())


def test_boxes_lie_on_whole_pixels():
    figure = boxes()
    conv1, pool3 = figure.axes
    assert [a.get_title() for a in figure.axes] == ["conv1: size 3", "pool3: size 22"]
    frames = [r for r in rectangles(pool3) if r.get_edgecolor()[:3] == to_rgb(COLORS[0])]
    assert (8.5, -7.5, 22, 22) in [bounds(r) for r in frames]
    assert (-0.5, -0.5, 28, 28) in [bounds(r) for r in rectangles(pool3)]  # the image's border
    np.testing.assert_allclose(pixel(figure, pool3, 8.5, 5.2), to_rgb(COLORS[0]), atol=0.02)
    np.testing.assert_array_equal(pixel(figure, conv1, 12, 10), (0, 0, 0))  # ink is black
    np.testing.assert_array_equal(pixel(figure, conv1, 5, 5), (1, 1, 1))
    # All panels have the same limits, with room for the widest box.
    assert conv1.get_xlim() == pool3.get_xlim() == (-2.5, 31.5)
    assert conv1.get_ylim() == pool3.get_ylim() == (28.5, -8.5)
    assert [t.get_text() for t in conv1.get_legend().get_texts()] == [
        "unit (0, 0)",
        "unit (14, 14)",
    ]


@pytest.mark.parametrize(("field", "is_cut"), [((-28, 55), False), ((-204, 230), True)])
def test_the_image_of_a_deep_network_is_at_least_a_third_of_a_panel(field, is_cut):
    fields = {(0, 0): (field, field), (1, 1): ((3, 5), (3, 5))}
    figure = boxes_figure(np.zeros((28, 28)), [LayerBoxes("deep", fields, ((0, 27), (0, 27)))])
    (ax,) = figure.axes
    assert ax.get_xlim() == (-29.5, 56.5) and ax.get_ylim() == (56.5, -29.5)
    assert len(ax.get_xticks()) == len(ax.get_yticks()) == 5
    assert hatched(figure, ax, ((-28, -1), (-28, 55))).any(axis=0).all()  # up to the edges
    assert figure.get_suptitle().endswith("cut off") == is_cut
    assert_text_fits(figure)


def hatched(figure, ax, box) -> np.ndarray:
    """Return which pixels of a box (rows, columns) of the image plane show hatching."""
    canvas = shown(figure)
    (top, bottom), (left, right) = box
    marks = np.zeros((bottom - top + 1, right - left + 1), bool)
    for row, column in np.ndindex(*marks.shape):
        corners = [(left + column - 0.3, top + row + 0.3), (left + column + 0.3, top + row - 0.3)]
        (x0, y0), (x1, y1) = ax.transData.transform(corners).astype(int)
        pixels = canvas[canvas.shape[0] - 1 - y1 : canvas.shape[0] - y0, x0 : x1 + 1]
        marks[row, column] = np.ptp(pixels, axis=2).max() > 0.1  # a color, not gray
    return marks


def test_exactly_the_padding_is_hatched():
    figure = boxes()
    expected = np.ones((22, 22), bool)  # rows -7 to 14, columns 9 to 30
    expected[7:, :19] = False
    np.testing.assert_array_equal(hatched(figure, figure.axes[1], ((-7, 14), (9, 30))), expected)


def test_a_box_inside_the_image_has_no_hatching_and_an_empty_box_no_frame():
    fields = {(0, 0): ((2, 4), (2, 4)), (1, 1): ((0, -1), (0, -1))}
    figure = boxes_figure(np.zeros((6, 6)), [LayerBoxes("a", fields, ((0, 5), (0, 5)))])
    (ax,) = figure.axes
    assert not hatched(figure, ax, ((2, 4), (2, 4))).any()
    assert {bounds(r) for r in rectangles(ax)} == {(-0.5, -0.5, 6, 6), (1.5, 1.5, 3, 3)}


def test_cropped_pixels_are_hatched():
    layer = LayerBoxes("crop", {(0, 0): ((0, 3), (1, 3))}, ((2, 4), (1, 5)))
    figure = boxes_figure(np.zeros((6, 6)), [layer])
    expected = np.array([[True] * 3] * 2 + [[False] * 3] * 2)
    np.testing.assert_array_equal(hatched(figure, figure.axes[0], ((0, 3), (1, 3))), expected)


def chain(name: str, kernel: int, cost: int) -> Chain:
    profile = np.full(kernel, 1 / kernel)
    return Chain(name, [kernel], {"weights": cost, "MACs": 10 * cost}, profile, kernel / 2)


def test_chains_share_one_scale():
    figure = chains_figure([chain("wide", 7, 49), chain("narrow", 3, 9)])
    maps = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title() for ax in maps] == ["wide", "narrow"]
    for ax in maps:
        assert ax.images[0].norm.vmin == 0
        assert ax.images[0].norm.vmax == pytest.approx(100 / 9)
    for ax, kernel in zip(maps, (7, 3), strict=True):
        share = np.asarray(ax.images[0].get_array())
        assert share.shape == (kernel, kernel) and share.sum() == pytest.approx(100)
        middle = (kernel - 1) / 2  # of the map, which has a margin of at least one pixel
        assert ax.get_xlim() == (middle - 4.5, middle + 4.5) == ax.get_ylim()[::-1]
        (x, y, width, height) = bounds(rectangles(ax)[0])
        rows, columns = np.nonzero(share)
        assert (x, y) == (columns.min() - 0.5, rows.min() - 0.5)
        assert (width, height) == (kernel, kernel)
    assert "7 px, σ = 3.50 px" in maps[0].get_xlabel()


def test_chains_show_growth_and_costs():
    figure = chains_figure([chain("wide", 7, 49), chain("narrow", 3, 9)])
    growth = next(ax for ax in figure.axes if ax.lines)
    assert [list(line.get_ydata()) for line in growth.lines] == [[1, 7], [1, 3]]
    assert {t.get_text() for t in growth.texts} == {"wide: 7 px", "narrow: 3 px"}
    bars = {ax.get_title(): ax for ax in figure.axes if ax.containers}
    assert list(bars) == ["weights", "MACs"]
    assert [p.get_width() for p in bars["MACs"].patches] == [490, 90]
    assert [t.get_text() for t in bars["MACs"].texts] == [" 490", " 90"]
    colors = [to_rgb(p.get_facecolor()[:3]) for p in bars["weights"].patches]
    assert colors == [to_rgb(c) for c in COLORS[:2]]


def field_map(peak: float) -> FieldMap:
    mass = np.ones((8, 8))
    mass[3, 4] = peak
    return FieldMap(mass, ((-1, 5), (2, 6)), (5, 3), f"peak {peak}")


def test_effective_fields_are_comparable_down_a_column():
    rows = {
        "initial": {"conv1": field_map(1.0), "conv2": field_map(37.0)},
        "trained": {"conv1": field_map(137.0), "conv2": field_map(37.0)},
    }
    figure = effective_fields_figure(rows)
    maps = [ax for ax in figure.axes if ax.images]
    assert len(maps) == 4
    scales = [(ax.images[0].norm.vmin, round(ax.images[0].norm.vmax, 6)) for ax in maps]
    assert scales == [(0.0, 68.5), (0.0, 37.0)] * 2
    for ax in maps:
        assert np.asarray(ax.images[0].get_array()).sum() == pytest.approx(100)
        frame, large, small = rectangles(ax)
        assert bounds(frame) == (1.5, -0.5, 5, 6)  # without its padding
        assert bounds(large) == (1.5, -0.5, 5, 5) and bounds(small) == (2.5, 0.5, 3, 3)
    assert [ax.get_ylabel() for ax in maps] == ["initial", "", "trained", ""]
    assert [ax.get_title() for ax in maps[:2]] == ["conv1", "conv2"]
    assert maps[2].get_xlabel() == "peak 137.0"
    bars = [t.get_text() for ax in figure.axes if not ax.images for t in ax.get_xticklabels()]
    assert bars == ["0 %", "68 %", "0 %", "37 %"]


def test_squares_at_the_border_are_clipped_to_the_image():
    field = FieldMap(np.ones((8, 8)), ((-3, 2), (4, 11)), (4, 2), "")
    figure = effective_fields_figure({"initial": {"conv1": field}})
    frame, large, small = rectangles(figure.axes[0])
    assert bounds(frame) == (3.5, -0.5, 4, 3)
    assert bounds(large) == (5.5, -0.5, 2, 2) and bounds(small) == (6.5, -0.5, 1, 1)


@pytest.mark.parametrize(("states", "layers"), [(1, 1), (1, 6), (2, 3)])
def test_effective_fields_begin_right_below_the_title(states, layers):
    note = "sigma\n95 %, 50 %\n95 % / size"
    field = FieldMap(np.ones((28, 28)), ((0, 8), (0, 8)), (5, 3), note)
    rows = {f"state {i}": {f"conv{j}": field for j in range(layers)} for i in range(states)}
    figure = effective_fields_figure(rows)
    figure.canvas.draw()
    title, first = (t.get_window_extent() for t in (figure._suptitle, figure.axes[0].title))
    assert 0 < title.y0 - first.y1 < 2 * first.height
    assert figure.get_suptitle().count("\n") == 2  # no further line breaks


def test_effective_fields_of_one_state_and_of_a_dead_layer():
    dead = FieldMap(np.zeros((4, 4)), ((0, 2), (0, 2)), (0, 0), "")
    figure = effective_fields_figure({"initial": {"conv1": dead}})
    (image,) = [ax.images[0] for ax in figure.axes if ax.images]
    assert np.asarray(image.get_array()).max() == 0 and image.norm.vmax == 1.0
    shown(figure)
