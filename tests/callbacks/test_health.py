"""Activity, gradients and updates of layers agree with NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from simplecnn.models.activity import (
    ActivityMeter,
    gradient_norms,
    measured_layers,
    update_ratios,
)


def outputs(*shape: int, channels_last: bool = False) -> torch.Tensor:
    """Rectified random numbers: unit 0 is dead, unit 1 is active for every image."""
    values = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float().relu()
    flat = values.flatten(1)
    flat[:, 0], flat[:, 1] = 0, flat[:, 1] + 0.5
    values = flat.reshape(shape)
    return values.contiguous(memory_format=torch.channels_last) if channels_last else values


@pytest.mark.parametrize(
    ("shape", "channels_last"), [((50, 3, 4, 5), True), ((50, 3, 4, 5), False), ((50, 7), False)]
)
def test_an_activity_meter_agrees_with_numpy(shape, channels_last):
    values = outputs(*shape, channels_last=channels_last)
    meter = ActivityMeter()
    for batch in values.split(16):
        meter.add(batch)
    result, expected = meter.result(), values.numpy()
    assert meter.num_images == 50
    assert result["dead"] == pytest.approx((expected <= 0).all(0).mean()) and result["dead"] > 0
    always_on = (expected > 0).all(0).mean()
    assert result["always_on"] == pytest.approx(always_on) and always_on > 0
    assert result["zeros"] == pytest.approx((expected == 0).mean(), abs=1e-12)
    assert result["mean"] == pytest.approx(expected.mean(), rel=1e-5)
    assert result["std"] == pytest.approx(expected.std(), rel=1e-5)


def test_the_last_dimension_of_tokens_are_the_units():
    values = outputs(10, 6, 5, channels_last=False)  # images, tokens, units
    values[..., 2] = 0
    meter = ActivityMeter()
    meter.add(values)
    assert meter.result()["dead_channels"] == 1


@pytest.mark.parametrize("channels_last", [True, False])
def test_dead_channels_and_outputs_below_zero(channels_last):
    values = outputs(10, 3, 2, 2, channels_last=channels_last)
    values[:, 2] = 0
    meter = ActivityMeter()
    meter.add(values)
    assert meter.result()["dead_channels"] == 1
    meter.add(-values)
    assert all(np.isnan(meter.result()[n]) for n in ("dead", "always_on", "dead_channels"))


def test_gradients_and_updates_by_layer():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1))
    modules = measured_layers(network)
    assert list(modules) == ["0", "3"]
    assert gradient_norms(modules.values()).isnan().all()  # before the first step
    before = [m.weight.detach().clone() for m in modules.values()]
    network(torch.ones(1, 1, 3, 3)).backward()
    torch.optim.SGD(network.parameters(), lr=0.5).step()
    norms = gradient_norms(modules.values())
    for i, module in enumerate(modules.values()):
        assert norms[i] == pytest.approx(float(module.weight.grad.norm()))
        expected = 0.5 * float(module.weight.grad.norm()) / float(before[i].norm())
        assert float(update_ratios(modules.values(), before)[i]) == pytest.approx(
            expected, rel=1e-4
        )
