"""Each corruption has the stated effect and amount, and is deterministic in its seed."""

import pytest
import torch

from simplecnn.explain.corruptions import CORRUPTIONS, SEVERITIES, corrupt


@pytest.fixture
def digits(ten_digits) -> torch.Tensor:
    return torch.from_numpy(ten_digits[0])


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_seeded_bounded_and_worse_with_severity(kind, digits):
    before = digits.clone()
    changes = []
    for severity in SEVERITIES:
        corrupted = corrupt(digits, kind, severity, seed=1)
        assert corrupted.shape == digits.shape and corrupted.dtype == torch.float32
        assert 0 <= corrupted.min() and corrupted.max() <= 1
        assert torch.equal(corrupted, corrupt(digits, kind, severity, seed=1))
        changes.append(float((corrupted - digits).abs().mean()))
    assert torch.equal(digits, before)
    assert torch.equal(corrupt(digits, kind, 0, seed=1), digits)
    assert changes[0] > 0 and changes[-1] > 1.2 * changes[0]
    is_random = kind not in ("brightness", "inversion", "blur")
    other = corrupt(digits, kind, 3, seed=2)
    assert torch.equal(other, corrupt(digits, kind, 3, seed=1)) != is_random


def test_amounts_on_known_images():
    dot = torch.zeros(1, 1, 28, 28)
    dot[0, 0, 14, 14] = 1.0
    shifted = corrupt(dot, "shift", 5, seed=0)
    displacement = (shifted[0, 0] == 1).nonzero()[0].float() - 14
    assert shifted.sum() == 1 and 5.2 <= float(displacement.norm()) <= 6.8
    bright = corrupt(dot, "brightness", 2, seed=0)
    assert bright[0, 0, 0, 0] == pytest.approx(0.2) and bright[0, 0, 14, 14] == 1
    negative = corrupt(dot, "inversion", 5, seed=0)
    torch.testing.assert_close(negative, 1 - dot)
    left = corrupt(dot, "inversion", 2, seed=0)[0, 0, 0]
    assert left[:11].eq(1).all() and left[11:].eq(0).all()  # 0.4 of 28 columns
    stripe = corrupt(torch.zeros(8, 1, 28, 28), "stripe", 4, seed=0)
    assert stripe.sum((1, 2, 3)).eq(4 * 28).all()
    blurred = corrupt(dot, "blur", 2, seed=0)[0, 0]
    assert blurred.sum() == pytest.approx(1, abs=1e-4) and blurred[14, 14] == blurred.max()
    noise = corrupt(torch.full((50, 1, 28, 28), 0.5), "noise", 1, seed=0)
    assert noise.std() == pytest.approx(0.1, abs=0.002)


def test_rotation_angle_and_scale_factor():
    """A square is enlarged or reduced by the factor; a bar is rotated by the angle."""
    square = torch.zeros(20, 1, 28, 28)
    square[..., 9:19, 9:19] = 1
    areas = corrupt(square, "scale", 3, seed=0).sum((1, 2, 3)) / 100
    for area in areas.tolist():
        assert min(abs(area - 1.35**2), abs(area - 1.35**-2)) < 0.06
    assert areas.max() > 1.5 and areas.min() < 0.7
    bar = torch.zeros(20, 1, 28, 28)
    bar[..., 4:24, 13:15] = 1
    for corrupted in corrupt(bar, "rotation", 4, seed=0)[:, 0]:
        rows, columns = (corrupted > 0.5).nonzero().double().T
        covariance = torch.cov(torch.stack([rows, columns]))
        angle = 0.5 * torch.atan2(2 * covariance[0, 1], covariance[0, 0] - covariance[1, 1])
        assert abs(float(angle.rad2deg())) == pytest.approx(45, abs=3)


def test_works_on_large_color_images():
    images = torch.rand(3, 3, 64, 48)
    for kind in CORRUPTIONS:
        assert corrupt(images, kind, 5, seed=0).shape == images.shape
