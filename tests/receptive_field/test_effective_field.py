"""Effective fields against closed forms and against gradients of single images."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from simplecnn.models.simple_cnn import SimpleCNN
from simplecnn.receptive_field import (
    EffectiveField,
    effective_fields,
    receptive_field,
    receptive_fields,
    stack,
)


def uniform(kernels) -> nn.Sequential:
    """Averaging convolutions that preserve the image size."""
    layers = [nn.Conv2d(1, 1, k, padding=k // 2, bias=False, dtype=torch.float64) for k in kernels]
    for layer in layers:
        nn.init.constant_(layer.weight, 1 / layer.kernel_size[0] ** 2)
    return nn.Sequential(*layers)


def images(*shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize(
    ("kernels", "sigma", "half"), [((7,), 2.0, 5), ((3, 3, 3), 2**0.5, 5), ((5, 5), 2.0, 5)]
)
def test_uniform_weights_have_a_closed_form(kernels, sigma, half):
    layers = [(k, 1) for k in kernels]
    field = list(effective_fields(uniform(kernels), images(3, 1, 28, 28)).values())[-1]
    assert field.sigma == pytest.approx((sigma, sigma), abs=1e-9)
    profile = torch.tensor(stack(layers, channels=[1] * len(kernels)).profile).double()
    (top, bottom), (left, right) = field.interval
    inside = field.mass[top : bottom + 1, left : right + 1]
    torch.testing.assert_close(inside, profile[:, None] * profile)
    assert field.mass.sum() == pytest.approx(1)
    assert field.square(1) == receptive_field(layers)
    mass_by_side = {
        len(profile) - 2 * i: inside[i : len(profile) - i, i : len(profile) - i].sum()
        for i in range(4)
    }
    for share in (0.5, 0.95):
        assert field.square(share) == min(s for s, mass in mass_by_side.items() if mass >= share)
    assert field.square(0.5) == half
    assert field.ratio == field.square(0.95) / receptive_field(layers)


def test_pooling_has_a_closed_form():
    """SimpleCNN's chain with average pooling: sigma 3.905 at conv3 and 4.387 at pool3."""
    layers = []
    for _ in range(3):
        layers += [*uniform([3]), nn.AvgPool2d(2)]
    fields = effective_fields(nn.Sequential(*layers), images(2, 1, 60, 60))
    assert fields["4"].sigma == pytest.approx((3.905, 3.905), abs=5e-4)
    assert fields["5"].sigma == pytest.approx((4.387, 4.387), abs=5e-4)


def test_the_mean_is_over_images_with_alternating_channels():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Conv2d(3, 4, 3)).double()
    x = images(8, 2, 9, 9)
    field = effective_fields(network, x, layers=["2"])["2"]
    assert field.unit == (2, 2) and field.interval == ((2, 6), (2, 6))
    expected = torch.zeros(9, 9, dtype=torch.float64)
    for n in range(8):
        image = x[n : n + 1].clone().requires_grad_()
        network(image)[0, n % 4, 2, 2].backward()
        expected += image.grad[0].abs().sum(0) / 8
    torch.testing.assert_close(field.mass, expected)


def test_simplecnn(ten_digits):
    torch.manual_seed(0)
    network = SimpleCNN()
    digits = torch.from_numpy(ten_digits[0])
    fields = effective_fields(network, digits)
    assert list(fields) == ["conv1", "pool1", "conv2", "pool2", "conv3", "pool3"]
    theory = receptive_fields(network, 28)
    for name, field in fields.items():
        assert field.interval == theory[name].interval(field.unit)
        (top, bottom), (left, right) = field.interval
        inside = field.mass[max(top, 0) : bottom + 1, max(left, 0) : right + 1]
        assert field.mass.shape == (28, 28) and float(field.mass.sum()) > 0
        assert float(field.mass.sum()) == float(inside.sum())  # none outside the theoretical field
        assert 0 < field.square(0.5) <= field.square(0.95) <= theory[name].size[0]
    assert fields["pool3"].unit == (1, 1)
    assert all(p.grad is None for p in network.parameters()) and not digits.requires_grad
    again = effective_fields(network, digits, layers={"conv2"})
    torch.testing.assert_close(again["conv2"].mass, fields["conv2"].mass)


def test_effective_fields_work_under_no_grad():
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.ReLU(inplace=True))
    with torch.no_grad():
        (field,) = effective_fields(network, images(2, 1, 8, 8, dtype=torch.float32)).values()
    assert float(field.mass.sum()) > 0


def test_squares_have_the_parity_of_the_theoretical_field():
    mass = torch.zeros(6, 6, dtype=torch.float64)
    mass[2:4, 2:4] = 1.0
    mass[1, 1] = 1.0
    field = EffectiveField(mass, (0, 0), ((1, 4), (1, 4)))
    assert (field.square(0.5), field.square(0.8), field.square(0.81)) == (2, 2, 4)
    clipped = EffectiveField(mass, (0, 0), ((-3, 2), (-3, 2)))  # center at -0.5
    assert clipped.square(0.2) == 4 and clipped.square(1) == 8
    assert clipped.ratio == 8 / 6
    vertical = EffectiveField(mass[:, 2:3].contiguous(), (0, 0), ((2, 3), (0, 0)))
    assert vertical.sigma == (0.5, 0.0)


def test_a_dead_unit_has_no_mass():
    network = nn.Sequential(nn.Conv2d(1, 1, 3))
    nn.init.zeros_(network[0].weight)
    (field,) = effective_fields(network, images(2, 1, 8, 8, dtype=torch.float32)).values()
    assert all(map(math.isnan, field.sigma)) and field.square(0.95) == 0 and field.ratio == 0


class Wide(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, (3, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.conv(x)).permute(0, 2, 3, 1)


def test_channels_may_be_the_last_dimension():
    field = effective_fields(Wide(), images(2, 1, 9, 12, dtype=torch.float32), layers=["output"])
    assert field["output"].unit == (3, 3) and field["output"].interval == ((3, 5), (3, 7))
    assert field["output"].mass[:3].sum() == 0


def test_errors_for_invalid_arguments():
    network = SimpleCNN()
    with pytest.raises(ValueError, match=r"images has shape \(28, 28\): give \(N, C, H, W\)"):
        effective_fields(network, torch.rand(28, 28))
    with pytest.raises(ValueError, match="N > 0"):
        effective_fields(network, torch.rand(0, 1, 28, 28))
    with pytest.raises(ValueError, match="there is no layer conv9: choose from conv1"):
        effective_fields(network, torch.rand(1, 1, 28, 28), layers=["conv9"])
    with pytest.raises(ValueError, match="layer fc1 has no grid of units"):
        effective_fields(network, torch.rand(1, 1, 28, 28), layers=["fc1"])
    field = EffectiveField(torch.ones(3, 3), (0, 0), ((0, 2), (0, 2)))
    with pytest.raises(ValueError, match="share is 95: give a fraction of the mass"):
        field.square(95)
