"""A card says what a channel is: the best images truly are, and removing it truly removes it."""

import json

import numpy as np
import pytest
import torch
from looked_at import colour_subject, digit_subject
from torch import nn
from torch.nn import functional as F

from simplecnn.errors import InputError
from simplecnn.explain.channel_cards import (
    chosen_layers,
    crop,
    effects_of_removal,
    most_active,
    unit_cards,
)
from simplecnn.explain.removal import logits_without
from simplecnn.explain.subject import logits
from simplecnn.models.activations import feature_maps
from simplecnn.receptive_field.fields import receptive_fields


def test_removal_is_that_of_the_weights(bundled):
    """Without normalisation, a channel whose weights are all zero is a channel removed."""
    subject = digit_subject(bundled)
    for layer in ("conv1", "conv2"):
        found = logits_without(subject.network, subject.images, layer=layer, channels=[1, 3])
        for channel, answers in zip((1, 3), found, strict=True):
            module = subject.network.get_submodule(layer)
            weight, bias = module.weight.clone(), module.bias.clone()
            module.weight[channel] = 0
            module.bias[channel] = 0
            torch.testing.assert_close(answers, logits(subject.network, subject.images))
            module.weight.copy_(weight)
            module.bias.copy_(bias)


def test_removal_behind_a_normalisation_and_no_hook_is_left():
    subject = colour_subject()
    network = subject.network
    (answers,) = logits_without(network, subject.images, layer="stem", channels=[2])
    x = F.relu(network.norm(network.stem(subject.images)))
    x[:, 2] = 0
    x = F.relu(x + network.inner(x))
    expected = network.head(F.relu(network.down(F.max_pool2d(x, 2))).mean((2, 3)))
    torch.testing.assert_close(answers, expected)
    assert not any(m._forward_hooks for m in network.modules())


def test_effects_by_hand():
    labels = torch.tensor([0, 0, 1, 2])
    before = torch.eye(4)[[0, 1, 1, 2]] * 9
    without = torch.eye(4)[[0, 0, 0, 2]] * 9
    (effect,) = effects_of_removal(before, without[None], labels, num_classes=4)
    assert effect.acc == 0 and effect.acc_per_class[:3].tolist() == [0.5, -1, 0]
    assert np.isnan(effect.acc_per_class[3]) and effect.loss == pytest.approx(0, abs=1e-6)


def test_crops_are_exact_fields():
    image = np.arange(784.0).reshape(1, 28, 28)
    fields = receptive_fields(
        nn.Sequential(nn.Conv2d(1, 1, 5, 2, 2), nn.Conv2d(1, 1, 28, 1, 14)), 28
    )
    inside = crop(image, fields["0"], (5, 6))
    assert np.array_equal(inside, image[:, 8:13, 10:15])
    corner = crop(image, fields["0"], (0, 0))
    assert np.isnan(corner[0, :2]).all() and np.isnan(corner[0, :, :2]).all()
    assert np.array_equal(corner[0, 2:, 2:], image[0, :3, :3])
    assert crop(image, fields["1"], (0, 0)).shape[1] <= 28  # larger than the image: cut


def test_cards_of_digits(bundled, tmp_path):
    subject = digit_subject(bundled)
    path = unit_cards(subject, num_images=100).save(tmp_path, "units")
    record = json.loads((path / "units.json").read_text())
    arrays = np.load(path / "units.npz")
    assert len(list(path.glob("conv*.png"))) == record["num_units"] == 12
    maps, answers = feature_maps(subject.network, subject.images)
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
    changes = [unit["acc_change"] for unit in record["units"]]
    assert changes == sorted(changes) and record["num_images"] == 100
    assert all(0 <= u["selectivity"] <= 1 for u in record["units"] if not u["dead"])
    width = int.from_bytes((path / f"{record['units'][0]['card']}.png").read_bytes()[16:20])
    assert width == 1260


def test_dead_channels_and_few_cards(bundled, tmp_path):
    subject = digit_subject(bundled, num_steps=2)
    subject.network.conv2.weight[5] = 0
    subject.network.conv2.bias[5] = -1
    found = unit_cards(subject, num_images=50, num_cards=200)
    (dead,) = (u for u in found.record["units"] if (u["layer"], u["channel"]) == ("conv2", 5))
    assert dead["dead"] and dead["selectivity"] is None and dead["acc_change"] == 0
    assert found.lines[-1].endswith("are dead")
    few = unit_cards(subject, layers=["conv2"], num_images=50, num_cards=3)
    assert few.record["num_cards"] == 3 and few.record["num_units"] == 8
    assert all(u["channel"] != 5 for u in few.record["units"])  # the most active ones
    assert few.lines[-1].startswith("3 of 8 channels removed")


def test_a_residual_network_in_colour(tmp_path):
    found = unit_cards(colour_subject(), num_images=40)
    path = found.save(tmp_path, "units")
    assert {p.stem for p in path.glob("*.png")} == {
        "index",
        *(f"{layer}_{i:03d}" for layer, n in (("stem", 6), ("inner", 6), ("down", 8))
          for i in range(n)),
    }  # fmt: skip


def test_what_is_not_there():
    with pytest.raises(
        InputError, match="There is no convolution conv9: all, first, last, or of 0"
    ):
        chosen_layers(nn.Sequential(nn.Conv2d(1, 1, 3)), "conv9")
    with pytest.raises(InputError, match="Linear has no 2-D convolution"):
        chosen_layers(nn.Linear(2, 2), "all")
    assert most_active({}, 5) == {}
