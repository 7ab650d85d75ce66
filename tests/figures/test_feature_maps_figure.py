"""The feature map figure: order, color scale, dead channels, wrong predictions."""

import numpy as np
import pytest
from rendered_text import assert_text_fits

from simplecnn.figures.feature_maps import feature_maps_figure
from simplecnn.figures.style import WRONG


def draw(maps: np.ndarray, predictions: list[str] | None = None, images: np.ndarray | None = None):
    labels = [str(i) for i in range(len(maps))]
    if images is None:
        images = np.random.default_rng(1).random((len(maps), 1, 28, 28)).astype(np.float32)
    figure = feature_maps_figure(
        images, maps, labels=labels, predictions=predictions or labels, title="Feature maps of c"
    )
    return figure


def words(figure) -> dict[str, str]:
    return {t.get_text(): t.get_color() for t in figure.axes[0].texts}


def some_maps(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(np.float32) + 0.01


def test_rows_are_images_columns_are_channels():
    maps = some_maps(10, 16, 28, 28)
    figure = draw(maps)
    joined = np.asarray(figure.axes[0].images[1].get_array().filled(np.nan))
    zoom, gap = 2, 2
    for i, c in [(0, 0), (3, 7), (9, 15)]:
        y, x = i * (28 * zoom + gap), c * (28 * zoom + gap)
        shown = joined[y : y + 28 * zoom : zoom, x : x + 28 * zoom : zoom]
        np.testing.assert_array_equal(shown, maps[i, c])
    assert {str(c) for c in range(16)} <= set(words(figure))


def test_scale_starts_at_zero_and_is_shared():
    maps = some_maps(2, 3, 14, 14)
    figure = draw(maps)
    image = figure.axes[0].images[1]
    assert (image.norm.vmin, image.norm.vmax) == (0.0, pytest.approx(np.percentile(maps, 99)))
    assert image.cmap.name == "viridis" and image.get_interpolation() == "nearest"
    title = next(text for text in words(figure) if text.startswith("Feature maps of c"))
    assert (
        f"99th percentile of the nonzero outputs, {np.percentile(maps, 99):.3g} "
        f"(largest {maps.max():.3g})" in title
    )


def test_a_few_strong_outputs_leave_the_others_visible():
    maps = np.zeros((4, 6, 14, 14), np.float32)
    maps[:, :, :3] = some_maps(4, 6, 3, 14)
    maps[0, 0, 0, :5] = 100.0
    image = draw(maps).axes[0].images[1]
    assert 0.9 < image.norm.vmax < 1.1  # neither zeros nor outliers determine the scale


def test_tiny_maps_have_smaller_tiles_beside_one_line_labels():
    def tile(maps: np.ndarray, **options: list[str]) -> int:
        return draw(maps, **options).axes[0].images[1].get_array().shape[0]

    assert tile(some_maps(1, 512, 1, 1)) == tile(some_maps(1, 256, 4, 4)) == 28
    assert tile(some_maps(1, 256, 5, 5)) == 45  # 9 pixels per value: at least 42
    assert tile(some_maps(1, 512, 1, 1), predictions=["goose"]) == 42


def test_negative_values_get_the_signed_scale():
    maps = some_maps(2, 3, 14, 14)
    maps[0, 0, :2] = -9.0
    image = draw(maps).axes[0].images[1]
    assert (image.norm.vmin, image.norm.vmax) == (-9.0, 9.0)
    assert image.cmap.name == "blue_white_red"


def test_dead_channels_are_marked():
    maps = some_maps(4, 6, 14, 14)
    maps[:, 2] = 0
    maps[0, 3] = 0  # zero on one digit only: not dead
    figure = draw(maps)
    texts = words(figure)
    assert texts["2\ndead"] == WRONG and texts["3"] == "black"
    title = "; left: true → predicted class\n6 channels of 14 x 14, 1 of them dead on these images"
    assert any(title in text for text in texts)
    assert [p.get_facecolor()[:3] for p in figure.axes[0].patches].count((0.92,) * 3) == 1


def test_wrong_predictions_are_red():
    texts = words(draw(some_maps(3, 2, 7, 7), predictions=["0", "7", "2"]))
    assert texts["1 → 7"] == WRONG
    assert texts["2 → 2"] == "black"


def test_the_image_of_a_row_is_drawn_as_ink():
    images = np.random.default_rng(2).random((2, 1, 28, 28)).astype(np.float32)
    figure = draw(some_maps(2, 3, 28, 28), images=images)
    _, maps, inputs = (image.get_array() for image in figure.axes[0].images)
    row_height = (maps.shape[0] + 2) // 2  # two rows, with a gap of two pixels between them
    zoom = inputs.shape[1] // 28
    second = inputs[row_height : row_height + 28 * zoom : zoom, ::zoom]
    for channel in range(3):  # ink on paper
        np.testing.assert_allclose(second[..., channel], 1 - images[1, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "image"),
    [((10, 64, 7, 7), (1, 28, 28)), ((10, 32, 14, 14), (1, 28, 28)), ((1, 1, 1, 1), (1, 28, 28)),
     ((10, 300, 3, 3), (1, 28, 28)), ((4, 8, 64, 64), (3, 64, 64)), ((2, 5, 9, 3), (1, 28, 28))],
)  # fmt: skip
def test_all_text_fits_for_any_shape(shape, image):
    images = np.random.default_rng(0).random((shape[0], *image)).astype(np.float32)
    figure = draw(some_maps(*shape), images=images)
    assert_text_fits(figure)
    assert figure.canvas.get_width_height()[0] <= 1700


def test_the_image_of_a_row_is_rendered_as_ink():
    """In the rendered figure, not only in the arrays: ink is black and has the expected size."""
    images = np.zeros((2, 1, 28, 28), np.float32)
    images[1, 0, 4:8, 5:15] = 1.0
    figure = draw(some_maps(2, 3, 28, 28), images=images)
    figure.canvas.draw()
    screen = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    *_, inputs = figure.axes[0].images
    zoom = round(inputs.get_extent()[1] - inputs.get_extent()[0]) // 28
    left, top = inputs.axes.transData.transform((inputs.get_extent()[0], inputs.get_extent()[3]))
    x, y = round(left), len(screen) - round(top) + inputs.get_array().shape[0] // 2
    shown = screen[y : y + 28 * zoom : zoom, x : x + 28 * zoom : zoom, 0]
    np.testing.assert_array_equal(shown == 0, images[1, 0] == 1)
    np.testing.assert_array_equal(shown == 255, images[1, 0] == 0)
