"""The measurements on networks with known results, and the rules for judging claims."""

import numpy as np
import pytest
import torch
from subjects import color_subject, digit_subject
from torch import nn

from simplecnn.explain.claims import HELD, IN_PART, NOT_JUDGED, NOT_SHOWN, claims, judge
from simplecnn.explain.evidence import (
    Evidence,
    _map_changes,
    class_shares,
    edge_share,
    exactness,
    ink_share,
    locality,
)
from simplecnn.explain.intervals import interval_over, mean_interval, sample_size, share_interval
from simplecnn.models.layers import Normalize


def test_intervals_equal_published_values():
    interval = mean_interval([1.0, 2.0, 3.0])
    assert interval.mean == 2 and interval.high - 2 == pytest.approx(4.302653 / 3**0.5)
    assert interval.text() == "2.00 [-0.48, 4.48]" and mean_interval([5.0]).text() == "5.00"
    assert mean_interval([1.0, 3.0]).record() == {"mean": 2.0, "low": None, "high": None, "n": 2}
    assert mean_interval([5.0]).record()["low"] is None
    assert mean_interval([3.0, 3.0, 99.0], top=100).text() == "35.00 [0.00, 100.00]"  # not beyond
    share = share_interval(81, 263)  # Newcombe 1998, method 3
    assert (round(share.low, 4), round(share.high, 4)) == (0.2553, 0.3662)
    assert share_interval(10, 10).high == pytest.approx(1) and share_interval(10, 10).low < 0.75


def test_intervals_are_over_networks_or_over_the_images_of_one():
    shares = np.array([[1.0, 0.5], [0.5, 0.5], [0.25, 0.25]])
    assert interval_over(shares) == mean_interval([0.75, 0.5, 0.25], top=1)
    assert sample_size(shares) == "3 networks"
    images = np.array([[1.0, 0.5, 0.0]])
    assert interval_over(images) == mean_interval([1.0, 0.5, 0.0], top=1)
    assert interval_over(np.array([[True, False, True]])) == share_interval(2, 3)
    assert sample_size(np.zeros((1, 2000))) == "2,000 images"


def single_filter(weight: list) -> nn.Sequential:
    layer = nn.Conv2d(1, 1, 3, bias=False)
    layer.weight.data = torch.tensor(weight, dtype=torch.float32).view(1, 1, 3, 3)
    return nn.Sequential(layer)


def test_ink_and_edge_shares_of_known_filters():
    torch.manual_seed(0)
    images = torch.rand(20, 1, 28, 28)
    box, sobel = single_filter([1] * 9), single_filter([-1, 0, 1, -2, 0, 2, -1, 0, 1])
    assert ink_share(box, images) == pytest.approx(1, abs=1e-6)
    assert ink_share(sobel, images) == pytest.approx(0, abs=0.01)
    assert edge_share(box, images) == pytest.approx(0, abs=1e-12)
    assert edge_share(sobel, images) > 0.95
    random = nn.Sequential(nn.Conv2d(1, 20_000, 3))
    nn.init.normal_(random[0].weight)
    assert edge_share(random, images[:1]) == pytest.approx(2 / 9, abs=0.01)


class DefinedLast(nn.Module):
    """A network whose first layer is defined after another one, and after one that is not used."""

    def __init__(self, first: nn.Module) -> None:
        super().__init__()
        self.unused, self.second = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 10, 1)
        self.first = first

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(images)).mean((2, 3))


def test_the_first_layer_is_the_one_that_sees_the_image():
    images = torch.rand(4, 1, 12, 12)
    sobel = single_filter([-1, 0, 1, -2, 0, 2, -1, 0, 1])
    assert edge_share(DefinedLast(sobel), images) == edge_share(sobel, images)
    assert ink_share(DefinedLast(sobel), images) == ink_share(sobel, images)


@pytest.mark.parametrize("options", [{"padding_mode": "reflect"}, {"groups": 2}])
def test_brightness_is_that_of_the_pixels_and_channels_that_a_filter_reads(options):
    torch.manual_seed(0)
    box = nn.Conv2d(2, 2, 3, padding=1, **options).requires_grad_(False)
    box.weight.fill_(0.1)
    assert ink_share(nn.Sequential(box), torch.rand(20, 2, 8, 8)) == pytest.approx(1, abs=1e-6)


def test_the_brightness_of_standardized_images_is_that_of_the_original_ones(bundled):
    images = digit_subject(bundled).images[:20]
    plain = nn.Conv2d(1, 4, 3).requires_grad_(False)
    standardized = nn.Conv2d(1, 4, 3).requires_grad_(False)  # of the same response
    standardized.weight.copy_(plain.weight * 0.3)
    network = nn.Sequential(Normalize([0.13], [0.3]), standardized)
    expected = ink_share(nn.Sequential(plain), images)
    np.testing.assert_allclose(ink_share(network, images), expected, atol=1e-5)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_exactness_and_locality(bundled):
    subject = digit_subject(bundled, num_steps=3)
    assert 0 < exactness(subject.network, subject.images[:4]) < 1e-6
    assert locality(subject.network, subject.images[:4], seed=0) == {"conv1": 100, "conv2": 100}

    for mode in ("zeros", "reflect"):  # an even kernel is padded by one pixel more at the end
        same = nn.Conv2d(1, 2, (3, 4), padding="same", padding_mode=mode).requires_grad_(False)
        assert exactness(nn.Sequential(same), subject.images[:4]) < 1e-6

    class Global(nn.Module):  # a convolution whose output depends on the whole image
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3)
            self.conv.register_forward_hook(lambda m, i, out: out + i[0].mean())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).mean((2, 3))

    assert exactness(Global().requires_grad_(False), subject.images[:4]) > 1e-3


