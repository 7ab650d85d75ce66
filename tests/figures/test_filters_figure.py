"""The filter figure: values, colors, scale, labels."""

import numpy as np
import pytest
from rendered_text import assert_text_fits

from simplecnn.figures.filters import filters_figure
from simplecnn.figures.raster import encode_png
from simplecnn.figures.style import signed_scale


def texts(figure) -> list[str]:
    return [t.get_text() for ax in figure.axes for t in ax.texts]


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def one_filter(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(1, 1, 1, -1)


def test_red_is_positive_blue_is_negative_white_is_zero():
    figure = filters_figure(one_filter(1.0, 0.0, -1.0))
    image = figure.axes[0].images[1]
    red, white, blue = (image.cmap(image.norm(v)) for v in (1.0, 0.0, -1.0))
    assert red[0] > 0.4 and red[2] < 0.2
    assert blue[2] > 0.3 and blue[0] < 0.1
    assert white[:3] == (1.0, 1.0, 1.0)
    # The same in the rendered figure, in the middle of each weight, beside its number.
    shown = pixels(figure)
    x0, x1, y0, y1 = image.get_extent()
    for column, expected in enumerate((red, white, blue)):
        x = x0 + (column + 0.5) * (x1 - x0) / 3
        spot = figure.axes[0].transData.transform((x, min(y0, y1) + 3))
        color = shown[shown.shape[0] - int(spot[1]) - 1, int(spot[0])] / 255
        np.testing.assert_allclose(color, expected[:3], atol=0.02)


def test_scale_is_symmetric_and_shared():
    weights = np.array([[0.1, -0.5], [0.2, 0.05]], np.float32).reshape(2, 1, 1, 2)
    figure = filters_figure(weights)
    norms = {(i.norm.vmin, i.norm.vmax) for ax in figure.axes for i in ax.images}
    assert norms == {(-0.5, 0.5)}
    assert "one scale for the layer: ±0.5" in texts(figure)[0]


def test_every_filter_is_drawn_with_its_number_norm_and_weights():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(16, 1, 3, 3)).astype(np.float32)
    figure = filters_figure(weights, title="Filters of conv1, epoch 2, step 7")
    images = figure.axes[0].images[1:]
    assert len(images) == 16
    for image, kernel in zip(images, weights[:, 0], strict=True):
        np.testing.assert_array_equal(image.get_array()[20::40, 20::40], kernel)
        assert image.get_interpolation() == "nearest"
    words = texts(figure)
    assert words[0].startswith("Filters of conv1, epoch 2, step 7\n16 filters of 3 x 3")
    assert {str(i) for i in range(16)} <= set(words)
    assert f"norm {np.linalg.norm(weights[3]):.2f}" in words
    assert f"{weights[5, 0, 1, 2]:.2f}".replace("-", "−") in words
    assert "−0.00" not in words


def test_deeper_filters_are_a_matrix_of_all_kernels():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(5, 4, 3, 3)).astype(np.float32)
    _, image = filters_figure(weights).axes[0].images
    joined = np.asarray(image.get_array().filled(np.nan))
    zoom, gap = 14, 6
    for i in range(5):
        for j in range(4):
            y, x = i * (3 * zoom + gap), j * (3 * zoom + gap)
            shown = joined[y : y + 3 * zoom : zoom, x : x + 3 * zoom : zoom]
            np.testing.assert_array_equal(shown, weights[i, j])
    assert np.isnan(joined[3 * zoom : 3 * zoom + gap]).all()  # the gap is transparent


@pytest.mark.parametrize("shape", [(1, 1, 3, 3), (64, 1, 5, 5), (40, 1, 3, 3), (128, 64, 3, 3),
                                   (6, 3, 7, 5), (1, 1, 1, 1)])  # fmt: skip
def test_all_text_fits_for_any_shape(shape):
    figure = filters_figure(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    assert_text_fits(figure)
    assert figure.canvas.get_width_height()[0] <= 1600


def test_all_zero_filters_have_a_scale():
    assert signed_scale(np.zeros(3)).vmax == 1.0
    png, width, height = encode_png(filters_figure(np.zeros((2, 1, 3, 3), np.float32)))
    assert png.startswith(b"\x89PNG\r\n") and (width, height) != (0, 0)


def test_encode_png_returns_the_size_of_the_image():
    figure = filters_figure(np.ones((4, 1, 3, 3), np.float32))
    png, width, height = encode_png(figure)
    assert int.from_bytes(png[16:20], "big") == width
    assert int.from_bytes(png[20:24], "big") == height


@pytest.mark.parametrize("shape", [(32, 1, 5, 5), (16, 8, 3, 3)])
def test_a_negative_weight_without_its_value_has_a_dot(shape):
    weights = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    figure = filters_figure(weights)
    assert "dots: negative" in texts(figure)[0]
    image = figure.axes[0].images[1].get_array()
    zoom = 120 // 5 if shape[1] == 1 else 14
    tile = image[: shape[2] * zoom, : shape[3] * zoom]
    middles = tile[zoom // 2 :: zoom, zoom // 2 :: zoom]
    np.testing.assert_array_equal(middles, np.maximum(weights[0, 0], 0))
    np.testing.assert_array_equal(tile[::zoom, ::zoom], weights[0, 0])


def test_three_channels_are_a_color_image_and_three_planes():
    weights = np.zeros((2, 3, 3, 3), np.float32)
    weights[0, :, 1, 1] = 1.0, -1.0, 0.5  # red, green, blue of the central weight
    figure = filters_figure(weights, in_color=True)
    colors, planes = (np.asarray(i.get_array()) for i in figure.axes[0].images[1:3])
    assert colors.shape == (3, 3, 3)
    np.testing.assert_allclose(colors[1, 1], [1.0, 0.0, 0.75])
    np.testing.assert_allclose(colors[0, 0], [0.5] * 3)  # gray is zero
    zoom, gap = 16, 4
    corners = [planes[zoom, zoom + c * (3 * zoom + gap)] for c in range(3)]
    np.testing.assert_allclose(corners, [1.0, -1.0, 0.5])
    names = ["red", "green", "blue"]
    assert [t for t in texts(figure) if t in names] == names * 2
