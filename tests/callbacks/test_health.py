"""What is said of a layer's units is what its outputs were."""

import numpy as np
import pytest
import torch
from torch import nn

from simplecnn.callbacks.activity import (
    ActivityMeter,
    gradient_norms,
    layers,
    merged,
    update_ratios,
)


def outputs(*shape: int, channels_last: bool = False) -> torch.Tensor:
    """Rectified random numbers: unit 0 is dead, unit 1 is on for every image."""
    values = torch.from_numpy(np.random.default_rng(0).normal(size=shape)).float().relu()
    flat = values.flatten(1)
    flat[:, 0], flat[:, 1] = 0, flat[:, 1] + 0.5
    values = flat.reshape(shape)
    return values.contiguous(memory_format=torch.channels_last) if channels_last else values


@pytest.mark.parametrize(
    ("shape", "channels_last"), [((50, 3, 4, 5), True), ((50, 3, 4, 5), False), ((50, 7), False)]
)
def test_a_meter_knows_what_numpy_counts(shape, channels_last):
    values = outputs(*shape, channels_last=channels_last)
    meter = ActivityMeter()
    for batch in values.split(16):
        meter.add(batch)
    found, expected = meter.result(), values.numpy()
    assert found.num_images == 50 and found.rectified
    np.testing.assert_array_equal(found.dead, (expected <= 0).all(0))
    np.testing.assert_array_equal(found.always_on, (expected > 0).all(0))
    assert found.dead.flatten()[0] and found.always_on.flatten()[1]
    assert found.zeros == pytest.approx((expected == 0).mean(), abs=1e-12)
    assert found.mean == pytest.approx(expected.mean(), rel=1e-5)
    assert found.std == pytest.approx(expected.std(), rel=1e-5)


def test_dead_channels_and_outputs_below_zero():
    values = outputs(10, 3, 2, 2)
    values[:, 2] = 0
    meter = ActivityMeter()
    meter.add(values)
    assert meter.result().dead_channels.tolist() == [False, False, True]
    meter.add(-values)
    assert not meter.result().rectified


def test_processes_together_know_what_one_would():
    values = outputs(30, 2, 3, 3)
    alone, first, second = ActivityMeter(), ActivityMeter(), ActivityMeter()
    alone.add(values)
    first.add(values[:10])
    second.add(values[10:])
    one, both = alone.result(), merged([first.result(), second.result()])
    assert torch.equal(one.dead, both.dead) and torch.equal(one.always_on, both.always_on)
    assert both.num_images == 30 and both.rectified
    for name in ("zeros", "mean", "std"):
        assert getattr(both, name) == pytest.approx(getattr(one, name), rel=1e-5)


def test_gradients_and_updates_by_layer():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2, 1))
    found = layers(network)
    assert list(found) == ["0", "3"]
    assert gradient_norms(found.values()).isnan().all()  # before the first step
    before = [m.weight.detach().clone() for m in found.values()]
    network(torch.ones(1, 1, 3, 3)).backward()
    torch.optim.SGD(network.parameters(), lr=0.5).step()
    norms = gradient_norms(found.values())
    for i, module in enumerate(found.values()):
        assert norms[i] == pytest.approx(float(module.weight.grad.norm()))
        expected = 0.5 * float(module.weight.grad.norm()) / float(before[i].norm())
        assert float(update_ratios(found.values(), before)[i]) == pytest.approx(expected, rel=1e-4)
