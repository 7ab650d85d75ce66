"""The shared style: titles, colors of images, dots on negative values, numbers, text."""

from io import BytesIO

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image
from rendered_text import assert_text_fits, drawn_texts

from simplecnn.figures.confusion import confusion_figure
from simplecnn.figures.raster import Mosaic, encode_png
from simplecnn.figures.style import (
    PADDING,
    SIGNED,
    add_title,
    drawing,
    image_colors,
    mark_negative,
    new_figure,
    number,
    signed_scale,
    tile,
    wrap,
)


@pytest.mark.parametrize("width", [3.0, 5.6, 11.0])
def test_a_long_title_is_wrapped_to_the_width_of_the_figure(width):
    figure = new_figure(width, 4)
    words = "accuracy under shifts of the image, consistency: pairs of shifts that agree, in 100 % "
    add_title(figure, "short\n" + 4 * words)
    box = figure._suptitle.get_window_extent()
    assert box.x0 > 0 and box.x1 < figure.bbox.width
    lines = figure._suptitle.get_text().split("\n")
    assert lines[0] == "short" and " ".join(lines[1:]) == (4 * words).strip()
    assert box.width > 0.7 * figure.bbox.width  # lines are not too short


@pytest.mark.parametrize("width", range(12, 40))
def test_lines_do_not_break_within_a_number_and_its_unit_or_a_hyphenated_word(width):
    text = "First-layer map change for a shift by 1 pixel, filters of 3 x 3 (0 is drawn at 1e−8)"
    lines = wrap(text, width).split("\n")
    assert " ".join(lines) == text and max(map(len, lines)) <= width
    for whole in ("First-layer", "1 pixel", "3 x 3", "(0 is"):
        assert any(whole in line for line in lines)


def test_a_negative_value_has_a_white_dot_in_its_middle():
    figure = new_figure(3, 3, fitted=False)
    ax = figure.add_axes((0, 0, 1, 1))
    values = np.array([[-1.0, 1.0], [0.5, -0.05]])
    mark_negative(tile(ax, values, SIGNED, signed_scale(values)))
    ax.set_axis_off()
    figure.canvas.draw()
    cells = np.asarray(figure.canvas.buffer_rgba())[:, :, :3].reshape(2, 225, 2, 225, 3)
    middle, beside = cells[:, 112, :, 112], cells[:, 30, :, 30]
    assert (middle[0, 0] == 255).all() and (beside[0, 0] < 255).any()
    assert np.array_equal(middle[0, 1], beside[0, 1])
    assert np.array_equal(middle[1], beside[1])
    assert ax.get_xlim() == (-0.5, 1.5)  # the tile keeps its size


def test_image_colors_of_color_gray_and_standardized_images():
    image = np.random.default_rng(0).random((3, 4, 5))
    np.testing.assert_array_equal(image_colors(image), image.transpose(1, 2, 0))
    gray = image[:1].copy()
    expected = np.repeat(1 - gray[0][..., None], 3, 2)
    np.testing.assert_allclose(image_colors(gray), expected)
    np.testing.assert_allclose(image_colors(gray.repeat(3, 0)), expected)
    standardized = image_colors((image - 0.5) / 0.2)
    np.testing.assert_allclose(
        standardized, (image - image.min()).transpose(1, 2, 0) / np.ptp(image), atol=1e-12
    )
    with drawing(ink=False):  # a photograph
        np.testing.assert_allclose(image_colors(gray), 1 - expected)
    gray[0, 0, 0] = np.nan
    assert tuple(image_colors(gray)[0, 0]) == to_rgb(PADDING)


def test_numbers_have_a_true_minus_sign_and_no_negative_zero():
    assert [number(x, "z.2f") for x in (-1.5, -0.001, 2)] == ["\N{MINUS SIGN}1.50", "0.00", "2.00"]
    assert number(-1e-8) == "\N{MINUS SIGN}1e\N{MINUS SIGN}08" and number(1, "+.1f") == "+1.0"


def test_names_with_dollar_signs_or_missing_glyphs_are_drawn():
    names = ["$\\foo$", "$x^{2}$", "\u5341\u5b57"]
    with drawing():
        figure = confusion_figure(np.eye(3, dtype=int), class_names=names, title="$100 & $200")
        assert encode_png(figure)[1] > 100


@pytest.mark.parametrize("ha", ["left", "center", "right"])
@pytest.mark.parametrize("va", ["top", "center", "baseline", "bottom"])
def test_encode_png_places_text_where_matplotlib_does(ha, va):
    mosaic = Mosaic(300, 200, title="")
    mosaic.write(150, 100, "One line\nAnother", ha=ha, va=va, color="#ff0000")
    mosaic.figure.canvas.draw()
    drawn = np.asarray(mosaic.figure.canvas.buffer_rgba())[..., :3]
    png = encode_png(mosaic.figure)[0]
    written = np.asarray(Image.open(BytesIO(png)))
    assert tuple(written.reshape(-1, 3).min(0)) == (255, 0, 0)  # in its color
    for axis in (0, 1):
        ends = [np.flatnonzero((image < 200).any((axis, 2)))[[0, -1]] for image in (drawn, written)]
        np.testing.assert_allclose(*ends, atol=6)


def test_powers_of_ten_on_an_axis_are_math_text():
    with drawing():
        figure = new_figure(3, 3)
        ax = figure.subplots()
        ax.set_yscale("log")
        ax.plot([1, 2], [1, 1000])
        encode_png(figure)
        labels = ax.get_yticklabels()
    assert all(label.get_parse_math() for label in labels)


@pytest.mark.parametrize("height", [20, 45, 60, 200])
def test_the_labels_of_a_color_bar_fit_beside_a_mosaic_of_any_height(height):
    mosaic = Mosaic(60, height, title="a", colors=SIGNED, scale=signed_scale([0.5]), bar="weight")
    texts = drawn_texts(mosaic.figure)
    assert {t.get_text() for t in texts} == {"a", "weight", number(-0.5), "0", "0.5"}
    assert_text_fits(mosaic.figure)
