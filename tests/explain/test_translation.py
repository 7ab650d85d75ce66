"""Shifts are exact, consistency counts pairs, and maps are equivariant where theory says so."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from subjects import color_subject, digit_subject
from torch import nn

from simplecnn.explain.translation import (
    accuracy_by_shift,
    equivariance_errors,
    measure_shifts,
    shift_metrics,
    shifted,
    translation,
)


def test_shifted_fills_with_zeros():
    image = torch.arange(1.0, 10).view(1, 1, 3, 3)
    assert shifted(image, 1, 0)[0, 0].tolist() == [[0, 0, 0], [1, 2, 3], [4, 5, 6]]
    assert shifted(image, 0, -2)[0, 0].tolist() == [[3, 0, 0], [6, 0, 0], [9, 0, 0]]
    assert shifted(image, 5, 0).sum() == 0
    assert torch.equal(shifted(image, 0, 0), image)


def test_consistency_counts_all_pairs_of_shifts():
    rng = np.random.default_rng(0)
    answers = rng.integers(0, 3, (11, 11, 4))
    metrics = shift_metrics({"answers": answers, "labels": np.zeros(4, int)})
    near = answers[1:10, 1:10].reshape(81, 4)  # shifts by up to 4 pixels
    pairs = [near[i] == near[j] for i, j in itertools.product(range(81), repeat=2)]
    assert metrics["consistency"] == pytest.approx(np.mean(pairs, 0))
    assert metrics["near_accuracy"] == pytest.approx((near == 0).mean(0))
    assert metrics["accuracy"].tolist() == (answers[5, 5] == 0).tolist()
    few = shift_metrics({"answers": answers[4:7, 4:7], "labels": np.zeros(4, int)})
    assert few["near_accuracy"] == pytest.approx((answers[4:7, 4:7] == 0).mean((0, 1)))


class Halves(nn.Module):
    """Predicts class 0 for ink in the left half, otherwise class 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[..., :4].sum((1, 2, 3)), x[..., 4:].sum((1, 2, 3))], 1)


def test_accuracy_by_shift_of_a_known_network():
    images = torch.zeros(2, 1, 8, 8)
    images[0, 0, 4, 3] = images[1, 0, 4, 4] = 1
    shifts = measure_shifts(Halves(), images, torch.tensor([0, 1]), reach=2)
    accuracy = accuracy_by_shift(shifts)
    assert accuracy[0].tolist() == [0.5, 0.5, 1.0, 0.5, 0.5]  # rows dy, columns dx
    assert accuracy.shape == (5, 5) and shifts["ink"].min() == 1
    assert (accuracy == accuracy[0]).all()


def test_maps_shift_with_the_image_by_multiples_of_the_stride_away_from_borders(bundled):
    subject = digit_subject(bundled, num_steps=5)
    errors = equivariance_errors(subject.network, subject.images[:30], reach=4)
    assert list(errors)[:3] == ["conv1", "relu1", "pool1"] and "fc1" not in errors
    assert (errors["conv1"].interior <= 1e-6).all()
    assert (errors["pool2"].interior[[0, 4]] <= 1e-6).all()
    assert (errors["pool2"].interior[1:4] > 0.01).all()  # its total stride is 4 pixels
    assert (errors["conv2"].all_units[[2, 4]] > 1e-3).all()  # includes the border
    assert (errors["conv1"].unmoved[1:] > 0.1).all() and errors["conv1"].unmoved[0] == 0
    assert errors["conv1"].num_interior[1] == 26 * 25 + 25 * 26
    with torch.no_grad():  # the same error by its definition
        original = subject.network.conv1(subject.images[:30])
        changes = [
            subject.network.conv1(shifted(subject.images[:30], *shift)) - original
            for shift in ((1, 0), (0, 1))
        ]
    expected = float(torch.stack(changes).norm() / (2**0.5 * original.norm()))
    assert errors["conv1"].unmoved[1] == pytest.approx(expected, rel=1e-4)


def test_an_interpolated_map_away_from_the_border_reads_no_position_at_the_border():
    ramp = (torch.arange(28.0)[:, None] + torch.arange(28.0) + 5).expand(2, 1, 28, 28)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2, padding=1)).requires_grad_(False)
    # The map of a ramp is a ramp, which linear interpolation between positions reproduces.
    errors = equivariance_errors(network, ramp, reach=4)["0"]
    assert (errors.interior <= 1e-5).all() and errors.all_units[1] > 0.1


def test_positions_that_see_the_padding_of_a_cropped_image_are_not_away_from_the_border():
    network = nn.Sequential(nn.ZeroPad2d(-4), nn.Conv2d(1, 4, 3, padding=1)).requires_grad_(False)
    errors = equivariance_errors(network, torch.rand(4, 1, 28, 28), reach=3)["1"]
    assert (errors.interior <= 1e-6).all() and errors.all_units[1] > 0.01
    assert errors.num_interior.tolist() == [2 * 18 * (18 - shift) for shift in range(4)]


def test_findings_of_one_network_and_of_several(bundled, tmp_path):
    findings = translation([digit_subject(bundled)], num_images=30, num_maps=10, reach=2)
    path = findings.save(tmp_path, "translation")
    names = {p.name for p in path.iterdir()}
    assert names == {
        "accuracy_by_shift.png", "layers.png", "translation.json", "translation.npz"
    }  # fmt: skip
    arrays = np.load(path / "translation.npz")
    accuracy = (arrays["0/answers"] == arrays["0/labels"]).mean(-1)
    group = findings.record["groups"]["all"]
    assert group["accuracy"]["mean"] == pytest.approx(accuracy[2, 2])
    assert group["accuracy"]["low"] < accuracy[2, 2] < group["accuracy"]["high"]
    assert f"{100 * accuracy[2, 2]:.2f} [" in findings.lines[3]
    subjects = [
        replace(digit_subject(bundled, seed=i, num_steps=5), values={"model.network.pool": pool})
        for i, pool in [(1, "max"), (2, "max"), (3, "none")]
    ]  # fmt: skip
    several = translation(subjects, num_images=30, num_maps=10, reach=1)
    assert [line.split("   ")[-1].strip() for line in several.lines[3:5]] == [
        "2 networks (too few)",
        "30 images",
    ]
    assert several.record["near"] == 1 and "shifted: by up to 1 px" in several.lines[1]
    assert set(several.record["groups"]) == {"pool max", "pool none"}
    assert several.record["groups"]["pool max"]["consistency"]["n"] == 2
    assert {name for name, _ in several.figures} == {
        "accuracy_by_shift", "layers_pool_max", "layers_pool_none", "shift_report"
    }  # fmt: skip


def test_a_residual_network_in_color():
    findings = translation([color_subject()], num_images=20, num_maps=8, reach=4)
    layers = findings.record["groups"]["all"]["layers"]
    assert max(layers["down"]["interior"][::4]) < 1e-5 and layers["down"]["jump"] == "4"
    assert layers["inner"]["interior"][1] < 1e-5


def test_a_figure_of_some_layers_states_how_many_of_all(bundled):
    layers = [nn.Conv2d(1, 1, 3, padding=1) for _ in range(9)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(784, 10)).requires_grad_(False)
    subject = replace(digit_subject(bundled), network=network)
    findings = translation([subject], num_images=9, reach=1)
    figure = dict(findings.figures)["layers"]
    assert len(findings.record["groups"]["all"]["layers"]) == 9
    assert len(figure.axes) == 8 and "8 of 9 layers" in figure._suptitle.get_text()
    assert "(0: maps shift with the image exactly), 8 of 9 layers: 0 0, 1 0," in findings.lines[-1]
