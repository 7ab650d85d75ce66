"""The convolution figures contain the expected values, on the color scales that they name."""

import numpy as np
import pytest

from simplecnn.convolution import KERNELS, conv2d, white_square
from simplecnn.figures.convolution import edge_kernel_figure, flip_figure

EDGES = {name: KERNELS[name] for name in ("Horizontal Edge", "Vertical Edge", "Sobel X")}


def stroke():
    """A digit-sized image with one slanted stroke."""
    image = np.zeros((28, 28))
    for row in range(4, 24):
        image[row, 20 - row // 2 : 23 - row // 2] = row / 24
    return image


def tiles(figure):
    """Return all images of a figure except color bars, in drawing order."""
    return [ax.images[0] for ax in figure.axes if ax.images and ax.get_label() != "<colorbar>"]


def colors(figure):
    """Return a function that looks up the rendered color (R, G, B) of a pixel beside its dot."""
    figure.canvas.draw()
    screen = np.asarray(figure.canvas.buffer_rgba())

    def at(tile, row, column):
        x, y = tile.axes.transData.transform((column + 0.3, row + 0.3))
        return screen[screen.shape[0] - 1 - round(y), round(x), :3].astype(int)

    return at


def numbers(ax):
    return [text.get_text() for text in ax.texts]


def test_edge_kernel_figure_shows_images_kernels_responses_and_magnitudes():
    images = {"White square": white_square(), "Stroke": stroke()}
    figure = edge_kernel_figure(images, EDGES)
    drawn = tiles(figure)
    assert len(drawn) == 2 + 3 * 5
    assert drawn[0].axes.get_title() == "White square, 10 x 10"
    assert drawn[1].axes.get_title() == "Stroke, 28 x 28"
    for tile, image in zip(drawn, images.values(), strict=False):
        np.testing.assert_array_equal(tile.get_array(), image)
        assert tile.get_clim() == (0, 1)
    for row, (name, kernel) in enumerate(EDGES.items()):
        numbered, *rest = drawn[2 + 5 * row : 7 + 5 * row]
        np.testing.assert_array_equal(numbered.get_array(), kernel.values)
        assert numbered.axes.get_title() == name
        assert numbered.axes.get_xlabel().replace("\n", " ") == kernel.responds_to
        responses = [conv2d(image, kernel.values, padding=1) for image in images.values()]
        for tile, response in zip(rest[:2], responses, strict=True):
            np.testing.assert_array_equal(tile.get_array(), response)
            assert tile.get_cmap().name == "blue_white_red"
        for tile, response in zip(rest[2:], responses, strict=True):
            np.testing.assert_array_equal(tile.get_array(), abs(response))
            assert tile.get_cmap().name == "viridis"
        limit = max(abs(response).max() for response in responses)
        assert [tile.get_clim() for tile in rest] == [(-limit, limit)] * 2 + [(0, limit)] * 2


def test_kernel_numbers_are_printed():
    figure = edge_kernel_figure({"Square": white_square()}, {"Sobel X": KERNELS["Sobel X"]})
    kernel = tiles(figure)[1].axes
    minus = "\N{MINUS SIGN}"
    assert numbers(kernel) == [f"{minus}1", "0", "1", f"{minus}2", "0", "2", f"{minus}1", "0", "1"]
    assert [text.get_position() for text in kernel.texts[:4]] == [(0, 0), (1, 0), (2, 0), (0, 1)]


def test_red_is_positive_blue_negative_white_zero():
    figure = edge_kernel_figure({"Square": white_square()}, {"Sobel X": KERNELS["Sobel X"]})
    response, magnitude = tiles(figure)[2:]
    at = colors(figure)
    red, _, blue = at(response, 4, 2)  # the left edge: brighter to the right
    assert red > 2 * blue
    red, _, blue = at(response, 4, 7)  # the right edge
    assert blue > 2 * red
    assert at(response, 4, 5).min() > 240  # inside the square
    np.testing.assert_array_equal(at(magnitude, 4, 2), at(magnitude, 4, 7))
    assert at(magnitude, 4, 2).sum() > at(magnitude, 4, 5).sum()


def test_color_bars_name_zero_and_the_limits():
    figure = edge_kernel_figure({"Square": white_square()}, {"Sobel X": KERNELS["Sobel X"]})
    bars = [ax for ax in figure.axes if ax.get_label() == "<colorbar>"]
    labels = [[tick.get_text() for tick in bar.get_yticklabels()] for bar in bars]
    assert labels == [["\N{MINUS SIGN}4", "0", "4"], ["0", "4"]]


@pytest.mark.parametrize(("size", "inside"), [(3, (0.5, 0.5, 8, 8)), (2, (-0.5, -0.5, 9, 9))])
def test_the_dashed_line_runs_round_the_positions_that_see_no_padding(size, inside):
    kernel = KERNELS["Box"]._replace(values=np.ones((size, size)))
    response = tiles(edge_kernel_figure({"Square": white_square()}, {"Box": kernel}))[2]
    (line,) = response.axes.patches
    assert (*line.get_xy(), line.get_width(), line.get_height()) == inside
    num_pixels = conv2d(np.ones((10, 10)), kernel.values, padding="same")
    left, top, width, height = (int(n + 0.5) for n in inside)
    reads_no_padding = num_pixels == size * size
    assert reads_no_padding.sum() == width * height
    assert reads_no_padding[top : top + height, left : left + width].all()


def test_flip_figure_shows_when_flipping_matters():
    names = ("Sobel X", "Laplacian", "Emboss")
    image = stroke()
    figure = flip_figure(image, {name: KERNELS[name] for name in names})
    drawn = tiles(figure)
    effects = [
        "negated kernel: negated response",
        "same kernel: same response",
        "different kernel: different response",
    ]
    for row, (name, effect) in enumerate(zip(names, effects, strict=True)):
        kernel = KERNELS[name].values
        plain, flipped, correlation, convolution, difference = drawn[5 * row : 5 * row + 5]
        np.testing.assert_array_equal(plain.get_array(), kernel)
        np.testing.assert_array_equal(flipped.get_array(), np.rot90(kernel, 2))
        assert plain.axes.get_ylabel() == name
        assert flipped.axes.get_xlabel().replace("\n", " ") == effect
        expected = conv2d(image, kernel, padding=1), conv2d(image, np.rot90(kernel, 2), padding=1)
        np.testing.assert_array_equal(correlation.get_array(), expected[0])
        np.testing.assert_array_equal(convolution.get_array(), expected[1])
        np.testing.assert_array_equal(difference.get_array(), expected[1] - expected[0])
        limits = {tile.get_clim() for tile in (correlation, convolution, difference)}
        limit = max(abs(tile.get_array()).max() for tile in (correlation, convolution, difference))
        assert limits == {(-limit, limit)}
    assert not drawn[9].get_array().any()


def test_figures_do_not_modify_their_images_and_accept_integers():
    image = np.arange(64, dtype=np.uint8).reshape(8, 8)
    before = image.copy()
    edge_kernel_figure({"Ramp": image}, EDGES)
    figure = flip_figure(image, {"Sobel X": KERNELS["Sobel X"]})
    np.testing.assert_array_equal(image, before)
    assert tiles(figure)[2].get_array()[4, 4] == 8  # no wrap-around: the slope is 1 per column
