"""Error rates on corrupted images, with intervals over networks or over images."""

from dataclasses import replace

import numpy as np
import pytest
from subjects import color_subject, digit_subject

from simplecnn.explain.corruptions import corrupt
from simplecnn.explain.intervals import mean_interval
from simplecnn.explain.robustness import robustness, wrong_predictions
from simplecnn.explain.subject import groups, mean_note


@pytest.fixture(scope="module")
def networks(bundled):
    """Three networks that differ in their seed, and one trained for fewer steps."""
    trained = [replace(digit_subject(bundled, seed=i), values={"steps": 60}) for i in range(3)]
    return [*trained, replace(digit_subject(bundled, num_steps=5), values={"steps": 5})]


def text_of(figure) -> str:
    texts = [t.get_text() for ax in figure.axes for t in ax.texts]
    return "\n".join([figure.get_suptitle(), *texts])


def test_one_network_has_intervals_over_images(networks):
    subject = networks[0]
    findings = robustness([subject], num_images=80, seed=3)
    wrong = wrong_predictions(subject, num_images=80, seed=3)
    images, labels = subject.sample(80, seed=3)
    corrupted = corrupt(images, "stripe", 4, seed=3)
    expected = subject.network(corrupted).argmax(1) != labels
    np.testing.assert_array_equal(wrong[6, 4], expected)
    np.testing.assert_array_equal(findings.arrays["errors"][0], wrong.mean(2))
    mean = mean_interval(100 * wrong[:, 1:].mean((0, 1)))
    row = findings.lines[-1]
    assert row.startswith("steps 60   ") and row.endswith("   80 images")
    assert f"   {mean.mean:.2f} [{mean.low:.2f}, {mean.high:.2f}]   " in row
    worst = float(row.split("]")[1].split()[1])  # kind, error, interval
    assert worst == pytest.approx(100 * wrong[:, 1:].mean((1, 2)).max(), abs=0.051)
    (figure,) = (figure for _, figure in findings.figures)
    assert "±" not in text_of(figure)
    assert findings.record["groups"]["steps 60"]["interval_over"] == "images"


def test_networks_that_differ_only_in_their_seed_form_a_group(networks):
    assert groups(networks) == {"steps 60": [0, 1, 2], "steps 5": [3]}
    assert groups(networks[:1]) == {"steps 60": [0]}


@pytest.mark.parametrize(
    ("members", "note"),
    [
        ([[0]], ""),
        ([[0], [1]], ""),
        ([[0, 1, 2]], ", mean over 3 networks"),
        ([[0, 1, 2], [3]], ", mean over 3 / 1 networks"),
        ([[0, 1], [2, 3]], ", mean over 2 networks each"),
    ],
)
def test_titles_state_the_number_of_networks(members, note):
    assert mean_note({str(i): indices for i, indices in enumerate(members)}) == note


def test_several_networks_have_intervals_over_networks(networks):
    findings = robustness(networks, num_images=40)
    errors = findings.arrays["errors"]
    mean = mean_interval(errors[:3, :, 1:].mean((1, 2)), top=1)
    first, second = findings.lines[-2:]
    assert f" {mean.text(factor=100)} " in first and first.endswith("3 networks")
    assert second.startswith("steps 5 ") and second.endswith("40 images")
    group = findings.record["groups"]["steps 60"]
    assert group["interval_over"] == "networks" and group["mean_error"]["n"] == 3
    assert group["mean_error"]["mean"] == pytest.approx(mean.mean)
    figures = dict(findings.figures)
    assert list(figures) == ["errors_steps_60", "errors_steps_5", "compared"]
    noise = mean_interval(100 * errors[:3, 0, 5], top=100)
    cell = f"{noise.mean:.1f} [{noise.low:.0f}, {noise.high:.0f}]\nat 0.5"
    assert cell in text_of(figures["errors_steps_60"])
    assert "[" not in text_of(figures["errors_steps_5"])
    (ax,) = figures["compared"].axes
    bars = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(bars[:9], 100 * errors[:3, :, 1:].mean((0, 2)))
    ends = ax.collections[0].get_segments()[0][:, 1]
    kind = mean_interval(100 * errors[:3, 0, 1:].mean(1))
    np.testing.assert_allclose(ends, np.clip([kind.low, kind.high], 0, 100))


def test_color_images_of_a_residual_network():
    findings = robustness([color_subject()], num_images=12)
    assert findings.arrays["errors"].shape == (1, 9, 6)
    assert findings.arrays["examples"].shape == (9, 6, 3, 64, 64)
    for _, figure in findings.figures:
        figure.canvas.draw()
