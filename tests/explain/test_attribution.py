"""Attributions add up, blame what is to blame, and know a map that tells nothing."""

import re
from dataclasses import replace

import numpy as np
import torch
from looked_at import color_subject, digit_subject
from torch import nn

from simplecnn.explain.attribution import (
    METHODS,
    attribution,
    attributions,
    grad_cam,
    grad_cam_layer,
)
from simplecnn.explain.subject import logits


class Corner(nn.Module):
    """The first logit is the ink in the upper left corner, the second is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        self.act = nn.ReLU(inplace=True)
        nn.init.ones_(self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        ink = self.act(self.conv(x))[..., :14, :14].sum((1, 2, 3))
        return torch.stack([ink, torch.zeros_like(ink)], 1)


def test_a_network_that_is_known():
    torch.manual_seed(0)
    images = torch.rand(2, 1, 28, 28)
    found = attributions(Corner(), images, torch.tensor([0, 0]), seed=0)
    exact = images[:, 0].clone()
    exact[:, 14:] = exact[:, :, 14:] = 0
    assert list(found) == list(METHODS)
    maps, infidelity = found["integrated gradients"]
    np.testing.assert_allclose(maps, exact, atol=1e-5)
    assert (infidelity < 1e-4).all()
    maps, _ = found["occlusion"]
    assert abs(maps[:, 16:, 16:]).max() < 1e-4 and (maps[:, :12, :12] > 0).all()


def test_gradients_of_a_trained_network_add_up(bundled):
    subject = digit_subject(bundled)
    images, targets = subject.images[:4], subject.labels[:4]
    before = [p.clone() for p in subject.network.parameters()]
    found = attributions(subject.network, images, targets, seed=0)
    change = logits(subject.network, images) - logits(subject.network, torch.zeros(1, 1, 28, 28))
    expected = change.gather(1, targets[:, None])[:, 0].numpy()
    total = found["integrated gradients"][0].sum((1, 2))
    np.testing.assert_allclose(total, expected, rtol=0.1, atol=0.15)
    assert found["Grad-CAM"][0].shape == (4, 14, 14)  # the grid of conv2
    assert grad_cam_layer(subject.network, images[:1]) == "conv2"
    assert all(0 <= i <= 1.001 for _, scores in found.values() for i in scores)
    assert all(map(torch.equal, subject.network.parameters(), before))
    assert not any(p.requires_grad or p.grad is not None for p in subject.network.parameters())


def test_findings(bundled, tmp_path):
    subject = digit_subject(bundled, num_steps=20)
    found = attribution(subject, num_right=2, num_wrong=2)
    path = found.save(tmp_path, "attribution")
    answers = logits(subject.network, subject.images)
    places = found.record["images"]
    right = (answers.argmax(1) == subject.labels)[places].tolist()
    assert right == [True, True, False, False]
    wrong = (answers.argmax(1) != subject.labels).nonzero().flatten()
    confidence = answers.softmax(1).amax(1)
    assert places[2] == int(wrong[confidence[wrong].argmax()])
    arrays = np.load(path / "attribution.npz")
    assert arrays["trained/occlusion"].shape == arrays["random/occlusion"].shape == (4, 28, 28)
    assert not np.allclose(arrays["trained/occlusion"], arrays["random/occlusion"])
    assert "2 right and 2 of " in found.lines[0]
    infidelity = np.mean(found.record["methods"]["occlusion"]["infidelity"])
    (row,) = (line for line in found.lines if line.startswith("occlusion"))
    assert row.split()[1] == f"{100 * (1 - infidelity):.0f}"  # percent that the map explains
    assert (path / "attribution.png").stat().st_size > 9999


def test_long_names_of_classes_are_short_and_below_each_other(bundled):
    names = tuple(f"a bird of the northern mountains, number {i}" for i in range(10))
    subject = replace(digit_subject(bundled, num_steps=5), class_names=names)
    ((_, figure),) = attribution(subject, num_right=0, num_wrong=1).figures
    note = next(ax.get_ylabel() for ax in figure.axes if "WRONG" in ax.get_ylabel())
    assert re.fullmatch(r"WRONG, p . 0.\d+\n(a bird of the … number \d)\n→ (?!\1)a bird.*", note)


def test_a_residual_network_in_color():
    found = attribution(color_subject(), num_right=1, num_wrong=1)
    assert found.arrays["trained/Grad-CAM"].shape == (2, 16, 16)
    assert found.arrays["trained/integrated gradients"].shape == (2, 64, 64)
    assert found.record["grad_cam_layer"] == "down"


def test_grad_cam_is_that_of_captum(bundled):
    from captum.attr import LayerGradCam

    subject = digit_subject(bundled, num_steps=20)
    network = subject.network.requires_grad_(True)
    images, targets = subject.images[:3], subject.labels[:3]
    expected = LayerGradCam(network, network.relu2).attribute(images, target=targets)
    torch.testing.assert_close(grad_cam(network, images, targets, "conv2"), expected)