def test_class_shares_of_known_images():
    """Channel 0 is the brightness of an image of one pixel, channel 1 is constant."""
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
    network[0].weight.data = torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
    images = torch.tensor([0.1, 0.2, 0.8, 0.9]).view(4, 1, 1, 1)
    labels = torch.tensor([0, 0, 1, 1])
    shares, areas = class_shares(network, images, labels, 2)
    assert shares["0"] == pytest.approx(0.49 / 0.50)  # constant channels do not count
    assert areas.tolist() == [1.0, 0.5]


def supporting_evidence() -> Evidence:
    filters = {str(i): 20.0 for i in range(1, 5)}
    return {
        "exactness": {"first layer": 1e-7}, "locality": {"a": 100.0}, "gain": {"answers": 80.0},
        "ink/trained": filters, "ink/untrained": filters, "consistency": {"answers": 99.5},
        "left_in_place": {"a": 0.5}, "moved_along": {"a": 0.0}, "before_pooling": {"pool": 0.5},
        "pooled": {"pool": 0.3}, "edges/trained": {"first layer": 40.0},
        "edges/untrained": {"first layer": 20.0}, "class_share/trained": {"a": 20.0, "b": 50.0},
        "class_share/untrained": {"a": 20.0, "b": 30.0}, "singled_out/trained": {"last": 80.0},
        "singled_out/untrained": {"last": 0.0}, "sizes": {"a": 3, "b": 5},
        "effective": {"a": 3, "b": 4},
    }  # fmt: skip


def results(evidence: list[Evidence], without_pooling: list[float] = ()) -> list[str]:
    return [claim.result for claim in judge(evidence, without_pooling)]


def test_a_strided_convolution_that_is_called_twice_is_no_pooling():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.down = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.down(self.down(self.first(x)).relu()).mean((2, 3))

    changes = _map_changes(Twice().requires_grad_(False), torch.rand(4, 1, 28, 28))
    assert not changes["pooled"] and changes["moved_along"].keys() >= {"down", "down_1"}


def test_rules_for_judging_claims():
    good = supporting_evidence()
    three = [good, good, good]
    assert results(three, [90, 91, 92]) == [HELD] * 5
    assert results(three) == [HELD, HELD, IN_PART, HELD, HELD]
    assert results(three[:2], [90, 90]) == [NOT_JUDGED] * 5

    def one_with(**changes: dict[str, float]) -> list[str]:
        """The results if one of three networks differs; `ink__trained` is `ink/trained`."""
        changed = {key.replace("__", "/"): value for key, value in changes.items()}
        return results([good, good, {**good, **changed}], [90, 90, 90])

    assert one_with(gain={"answers": 0}) == [NOT_JUDGED] * 5  # always predicts one class
    assert one_with(exactness={"first layer": 1e-3})[0] == NOT_SHOWN
    assert one_with(exactness={"first layer": np.nan})[0] == NOT_SHOWN
    assert one_with(locality={"a": 99})[0] == NOT_SHOWN
    assert one_with(ink__trained=dict.fromkeys("1234", 90.0))[0] == IN_PART
    assert one_with(consistency={"answers": 90})[1] == IN_PART
    assert one_with(moved_along={"a": 0.1})[1] == one_with(moved_along={})[1] == NOT_SHOWN
    assert one_with(pooled={"pool": 0.9})[2] == IN_PART
    assert one_with(pooled={})[2] == NOT_SHOWN
    assert one_with(singled_out__trained={"last": 0})[3] == IN_PART
    assert one_with(effective={"a": 4, "b": 4})[4] == IN_PART
    assert one_with(sizes={"a": 4, "b": 4})[4] == NOT_SHOWN
    same = {"a": 20.0, "b": 20.0}
    flat = {**good, "class_share/trained": same, "singled_out/trained": {"last": 0.0},
            "edges/trained": {"first layer": 20.0}}  # fmt: skip
    assert results([flat] * 3)[3] == NOT_SHOWN
    no_pooling = {**good, "before_pooling": {}, "pooled": {}}
    assert results([no_pooling] * 3)[2] == NOT_SHOWN
    reason = judge(three, ())[2].reason
    assert reason.startswith("confirmed: pooling reduces the resolution, maps change less")
    assert "; not confirmed: predictions are more consistent than without pooling (needs" in reason
    few = judge(three[:1], ())[0]
    assert few.reason == "this needs 3 networks with different seeds, not 1"


def test_claims_on_networks(bundled):
    subjects = [digit_subject(bundled, seed=i) for i in range(3)]
    findings = claims(subjects, num_images=40)
    by_figure = {claim["figure"]: claim for claim in findings.record["claims"]}
    assert [f"{name}.png" for name, _ in findings.figures] == list(by_figure)
    assert by_figure["claim_2_weight_sharing.png"]["result"] == IN_PART
    numbers = by_figure["claim_2_weight_sharing.png"]["numbers"]
    interval = numbers["same prediction for two shifts by up to 4 pixels, % of all pairs"]
    assert interval["n"] == 3 and interval["low"] < interval["mean"] < interval["high"] < 99
    text = "\n".join(findings.lines)
    assert text.startswith("3 networks, 40 test images")
    assert "HELD IN PART: Weight sharing gives translation invariance" in text


def test_a_residual_network_in_color():
    findings = claims([color_subject()], num_images=12)
    assert {claim["result"] for claim in findings.record["claims"]} == {NOT_JUDGED}
    panels = [len(figure.axes) for _, figure in findings.figures]
    assert panels == [2, 2, 1, 3, 1]  # its pooling is a function, not a layer
