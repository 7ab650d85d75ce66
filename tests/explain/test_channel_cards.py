"""Channel cards: the most activating images, selectivity, and the effect of removing a channel."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from subjects import color_subject, digit_subject
from torch import nn
from torch.nn import functional as F

from simplecnn.errors import InputError
from simplecnn.explain.channel_cards import (
    _table,
    channel_cards,
    crop,
    layer_fields,
    measure_removal,
    most_active,
)
from simplecnn.figures.explain.channel_cards import Channel
from simplecnn.inference.networks import logits
from simplecnn.models.activations import feature_maps, select_convolutions
from simplecnn.receptive_field.fields import receptive_fields


def empty_channel(num_classes: int) -> Channel:
    zeros = np.zeros(9)
    return Channel("0", 0, zeros, zeros, zeros, zeros, np.zeros(num_classes), zeros, zeros)


def test_a_layer_whose_name_begins_with_that_of_a_convolution_is_another_layer():
    network = nn.Sequential()
    network.add_module("conv", nn.Conv2d(1, 2, 3))
    network.add_module("conv_pool", nn.MaxPool2d(4))
    assert layer_fields(network, (12, 12))["conv"].units == (10, 10)


def test_removal_with_a_known_effect():
    """Channel 0 detects bright images: without it, all images are predicted as class 1."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten())
    network.requires_grad_(False)
    network[0].weight[:] = torch.tensor([2.0, 0.0]).view(2, 1, 1, 1)
    network[0].bias[:] = torch.tensor([0.0, 1.0])
    images = torch.tensor([0.9, 0.8, 0.1, 0.2]).view(4, 1, 1, 1)
    labels = torch.tensor([0, 0, 1, 0])
    before = logits(network, images)
    channel = empty_channel(num_classes=3)
    measure_removal(channel, network, images, labels, before)
    assert channel.acc_change == -0.5
    assert channel.acc_change_per_class[:2].tolist() == [pytest.approx(-2 / 3), 0]
    assert np.isnan(channel.acc_change_per_class[2])  # a class without images
    loss = F.cross_entropy(torch.tensor([[0.0, 1.0]] * 4), labels) - F.cross_entropy(before, labels)
    assert channel.loss_change == pytest.approx(float(loss)) and channel.card == "0_000"


def test_selectivity_of_known_means():
    channel = empty_channel(num_classes=3)
    for means, expected in (([4, 1, 1], 0.6), ([2, 2, 2], 0), ([0, 3, 0], 1), ([-1, 3, -2], 1)):
        channel.class_means = np.array(means, float)
        assert channel.selectivity == pytest.approx(expected)
    assert channel.preferred == 1
    channel.class_means = np.array([np.nan, 4, 1])  # a class without images
    assert channel.selectivity == pytest.approx(0.6) and channel.preferred == 1
    channel.class_means = np.zeros(3)
    assert np.isnan(channel.selectivity)


def test_the_worst_class_is_named_only_if_it_loses_accuracy():
    channel = empty_channel(num_classes=2)
    channel.acc_change = -0.125
    for changes, worst in (
        ([0.25, -0.5], ["b", "50.00"]),
        ([-0.5, -0.5], ["a,", "b", "50.00"]),  # tied
        ([0.25, 0.0], ["-", "-"]),
        ([np.nan] * 2, ["-", "-"]),
    ):
        channel.acc_change_per_class = np.array(changes)
        heading, row = _table([channel], ["a", "b"])
        assert "   class that loses most   lost by this class   " in heading
        # No selectivity: it is never active.
        assert row.split() == ["0", "0", "12.50", *worst, "-"]


def test_crops_are_exact_receptive_fields():
    image = np.arange(784.0).reshape(1, 28, 28)
    fields = receptive_fields(
        nn.Sequential(nn.Conv2d(1, 1, 5, 2, 2), nn.Conv2d(1, 1, 28, 1, 14)), 28
    )
    inside = crop(image, fields["0"], (5, 6))
    assert np.array_equal(inside, image[:, 8:13, 10:15])
    corner = crop(image, fields["0"], (0, 0))
    assert np.isnan(corner[0, :2]).all() and np.isnan(corner[0, :, :2]).all()
    assert np.array_equal(corner[0, 2:, 2:], image[0, :3, :3])
    assert crop(image, fields["1"], (0, 0)).shape[1] <= 28  # larger than the image: clipped
    normalized = nn.Sequential(nn.Conv2d(2, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3))
    whole = receptive_fields(normalized, (2, 28, 28))["2"]  # every position sees the whole image
    pixels = np.ones((2, 28, 28), np.float32)
    assert crop(pixels, whole, (7, 9)).shape == pixels.shape


