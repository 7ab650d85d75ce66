"""Attributions are complete, find the pixels that matter, and score uninformative maps as such."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from subjects import color_subject, digit_subject
from torch import nn

from simplecnn.errors import InputError
from simplecnn.explain.attribution import (
    METHODS,
    attribution,
    attributions,
    grad_cam,
    grad_cam_layer,
)
from simplecnn.inference.networks import logits


class Corner(nn.Module):
    """The first logit is the ink in the upper left quadrant, the second is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.act = nn.ReLU(inplace=True)
        nn.init.ones_(self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ink = self.act(self.conv(x))[..., :14, :14].sum((1, 2, 3))
        return torch.stack([ink, torch.zeros_like(ink)], 1)


def test_attributions_of_a_network_with_known_attributions():
    torch.manual_seed(0)
    images = torch.rand(2, 1, 28, 28)
    results = attributions(Corner(), images, torch.tensor([0, 0]), seed=0)
    exact = images[:, 0].clone()
    exact[:, 14:] = exact[:, :, 14:] = 0
    assert list(results) == list(METHODS)
    maps, infidelity = results["integrated gradients"]
    np.testing.assert_allclose(maps, exact, atol=1e-5)
    assert (infidelity < 1e-4).all()
    maps, _ = results["occlusion"]
    assert abs(maps[:, 16:, 16:]).max() < 1e-4 and (maps[:, :12, :12] > 0).all()


def test_integrated_gradients_add_up_to_the_change_of_the_logit(bundled):
    subject = digit_subject(bundled)
    images, targets = subject.images[:4], subject.labels[:4]
    before = [p.clone() for p in subject.network.parameters()]
    results = attributions(subject.network, images, targets, seed=0)
    change = logits(subject.network, images) - logits(subject.network, torch.zeros(1, 1, 28, 28))
    expected = change.gather(1, targets[:, None])[:, 0].numpy()
    total = results["integrated gradients"][0].sum((1, 2))
    np.testing.assert_allclose(total, expected, rtol=0.1, atol=0.15)
    assert results["Grad-CAM"][0].shape == (4, 14, 14)  # the grid of conv2
    assert grad_cam_layer(subject.network, images[:1]) == "conv2"
    assert all(0 <= i <= 1.001 for _, scores in results.values() for i in scores)
    assert all(map(torch.equal, subject.network.parameters(), before))
    assert not any(p.requires_grad or p.grad is not None for p in subject.network.parameters())


def test_findings(bundled, tmp_path):
    subject = digit_subject(bundled, num_steps=20)
    findings = attribution(subject, num_right=2, num_wrong=2)
    path = findings.save(tmp_path, "attribution")
    outputs = logits(subject.network, subject.images)
    indices = findings.record["images"]
    correct = (outputs.argmax(1) == subject.labels)[indices].tolist()
    assert correct == [True, True, False, False]
    wrong = (outputs.argmax(1) != subject.labels).nonzero().flatten()
    confidence = outputs.softmax(1).amax(1)
    assert indices[2] == int(wrong[confidence[wrong].argmax()])
    arrays = np.load(path / "attribution.npz")
    assert arrays["trained/occlusion"].shape == arrays["random/occlusion"].shape == (4, 28, 28)
    assert not np.allclose(arrays["trained/occlusion"], arrays["random/occlusion"])
    assert "2 correct and 2 of " in findings.lines[0]
    infidelity = np.mean(findings.record["methods"]["occlusion"]["infidelity"])
    (row,) = (line for line in findings.lines if line.startswith("occlusion"))
    assert row.split()[1] == f"{100 * (1 - infidelity):.0f}"  # percent that the map explains
    assert re.search(r" [+-]0\.\d\d$", row) and "constant" not in "".join(findings.lines)
    assert (path / "attribution.png").stat().st_size > 9999


def test_a_constant_map_has_no_rank_correlation(bundled):
    subject = digit_subject(bundled, num_steps=5)
    blind = copy.deepcopy(subject.network)
    for parameter in blind.parameters():
        parameter.zero_()
    findings = attribution(replace(subject, untrained=blind), num_right=1, num_wrong=1)
    rows = [line for line in findings.lines if line.startswith(METHODS)]
    assert len(rows) == 3 and all(row.endswith("   -") for row in rows)
    assert findings.lines[-1].endswith("leave out images with a constant map (-: all of them)")


def test_no_selected_image_is_an_error(bundled):
    subject = digit_subject(bundled, num_steps=5)
    predicted = logits(subject.network, subject.images).argmax(1)
    with pytest.raises(InputError, match="num_wrong=3 select no image: 200 .* correctly, 0 are"):
        attribution(replace(subject, labels=predicted), num_right=0)


def test_long_class_names_are_shortened_and_on_two_lines(bundled):
    names = tuple(f"a bird of the northern mountains, number {i}" for i in range(10))
    subject = replace(digit_subject(bundled, num_steps=5), class_names=names)
    ((_, figure),) = attribution(subject, num_right=0, num_wrong=1).figures
    note = next(ax.get_ylabel() for ax in figure.axes if "WRONG" in ax.get_ylabel())
    assert re.fullmatch(r"WRONG, \d+\.\d %\n(a bird of the … number \d)\n→ (?!\1)a bird.*", note)


def test_a_residual_network_in_color():
    findings = attribution(color_subject(), num_right=1, num_wrong=1)
    assert findings.arrays["trained/Grad-CAM"].shape == (2, 16, 16)
    assert findings.arrays["trained/integrated gradients"].shape == (2, 64, 64)
    assert findings.record["grad_cam_layer"] == "down"


def test_grad_cam_equals_that_of_captum(bundled):
    from captum.attr import LayerGradCam

    subject = digit_subject(bundled, num_steps=20)
    network = subject.network.requires_grad_(True)
    images, targets = subject.images[:3], subject.labels[:3]
    expected = LayerGradCam(network, network.relu2).attribute(images, target=targets)
    torch.testing.assert_close(grad_cam(network, images, targets, "conv2"), expected)
