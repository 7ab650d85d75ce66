"""The responses of the named kernels are as described, and `best_matches` finds them."""

import numpy as np
import pytest

from simplecnn.convolution import KERNELS, best_matches, conv2d, white_square

RIGHTWARDS = np.tile(np.arange(5.0), (5, 1))  # increases by 1 per column
DOWNWARDS = RIGHTWARDS.T


def response(image, name):
    return conv2d(image, KERNELS[name].values)


@pytest.mark.parametrize(
    ("name", "to_the_right", "downwards"),
    [
        ("Horizontal Edge", 0, 6),
        ("Vertical Edge", 6, 0),
        ("Sobel X", 8, 0),
        ("Sobel Y", 0, 8),
        ("Prewitt X", 6, 0),
        ("Prewitt Y", 0, 6),
        ("Scharr X", 32, 0),
        ("Scharr Y", 0, 32),
        ("Laplacian", 0, 0),
    ],
)
def test_edge_kernels_measure_the_described_slope(name, to_the_right, downwards):
    np.testing.assert_array_equal(response(RIGHTWARDS, name), np.full((3, 3), to_the_right))
    np.testing.assert_array_equal(response(DOWNWARDS, name), np.full((3, 3), downwards))
    np.testing.assert_array_equal(response(np.full((5, 5), 7.0), name), np.zeros((3, 3)))


@pytest.mark.parametrize("name", ["Gaussian", "Box", "Sharpen", "Emboss"])
def test_other_kernels_preserve_a_flat_image(name):
    np.testing.assert_allclose(response(np.full((5, 5), 7.0), name), np.full((3, 3), 7.0))


def test_the_response_to_a_single_bright_pixel_is_the_flipped_kernel():
    spot = np.zeros((5, 5))
    spot[2, 2] = 1.0
    for name, kernel in KERNELS.items():
        np.testing.assert_array_equal(response(spot, name), kernel.values[::-1, ::-1])


def test_emboss_is_bright_on_slopes_to_the_lower_right():
    np.testing.assert_array_equal(response(RIGHTWARDS, "Emboss")[1], [1 + 6, 2 + 6, 3 + 6])
    np.testing.assert_array_equal(response(DOWNWARDS[::-1], "Emboss")[:, 1], [3 - 6, 2 - 6, 1 - 6])


def test_kernels_start_with_the_tutorials():
    assert list(KERNELS)[:4] == ["Horizontal Edge", "Vertical Edge", "Sobel X", "Laplacian"]
    for kernel in KERNELS.values():
        assert kernel.values.shape == (3, 3)
        assert kernel.values.dtype == np.float64


def test_white_square_is_the_tutorials_image():
    image = white_square()
    assert image.shape == (10, 10)
    np.testing.assert_array_equal(np.argwhere(image == 1).min(axis=0), [2, 2])
    np.testing.assert_array_equal(np.argwhere(image == 1).max(axis=0), [7, 7])
    assert image.sum() == 36


def test_best_matches_finds_a_kernel_and_its_negative():
    filters = np.stack([[KERNELS["Sobel X"].values], [-3 * KERNELS["Laplacian"].values]])
    sobel, laplacian = best_matches(filters)
    assert sobel.name == "Sobel X" and sobel.cosine == pytest.approx(1)
    assert laplacian.name == "Laplacian" and laplacian.cosine == pytest.approx(-1)
    np.testing.assert_allclose(laplacian.kernel, filters[1])  # with the filter's norm and sign


def test_best_matches_finds_a_kernel_anywhere_in_a_larger_filter():
    color = np.zeros((1, 3, 7, 5))
    color[0, :, 4:7, 1:4] = KERNELS["Scharr Y"].values
    (match,) = best_matches(color)
    assert match.name == "Scharr Y" and match.cosine == pytest.approx(1)
    np.testing.assert_allclose(match.kernel, color[0])
    (one_channel,) = best_matches(color * np.array([1, 0, 0])[None, :, None, None])
    assert one_channel.cosine == pytest.approx(1 / np.sqrt(3))


def test_mean_cosine_of_random_filters():
    random = np.random.default_rng(0).uniform(-1, 1, (2000, 1, 3, 3))  # as PyTorch initializes
    cosines = [abs(match.cosine) for match in best_matches(random)]
    assert np.mean(cosines) == pytest.approx(0.55, abs=0.01)


def test_no_match_for_zero_and_for_small_filters():
    assert best_matches(np.zeros((1, 1, 3, 3))) == [None]
    assert best_matches(np.full((1, 1, 3, 3), np.nan)) == [None]
    assert best_matches(np.ones((2, 4, 1, 1))) == [None, None]