def test_cards_of_digits(bundled):
    subject = digit_subject(bundled)
    findings = channel_cards(subject, num_images=100)
    record, arrays = json.loads(json.dumps(findings.record)), findings.arrays
    assert len(record["channels"]) == record["num_cards"] == record["num_channels"] == 12
    maps, _ = feature_maps(subject.network, subject.images)
    for layer in ("conv1", "conv2"):
        peaks = maps[layer].amax((2, 3))
        for channel in range(peaks.shape[1]):
            best = arrays[f"{layer}/best"][channel]
            assert len(set(best.tolist())) == 9
            top = peaks[:, channel].sort(descending=True).values[:9]
            np.testing.assert_allclose(arrays[f"{layer}/peaks"][channel], top, rtol=1e-5)
            row, column = arrays[f"{layer}/places"][channel, 0]
            value = maps[layer][best[0], channel, row, column]
            assert float(value) == pytest.approx(float(top[0]), rel=1e-5)
        assert arrays[f"{layer}/counts"].sum(1) == pytest.approx(100 * maps[layer][0, 0].numel())
    changes = [channel["acc_change"] for channel in record["channels"]]
    assert changes == sorted(changes) and record["num_images"] == 100
    assert all(0 <= c["selectivity"] <= 1 for c in record["channels"] if not c["dead"])


@pytest.mark.parametrize("color", [False, True])
def test_all_text_lies_inside_the_figures(bundled, color):
    subject = color_subject() if color else digit_subject(bundled)
    figures = dict(channel_cards(subject, layers="last", num_images=20).figures)
    for name in ("index", next(name for name in figures if name != "index")):
        figure = figures[name]
        figure.canvas.draw()
        width, height = figure.canvas.get_width_height()
        for text in [t for ax in figure.axes for t in ax.texts]:
            box = text.get_window_extent(figure.canvas.get_renderer())
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, text


def test_dead_channels_and_few_cards(bundled):
    subject = digit_subject(bundled, num_steps=2)
    subject.network.conv2.weight[5] = 0
    subject.network.conv2.bias[5] = -1
    findings = channel_cards(subject, num_images=50, num_cards=200)
    channels = findings.record["channels"]
    (dead,) = (c for c in channels if (c["layer"], c["channel"]) == ("conv2", 5))
    assert dead["dead"] and dead["selectivity"] is None and dead["acc_change"] == 0
    assert findings.lines[-1].endswith("channels are dead (zero on all test images)")
    few = channel_cards(subject, layers=["conv2"], num_images=50, num_cards=3)
    assert few.record["num_cards"] == 3 and few.record["num_channels"] == 8
    assert all(c["channel"] != 5 for c in few.record["channels"])  # only the most active ones
    assert few.lines[-2].startswith("3 of 8 channels were removed")
    assert np.isfinite(few.arrays["conv2/acc_change"]).sum() == 3
    names = [name for name, _ in few.figures]
    assert names == ["index", *(c["card"] for c in few.record["channels"])]


def test_a_residual_network_in_color():
    findings = channel_cards(color_subject(), num_images=40)
    assert {channel["card"] for channel in findings.record["channels"]} == {
        f"{layer}_{i:03d}"
        for layer, n in (("stem", 6), ("inner", 6), ("down", 8))
        for i in range(n)
    }


def test_layers_that_do_not_exist():
    message = (
        "conv9 is not a convolution of this network. Allowed: all, first, last, or a list of 0"
    )
    with pytest.raises(InputError, match=message):
        select_convolutions(nn.Sequential(nn.Conv2d(1, 1, 3)), "conv9")
    assert list(select_convolutions(nn.Sequential(nn.Conv2d(1, 1, 3)), "last")) == ["0"]
    linear = dataclasses.replace(color_subject(), network=nn.Linear(2, 2))
    with pytest.raises(InputError, match="Linear has no 2-D convolution"):
        channel_cards(linear)
    assert most_active({}, 5) == []
