"""The filter history: all snapshots on one color scale, the change, the most similar kernel."""

import numpy as np
import pytest
from rendered_text import assert_text_fits

from simplecnn.convolution.kernels import KERNELS
from simplecnn.figures.filter_history import filter_history_figure

SOBEL = KERNELS["Sobel X"].values


def weights_of(snapshots: int, filters: int, channels: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(size=(snapshots, filters, channels, size, size)).astype(np.float32)


def words(figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts]


def test_rows_are_filters_columns_are_snapshots_on_one_scale():
    weights = weights_of(3, 2, 1, 3)
    weights[1, 0, 0, 0, 0] = -7.0  # the largest weight of the run is not in the last snapshot
    figure = filter_history_figure(weights, ["start", "step\n1", "epoch\n1"], title="History of c")
    _, snapshots, change, _ = figure.axes[0].images
    assert {(i.norm.vmin, i.norm.vmax) for i in figure.axes[0].images} == {(-7.0, 7.0)}
    zoom, gap = 15, 4
    shown = np.asarray(snapshots.get_array().filled(np.nan))
    for row in range(2):
        for column in range(3):
            y, x = row * (3 * zoom + gap), column * (3 * zoom + gap)
            tile = shown[y : y + 3 * zoom : zoom, x : x + 3 * zoom : zoom]
            np.testing.assert_array_equal(tile, weights[column, row, 0])
    shown = np.asarray(change.get_array().filled(np.nan))
    np.testing.assert_array_equal(shown[: 3 * zoom : zoom, ::zoom][:, :3],
                                  (weights[2] - weights[0])[0, 0])  # fmt: skip
    middle = np.asarray(snapshots.get_array().filled(np.nan))[zoom // 2 :: zoom, zoom // 2 :: zoom]
    np.testing.assert_array_equal(middle[:3, :3], np.maximum(weights[0, 0, 0], 0))  # negative: dot
    texts = words(figure)
    assert {"start", "step\n1", "epoch\n1", "change", "most similar", "weight"} <= set(texts)
    title = "2 filters of 3 x 3 (rows), one scale for the whole run: ±7, dots: negative"
    assert title in texts[0]


def test_channels_of_a_color_image_are_named():
    texts = words(filter_history_figure(weights_of(2, 4, 3, 3), ["start", "epoch\n1"]))
    assert "4 filters of 3 x 3 (rows, 3 input channels side by side), one scale" in texts[0]


def test_filters_of_a_color_image_are_drawn_in_color():
    weights = np.zeros((2, 2, 3, 3, 3), np.float32)
    weights[1, 0, :, 1, 1] = 1.0, -1.0, 0.5  # red, green, blue
    figure = filter_history_figure(weights, ["start", "epoch\n1"], in_color=True)
    snapshots, change, _ = (np.asarray(image.get_array()) for image in figure.axes[0].images)
    zoom, gap = 15, 4
    middle, second = zoom + zoom // 2, 3 * zoom + gap
    np.testing.assert_allclose(snapshots[middle, second + middle], [1.0, 0.0, 0.75])
    np.testing.assert_allclose(change[middle, middle], [1.0, 0.0, 0.75])
    assert (snapshots[middle, middle] == 0.5).all()  # gray is zero, also where it was negative
    assert (snapshots[: 3 * zoom, 3 * zoom : second] == 0.92).all()  # the background between tiles
    texts = words(figure)
    assert (
        "2 filters of 3 x 3 in color (rows; gray is zero), one scale for the whole run: ±1"
        in (texts[0])
    )
    assert "dots" not in texts[0] and "weight" not in texts  # no color bar of signed values
    assert_text_fits(figure)


def test_change_and_cosine_similarity_are_written():
    start = np.zeros((2, 1, 3, 3), np.float32)
    start[:] = SOBEL
    end = start * np.array([1.5, -1.0], np.float32)[:, None, None, None]
    texts = words(filter_history_figure(np.stack([start, end]), ["start", "epoch\n1"]))
    assert {"50 %", "200 %", "+1.00 Sobel X", "−1.00 Sobel X"} <= set(texts)
    assert "mean |cosine similarity| to a named kernel 1.00, at the start 1.00" in texts[0]


def test_a_filter_with_many_input_channels_shows_the_strongest():
    weights = np.zeros((2, 1, 6, 3, 3), np.float32)
    weights[:, 0, 4] = SOBEL
    figure = filter_history_figure(weights, ["start", "epoch\n1"])
    assert "0 from 4" in words(figure)
    assert "for each the strongest of 6 input channels" in words(figure)[0]
    shown = np.asarray(figure.axes[0].images[1].get_array().filled(np.nan))
    np.testing.assert_array_equal(shown[:45:15, :45:15], SOBEL)


@pytest.mark.parametrize(
    ("shape", "size"), [((40, 3, 1), 5), ((17, 130, 1), 3), ((4, 64, 3), 7), ((1, 1, 1), 1),
                        ((2, 5, 8), 2)]
)  # fmt: skip
def test_all_text_fits_for_any_shape(shape, size):
    weights = weights_of(*shape, size)
    snapshots = ["start", *(f"epoch\n{i}" for i in range(1, len(weights)))]
    figure = filter_history_figure(weights, snapshots)
    assert_text_fits(figure)
    width, height = figure.canvas.get_width_height()
    assert width <= 1600 and height <= 2200
    assert snapshots[-1] in words(figure)  # the last snapshot is always labeled
