"""Receptive field and cost of lists of (kernel, stride), against published values."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from simplecnn.models.simple_cnn import SimpleCNN
from simplecnn.receptive_field import receptive_field, stack

VGG_STYLE = [(3, 1), (3, 1), (2, 2), (3, 1), (3, 1), (2, 2)]
layer_lists = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 3)), max_size=6)


@pytest.mark.parametrize(
    ("layers", "size"),
    [
        ([], 1),
        ([(7, 1)], 7),
        ([(3, 1)] * 3, 7),
        ([(5, 1)] * 2, 9),
        (VGG_STYLE, 16),
        (VGG_STYLE + VGG_STYLE[:3], 36),
        ([(3, 1), (2, 2)] * 3, 22),
    ],
)
def test_receptive_fields_of_the_tutorial(layers, size):
    assert receptive_field(layers) == size


def tutorial(layers) -> int:
    """The tutorial's implementation."""
    size = jump = 1
    for kernel, stride in layers:
        size += (kernel - 1) * jump
        jump *= stride
    return size


@settings(max_examples=50, deadline=None, derandomize=True)
@given(layer_lists, layer_lists)
def test_a_chain_of_chains(first, second):
    jump = 1
    for _, stride in first:
        jump *= stride
    size = receptive_field(first + second)
    assert size == tutorial(first + second)
    assert size == receptive_field(first) + (receptive_field(second) - 1) * jump


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [(3, 1), (0, 1)],
            r"layer 1 is \(0, 1\): give a pair of positive integers, \(kernel, stride\)",
        ),
        ([(3, -1)], r"layer 0 is \(3, -1\)"),
        ([3], r"layer 0 is 3: give a pair"),
        ([(3, 1, 1)], r"layer 0 is \(3, 1, 1\): give a pair"),
        ([(2.5, 1)], r"layer 0 is \(2\.5, 1\): give a pair of positive integers"),
    ],
)
def test_invalid_layers_are_named(layers, message):
    with pytest.raises(ValueError, match=message):
        receptive_field(layers)


def test_stack_counts_the_input_channels_that_the_tutorial_ignores():
    seven = stack([(7, 1)], channels=[16], in_channels=1)
    three = stack([(3, 1)] * 3, channels=[16] * 3, in_channels=1)
    # With one input channel, three 3x3 have six times as many parameters as one 7x7.
    assert seven.num_parameters == 49 * 16 + 16 == 800
    assert three.num_parameters == (9 * 16 + 16) + 2 * (9 * 16 * 16 + 16) == 4800
    assert seven.num_macs == 28 * 28 * 49 * 16
    assert three.num_macs == 28 * 28 * (9 * 16 + 2 * 9 * 16 * 16)
    # With as many input as output channels, the ratio is that of the tutorial.
    seven, three = (
        stack(x, channels=[64] * len(x), in_channels=64) for x in ([(7, 1)], [(3, 1)] * 3)
    )
    assert three.num_macs / seven.num_macs == pytest.approx(27 / 49)


def test_stack_agrees_with_the_network_it_describes():
    layers, channels = [(3, 1), (2, 2)] * 3, [16, None, 32, None, 64, None]
    result = stack(layers, channels=channels)
    convolutions = [m for m in SimpleCNN().modules() if isinstance(m, nn.Conv2d)]
    assert result.num_parameters == sum(p.numel() for c in convolutions for p in c.parameters())
    assert result.num_macs == sum(
        c.weight.numel() * size**2 for c, size in zip(convolutions, (28, 14, 7), strict=True)
    )
    assert result.sizes == (3, 4, 8, 10, 18, 22)


@pytest.mark.parametrize(
    ("layers", "sigma"),
    [
        ([(7, 1)], 2.0),
        ([(3, 1)] * 3, 2**0.5),
        ([(5, 1)] * 2, 2.0),
        (VGG_STYLE, 2.814),
        ([(3, 1), (2, 2), (3, 1), (2, 2), (3, 1)], 3.905),
        ([(3, 1), (2, 2)] * 3, 4.387),
    ],
)
def test_sigma_of_uniform_weights_has_a_closed_form(layers, sigma):
    result = stack(layers, channels=[1] * len(layers))
    assert result.sigma == pytest.approx(sigma, abs=5e-4)
    jump, variance = 1, 0.0
    for kernel, stride in layers:
        variance += (kernel**2 - 1) / 12 * jump**2
        jump *= stride
    assert result.sigma == pytest.approx(variance**0.5)
    assert sum(result.profile) == pytest.approx(1)
    assert len(result.profile) == receptive_field(layers)


def test_stack_errors():
    with pytest.raises(ValueError, match="channels has 1 entries for 2 layers"):
        stack([(3, 1), (3, 1)], channels=[16])
    with pytest.raises(ValueError, match="nothing is left of 4 pixels after 2 layers"):
        stack([(2, 2)] * 3, channels=[None] * 3, image_size=4)
