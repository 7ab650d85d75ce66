"""The two experiments confirm correct fields, detect wrong ones, and report their limits."""

import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from simplecnn.receptive_field import Check, Field, all_agree, check_fields, receptive_fields


class Between(nn.Module):
    """A function between two 3 x 3 convolutions with 4 channels."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.function = function
        self.last = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.function(self.first(x)))


def like(x: torch.Tensor, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x)


def cross(x: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(x, (1, 5), 1, (0, 2)) + F.avg_pool2d(x, (5, 1), 1, (2, 0))


FUNCTIONS = {
    "relu_in_place_on_halves": lambda x: torch.cat([F.relu_(h) for h in x.chunk(2, 1)], 1),
    "relu6": F.relu6,
    "hardswish": F.hardswish,
    "clamp": lambda x: x.clamp(-0.1, 0.1),
    "transpose": lambda x: x.transpose(2, 3),
    "channels last": lambda x: F.linear(x.permute(0, 2, 3, 1), like(x, 4, 4)).permute(0, 3, 1, 2),
    "slice": lambda x: x[:, :, 2:-1:2, 1:],
    "one row": lambda x: x[:, :, 3:4].expand_as(x) + x,
    "nearest": lambda x: F.interpolate(x, size=(17, 9)),
    "nearest, factor": lambda x: F.interpolate(x, scale_factor=1.3),
    "nearest-exact": lambda x: F.interpolate(x, size=(17, 9), mode="nearest-exact"),
    "area": lambda x: F.interpolate(x, size=(17, 9), mode="area"),
    "squeeze and excitation": lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
    "rows gated": lambda x: x * torch.sigmoid(x.mean(2, keepdim=True)),
    "max pool, ceil, dilated": lambda x: F.max_pool2d(x, 3, 2, 1, dilation=2, ceil_mode=True),
    "max pool, ceil": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True),
    "max pool, dilated": lambda x: F.max_pool2d(x, (3, 2), 1, 1, dilation=(2, 3)),
    "max pool, indices": lambda x: F.max_pool2d(x, 2, return_indices=True)[0],
    "avg pool, ceil": lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True),
    "adaptive avg": lambda x: F.adaptive_avg_pool2d(x, (5, 8)),
    "adaptive max": lambda x: F.adaptive_max_pool2d(x, (5, 8)),
    "reflect": lambda x: F.pad(x, (3, 1, 2, 4), mode="reflect"),
    "replicate": lambda x: F.pad(x, (3, 1, 2, 4), mode="replicate"),
    "circular": lambda x: F.pad(x, (3, 1, 2, 4), mode="circular"),
    "crop and pad": lambda x: F.pad(x, (3, 1, -2, 4)),
    "instance norm": F.instance_norm,
    "group norm": lambda x: F.group_norm(x, 2),
    "layer norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "softmax": lambda x: x.softmax(-1),
    "normalize": lambda x: F.normalize(x, dim=1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 2),
    "split": lambda x: sum(F.adaptive_avg_pool2d(part, 8) for part in x.split([5, 13], 2)),
    "flatten and back": lambda x: x.flatten(2).unflatten(2, x.shape[2:]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_formulas_and_experiments_agree_without_a_remark(name):
    torch.manual_seed(0)
    network = Between(FUNCTIONS[name])
    checks = check_fields(network, (18, 20))
    assert [str(c) for c in checks if not c.agrees or c.remark or not c.num_units] == []
    assert all_agree(checks)
    assert {c.experiment for c in checks} == {"gradient", "nan"}


@pytest.mark.parametrize(
    ("function", "experiment", "remark"),
    [
        (lambda x: x.amax((2, 3), keepdim=True) + x, "gradient", "as an upper bound: aten.amax"),
        (lambda x: torch.maximum(x, F.avg_pool2d(x, 3, 1, 1)), "gradient", "aten.maximum hides"),
        (lambda x: torch.max(x, F.avg_pool2d(x, 3, 1, 1)), "gradient", "aten.max hides"),
        (lambda x: torch.where(x > 0, x, 0.1 * x), "gradient", "aten.gt hides"),
        (
            lambda x: torch.where(x > 0, x, 0.1 * x),
            "nan",
            "as an upper bound: aten.gt hides some dependencies",
        ),
        (
            lambda x: F.interpolate(x, size=(17, 9), mode="bilinear"),
            "nan",
            "as a lower bound: aten.upsample_bilinear2d spreads NaN",
        ),
        (
            lambda x: F.interpolate(x, size=(17, 9), mode="bicubic"),
            "nan",
            "as a lower bound: aten.upsample_bicubic2d spreads NaN",
        ),
        (lambda x: x.roll(2, 3), "nan", "upper bound: no rule for aten.roll: assumed to depend"),
        (cross, "gradient", "branches see different rows and columns"),
        (
            lambda x: torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 3),
            "gradient",
            "a concatenation along an image axis",
        ),
        (
            lambda x: x[..., :9, :9] + x[..., :9, :9].transpose(2, 3),
            "gradient",
            "image axis in different dimensions",
        ),
    ],
)
def test_limits_of_an_experiment_are_reported(function, experiment, remark):
    torch.manual_seed(0)
    checks = check_fields(Between(function), (12, 14))
    assert all(c.agrees for c in checks), [str(c) for c in checks if not c.agrees]
    (check,) = [c for c in checks if c.experiment == experiment and c.layer == "last"]
    assert remark in check.remark and check.num_units > 0
    assert not any(c.remark for c in checks if c.layer == "first")


def test_weights_of_zero_do_not_affect_the_checks():
    """A field contains all pixels on which a unit could depend, for any weights."""
    network = two_blocks()
    for parameter in network.parameters():
        nn.init.zeros_(parameter)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad():
        assert all_agree(check_fields(network, 10))
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not any(p.grad is not None for p in network.parameters())


def corrupted(field: Field, columns: dict[int, bool]) -> Field:
    """Return the field with some columns of the last unit marked as used or unused."""
    used = field.axes[1].used.copy()
    used[-1, list(columns)] = list(columns.values())
    return replace(field, axes=(field.axes[0], replace(field.axes[1], used=used)))


def two_blocks() -> nn.Sequential:
    """A network with 5 x 5 units on 10 x 10 pixels: size 8, stride 2, start -3."""
    torch.manual_seed(0)
    convolutions = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
    return nn.Sequential(convolutions[0], nn.ReLU(), nn.MaxPool2d(2), convolutions[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({9: False}, "unit (0, 4) depends on column 9, contrary to the formulas"),
        ({3: True}, "unit (0, 4) does not depend on column 3, contrary to the formulas"),
        (dict.fromkeys(range(10), False), "unit (0, 4) depends on row 0, contrary"),
    ],
)
def test_a_wrong_field_is_detected_by_both_experiments(change, message):
    network = two_blocks()
    fields = receptive_fields(network, 10)
    fields["3"] = corrupted(fields["3"], change)
    checks = check_fields(network, 10, fields=fields)
    assert not all_agree(checks)
    failed = {c.experiment: c for c in checks if not c.agrees}
    assert [c.layer for c in failed.values()] == ["3", "3"]
    for experiment in ("gradient", "nan"):
        assert str(failed[experiment]).startswith(
            f"3: the {experiment} experiment disagrees: {message}"
        )


def test_a_wrong_interval_is_detected():
    """Size, stride and start are closed forms, independent of `used`."""
    network = two_blocks()
    fields = receptive_fields(network, 10)
    vertical, horizontal = fields["3"].axes
    ((first, last),) = vertical.pattern.intervals
    for pattern in (
        replace(vertical.pattern, intervals=((first, last - 1),)),
        replace(vertical.pattern, intervals=((first + 1, last + 1),)),
        replace(vertical.pattern, jump=5),
    ):
        field = replace(fields["3"], axes=(replace(vertical, pattern=pattern), horizontal))
        checks = check_fields(network, 10, fields={**fields, "3": field}, layers=["3"])
        assert [c.agrees for c in checks] == [False, False]
        message = (
            r"3: the gradient experiment disagrees: unit \d depends on rows \(.*, its interval is"
        )
        assert re.match(message, str(checks[0]))


def test_size_and_start_of_a_field_larger_than_the_image_are_not_verified():
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(4)))
    checks = check_fields(network, 8)
    assert all_agree(checks)
    remarks = {c.layer: c.remark for c in checks if c.remark}
    assert set(remarks) == {"3"}  # a field of 9 pixels
    assert remarks["3"] == "every unit sees a border: size and start are not verified"


def test_an_upper_bound_that_is_too_small_is_detected():
    network = Between(lambda x: x.cumsum(-1))
    fields = receptive_fields(network, (12, 14))
    narrow = corrupted(fields["last"], dict.fromkeys(range(14), False))
    checks = check_fields(network, (12, 14), fields={"last": narrow})
    assert [c.agrees for c in checks] == [False, False]


def test_experiments_that_do_not_run_confirm_nothing():
    class SingleImage(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) > 1:
                raise RuntimeError("one image at a time\nplease")
            return super().forward(x)

    checks = check_fields(SingleImage(1, 1, 3), 12)
    assert [c.num_units for c in checks] == [0, 0] and all(c.agrees for c in checks)
    assert [str(c) for c in checks] == [
        f"output: no {experiment} experiment: the network does not run in this experiment "
        "(one image at a time)"
        for experiment in ("gradient", "nan")
    ]
    assert not all_agree(checks)
    passed = Check("a", "gradient", True, 5)
    assert all_agree([passed]) and not all_agree([passed, *checks])
    assert not all_agree([passed, Check("b", "gradient", False, 5)])


def test_layers_can_be_chosen():
    checks = check_fields(two_blocks(), 10, layers=["2"])
    assert list(map(str, checks)) == [f"2: {e} agrees for 25 units" for e in ("gradient", "nan")]
    with pytest.raises(ValueError, match="layers names conv9: choose from 0, 1, 2, 3"):
        check_fields(two_blocks(), 10, layers=["conv9"])


def test_attention_has_a_gradient():
    torch.manual_seed(0)
    network = torchvision.models.VisionTransformer(16, 4, 1, 2, 8, 8)
    checks = check_fields(network, (3, 16, 16))
    assert all_agree(checks) and all(c.num_units for c in checks)
    assert {c.remark for c in checks if c.layer == "conv_proj"} == {""}


class Crop(nn.Module):
    """Crop a square of the image and resize it; without weights."""

    def __init__(self, first: int, last: int, size: int) -> None:
        super().__init__()
        self.part, self.size = slice(first, last), size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.interpolate(x[..., self.part, self.part], size=(self.size,) * 2, mode="bicubic")
        return x.clamp(0, 1)


def test_a_crop_that_is_resized():
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 4, 3, padding=1)
    network = nn.Sequential(Crop(4, 24, 28), conv, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    fields = receptive_fields(network, 28)
    crop = fields["0"]
    assert crop.size == (4, 4) and crop.stride == (Fraction(5, 7),) * 2 and not crop.bound
    # Unit u is located at 4 + (u + 1/2) 5/7 - 1/2 and reads two pixels on each side.
    assert crop.used(0) == ((4, 5),) * 2  # at 3.86; the crop starts at 4
    assert crop.used(3) == ((6,),) * 2  # exactly at 6
    assert crop.used(4) == ((5, 6, 7, 8),) * 2
    assert crop.used(27) == ((22, 23),) * 2
    assert fields["1"].used(4) == ((5, 6, 7, 8, 9),) * 2  # units 3 at 6, 4 at 6.71, 5 at 7.43
    checks = check_fields(network, 28)
    assert all_agree(checks) and all(c.num_units for c in checks)
    remarks = {c.experiment: c.remark for c in checks}
    assert remarks["gradient"] == ""
    assert "aten.upsample_bicubic2d spreads NaN through weights of zero" in remarks["nan"]
    for change in ({4: False}, {9: True}):
        vertical, horizontal = crop.axes
        used = horizontal.used.copy()
        used[0, list(change)] = list(change.values())
        wrong = replace(crop, axes=(vertical, replace(horizontal, used=used)))
        gradient, _ = check_fields(network, 28, fields={"0": wrong})
        assert not gradient.agrees


def test_a_weight_that_is_zero_but_for_rounding_is_zero():
    """From 18 to 14 pixels, unit 3 is located at 3.5 * 18 / 14 - 1/2 = 4: torch's weights of its
    neighbors are 1e-16."""
    network = Crop(5, 23, 14)
    assert receptive_fields(network, 28)["output"].used(3) == ((9,), (9,))
    gradient, nan = check_fields(network, 28)
    assert gradient.agrees and gradient.num_units == 196 and not gradient.remark
    assert nan.agrees


@st.composite
def branches(draw):
    """Two paths of size-preserving convolutions and poolings, to be added or concatenated."""
    paths = []
    for _ in range(2):
        path: list[nn.Module] = []
        for _ in range(draw(st.integers(0, 2))):
            kernel = draw(st.tuples(st.sampled_from([1, 3]), st.sampled_from([1, 3])))
            dilation = draw(st.integers(1, 2))
            padding = tuple(dilation * (k - 1) // 2 for k in kernel)
            path.append(nn.Conv2d(2, 2, kernel, padding=padding, dilation=dilation))
            path.append(draw(st.sampled_from([nn.ReLU, nn.Sigmoid, nn.Identity]))())
            if draw(st.booleans()):
                path.append(nn.MaxPool2d(3, stride=1, padding=1))
        paths.append(nn.Sequential(*path))
    return paths, draw(st.sampled_from(["add", "cat"])), draw(st.integers(1, 2))


class Joined(nn.Module):
    def __init__(self, paths, join: str, stride: int) -> None:
        super().__init__()
        self.first, self.paths, self.join = nn.Conv2d(1, 2, 2), nn.ModuleList(paths), join
        self.last = nn.Conv2d(4 if join == "cat" else 2, 2, 3, stride=stride, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        a, b = (path(x) for path in self.paths)
        return self.last(a + b if self.join == "add" else torch.cat([a, b], 1))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(branches())
def test_random_branches(arguments):
    torch.manual_seed(0)
    checks = check_fields(Joined(*arguments), (17, 19))
    assert all_agree(checks), [str(c) for c in checks if not c.agrees]
    assert all("less than the full rectangle" in c.remark for c in checks if c.remark)
