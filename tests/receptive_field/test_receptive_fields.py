"""Receptive fields against published values, closed forms and explicit sets of pixels."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from simplecnn.models.simple_cnn import SimpleCNN
from simplecnn.receptive_field import receptive_field, receptive_fields

layer_lists = st.lists(st.tuples(st.integers(1, 7), st.integers(1, 3)), max_size=6)


def properties(max_examples: int):
    return settings(max_examples=max_examples, deadline=None, derandomize=True)


def test_simplecnn():
    fields = receptive_fields(SimpleCNN(), 28)
    assert list(fields) == (
        "conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3 pool3 flatten fc1 relu_fc1 fc2".split()
    )
    grown = [fields[n] for n in ("conv1", "pool1", "conv2", "pool2", "conv3", "pool3")]
    assert [f.size for f in grown] == [(n, n) for n in (3, 4, 8, 10, 18, 22)]
    assert [f.stride for f in grown] == [(n, n) for n in (1, 2, 2, 4, 4, 8)]
    assert [f.start for f in grown] == [(-n, -n) for n in (1, 1, 3, 3, 7, 7)]
    pool3 = fields["pool3"]
    assert pool3.units == (3, 3)
    assert pool3.interval((0, 2)) == ((-7, 14), (9, 30))
    assert pool3.used((0, 2)) == (tuple(range(15)), tuple(range(9, 28)))
    assert pool3.clipped((0, 2)) == ((0, 14), (9, 27))
    assert pool3.interval(1) == ((1, 22), (1, 22))
    assert pool3.num_unread == (1, 1)  # 13 of the 49 units of relu3 are dropped
    assert fields["flatten"].interval((0, 2)) == pool3.interval((0, 2))
    for name in ("fc1", "fc2"):
        assert fields[name].is_uniform and fields[name].stride == (0, 0)
        assert fields[name].interval(0) == ((0, 27), (0, 27))
    assert not any(f.is_uniform or f.misaligned or f.bound for f in grown)


def test_the_network_is_not_changed():
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.MaxPool2d(2))
    network[1].eval()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    receptive_fields(network, 8)
    assert network.training and not network[1].training and network[2].training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    network(torch.rand(2, 1, 8, 8)).sum().backward()  # no inference tensors remain


def on_meta(name: str) -> nn.Module:
    """A torchvision network on the meta device, without weights."""
    options = {"init_weights": False} if name == "inception_v3" else {}
    with torch.device("meta"):
        return getattr(torchvision.models, name)(**options)


VGG_16 = {  # google-research/receptive_field, RECEPTIVE_FIELD_TABLE.md: size and padding
    "features.0": (3, 1), "features.4": (6, 2), "features.7": (14, 6), "features.9": (16, 6),
    "features.10": (24, 10), "features.12": (32, 14), "features.14": (40, 18),
    "features.16": (44, 18), "features.17": (60, 26), "features.19": (76, 34),
    "features.21": (92, 42), "features.23": (100, 42), "features.24": (132, 58),
    "features.26": (164, 74), "features.28": (196, 90), "features.30": (212, 90),
}  # fmt: skip


def test_vgg_16():
    fields = receptive_fields(on_meta("vgg16"), 224)
    for name, (size, padding) in VGG_16.items():
        assert fields[name].size == (size, size), name
        assert fields[name].start == (-padding, -padding), name
    last = fields["features.30"]
    assert last.stride == (32, 32)
    assert fields["classifier.0"].is_uniform


@pytest.mark.parametrize(
    ("name", "layer", "size", "stride", "padding"),
    [
        ("alexnet", "features.12", 195, 32, 66),
        ("resnet50", "layer4.2.relu_2", 427, 32, 213),
        ("densenet121", "features.norm5", 2071, 32, 1021),
        ("inception_v3", "Mixed_7c", 1311, 32, 618),
    ],
)
def test_torchvision(name, layer, size, stride, padding):
    image_size = 299 if name == "inception_v3" else 224
    fields = receptive_fields(on_meta(name), image_size)
    field = fields[layer]
    assert (field.size, field.stride) == ((size, size), (stride, stride))
    assert field.start == (-padding, -padding)
    assert not field.bound and not field.misaligned
    assert list(fields.values())[-1].is_uniform


def test_squeeze_and_excitation_depends_on_the_whole_image():
    fields = receptive_fields(on_meta("mobilenet_v3_large"), 224)
    assert fields["features.4.block.1.1"].size == (35, 35)
    gated = fields["features.4.block.2"]
    assert (
        gated.is_uniform and gated.units == (28, 28) and gated.used(0) == (tuple(range(224)),) * 2
    )
    assert fields["features.16.0"].is_uniform


@pytest.mark.parametrize(
    ("layer", "operation"),
    [
        (nn.PixelShuffle(2), "pixel_shuffle"),
        (nn.ConvTranspose2d(4, 1, 2), "convolution"),
        (nn.Sequential(nn.UpsamplingBilinear2d(9), nn.Conv2d(4, 1, 1)), "upsample_bilinear2d"),
    ],
)
def test_an_operation_without_a_rule_is_named(layer, operation):
    network = nn.Sequential(conv(3, out=4), layer, conv(3))
    before, *after = receptive_fields(network, 8).values()
    assert (before.size, before.bound) == ((3, 3), "")
    for field in after:
        assert field.is_uniform and field.used(0) == (tuple(range(8)),) * 2
        assert field.bound == f"no rule for aten.{operation}: assumed to depend on everything"


def test_attention_depends_on_the_whole_image():
    fields = receptive_fields(torchvision.models.VisionTransformer(16, 4, 1, 2, 8, 8), 16)
    assert (fields["conv_proj"].size, fields["conv_proj"].bound) == ((4, 4), "")
    block = fields["encoder.layers.encoder_layer_0"]
    assert block.is_uniform and block.used(0) == (tuple(range(16)),) * 2 and block.bound


class Functional(nn.Module):
    """A network in the tutorial's style: one shared pooling module, otherwise functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 8, 3, padding=1)
        self.conv3 = nn.Conv2d(8, 8, 3, padding=1)
        self.pool = nn.MaxPool2d(2, 2)
        self.fc1 = nn.Linear(8 * 3 * 3, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = F.max_pool2d(torch.relu_(self.conv3(x)), 2)
        return F.relu(self.fc1(x.view(-1, 8 * 3 * 3)))


def test_functional_calls_and_modules_called_again():
    fields = receptive_fields(Functional(), 28)
    sizes = {name: field.size[0] for name, field in fields.items()}
    assert sizes == {
        "conv1": 3, "pool": 4, "conv2": 8, "pool_1": 10, "conv3": 18, "fc1": 28, "output": 28,
    }  # fmt: skip


class Branches(nn.Module):
    def __init__(self, join: str, *branches: nn.Module) -> None:
        super().__init__()
        self.join = join
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        outputs = [branch(x) for branch in self.branches]
        return sum(outputs) if self.join == "add" else torch.cat(outputs, 1)


def conv(kernel=3, channels=1, out=1, **options) -> nn.Conv2d:
    return nn.Conv2d(channels, out, kernel, **options)


def field_of(network: nn.Module, size=(12, 16)):
    return list(receptive_fields(network, size).values())[-1]


@pytest.mark.parametrize(
    ("network", "size", "stride", "start", "used"),
    [
        (conv((3, 5), padding=(1, 2)), (3, 5), (1, 1), (-1, -2), (3, 5)),
        (conv(3, stride=(1, 2), padding=(0, 3)), (3, 3), (1, 2), (0, -3), (3, 3)),
        (nn.Sequential(conv(3, dilation=2), conv(3, dilation=2)), (9, 9), (1, 1), (0, 0), (5, 5)),
        (nn.Sequential(conv(1, stride=2), conv(2)), (3, 3), (2, 2), (0, 0), (2, 2)),
        pytest.param(
            *(conv(4, padding="same"), (4, 4), (1, 1), (-1, -1), (4, 4)),
            # warns of slow execution only
            marks=pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel"),
        ),
        (nn.Sequential(nn.ZeroPad2d((3, 0, 1, 2)), conv(3)), (3, 3), (1, 1), (-1, -3), (3, 3)),
        (nn.AvgPool2d(3, stride=2, padding=1, ceil_mode=True), (3, 3), (2, 2), (-1, -1), (3, 3)),
        (nn.MaxPool2d(3, stride=1, dilation=2, padding=1), (5, 5), (1, 1), (-1, -1), (3, 3)),
        (nn.AdaptiveAvgPool2d((3, 4)), (4, 4), (4, 4), (0, 0), (4, 4)),
        (
            nn.AdaptiveMaxPool2d((5, 16)),
            (4, 1),
            (Fraction(12, 5), 1),
            (0, 0),
            (4, 1),
        ),
        (nn.AdaptiveAvgPool2d(1), (12, 16), (0, 0), (0, 0), (12, 16)),
        (nn.AvgPool2d((12, 16)), (12, 16), (12, 16), (0, 0), (12, 16)),
        (nn.Upsample(scale_factor=2), (1, 1), (Fraction(1, 2),) * 2, (0, 0), (1, 1)),
        (
            nn.Upsample(scale_factor=2, mode="bilinear"),
            (2, 2),
            (Fraction(1, 2),) * 2,
            (-1, -1),
            (2, 2),
        ),
    ],
)
def test_single_layers(network, size, stride, start, used):
    field = field_of(network)
    assert (field.size, field.stride, field.start, field.num_used) == (size, stride, start, used)


def test_dilation_and_borders():
    two = nn.Sequential(conv(3, dilation=2, padding=2), conv(3, dilation=2, padding=2))
    field = field_of(two, (9, 9))
    assert field.interval((4, 0)) == ((0, 8), (-4, 4))
    assert field.used((4, 0)) == ((0, 2, 4, 6, 8), (0, 2, 4))
    # Column 2 is read only by a unit of the first layer that would lie in the second's padding.
    valid = nn.Sequential(conv(2, dilation=3), conv(3, padding=1))
    field = field_of(valid, (9, 9))
    assert field.interval(0) == ((-1, 4), (-1, 4))
    assert field.used(0) == ((0, 1, 3, 4),) * 2
    only_padding = field_of(conv(1, padding=2), (4, 4))
    assert only_padding.interval(0) == ((-2, -2), (-2, -2))
    assert only_padding.used(0) == ((), ()) and only_padding.clipped(0) == ((0, -1), (0, -1))


def test_residual_and_concatenating_branches():
    residual = Branches("add", nn.Identity(), nn.Sequential(conv(3, padding=1), conv(3, padding=1)))
    field = field_of(residual)
    assert (field.size, field.start, field.num_used) == ((5, 5), (-2, -2), (5, 5))
    assert not field.bound and not field.misaligned
    sparse = Branches("add", nn.Identity(), conv(3, dilation=3, padding=3), conv(1))
    assert (field_of(sparse).size, field_of(sparse).num_used) == ((7, 7), (3, 3))
    inception = Branches("cat", conv(1), conv(3, padding=1), nn.Sequential(conv(5, padding=2)))
    assert field_of(inception).size == (5, 5) and not field_of(inception).misaligned


def test_concatenated_flattened_branches_count_as_mixed():
    branches = [nn.Sequential(nn.AdaptiveAvgPool2d(n), nn.Flatten()) for n in (2, 1)]
    fields = receptive_fields(nn.Sequential(Branches("cat", *branches), nn.Linear(5, 2)), 8)
    assert fields["0"].bound == "a concatenation along an image axis"
    assert fields["1"].is_uniform and fields["1"].used(0) == (tuple(range(8)),) * 2


def test_misaligned_branches_are_reported():
    left = nn.Sequential(nn.ZeroPad2d((1, 0, 1, 0)), conv(2))
    field = field_of(Branches("add", left, nn.Identity()))
    assert field.misaligned and field.interval(3) == ((2, 3), (2, 3))
    skip = Branches("cat", nn.Upsample(scale_factor=2), conv(1))
    unet = nn.Sequential(conv(3, padding=1), Branches("cat", skip.branches[1], nn.Identity()))
    assert not field_of(unet).misaligned
    down_up = nn.Sequential(nn.AvgPool2d(2), nn.Upsample(scale_factor=2))
    field = field_of(nn.Sequential(Branches("add", down_up, conv(3, padding=1)), conv(1)))
    assert field.misaligned  # also after further layers
    assert field.interval(2) == ((1, 3), (1, 3)) and field.interval(3) == ((2, 4), (2, 4))


def test_odd_sizes_do_not_break_a_unet():
    """13 columns become 7, then 13 by interpolation: the strides of the branches differ."""

    class Unet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = conv(3, stride=2, padding=1)
            self.last = conv(1, channels=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(torch.cat([F.interpolate(self.down(x), size=x.shape[-2:]), x], 1))

    field = receptive_fields(Unet(), 13)["last"]
    assert field.misaligned and field.units == (13, 13)
    assert [field.used(u)[0] for u in (0, 12)] == [(0, 1), (11, 12)]


def test_a_cross_is_not_a_rectangle():
    field = field_of(Branches("cat", conv((1, 3), padding=(0, 1)), conv((3, 1), padding=(1, 0))))
    assert field.size == (3, 3) and "less than the full rectangle" in field.bound
    nested = Branches("cat", conv((1, 3), padding=(0, 1)), conv(3, padding=1))
    assert not field_of(nested).bound


def test_normalization():
    batch_norm = nn.BatchNorm2d(1)
    assert field_of(nn.Sequential(conv(3), batch_norm)).size == (3, 3)  # in eval mode
    untracked = nn.BatchNorm2d(1, track_running_stats=False)
    for norm in (untracked, nn.GroupNorm(1, 1), nn.InstanceNorm2d(1), nn.LayerNorm((10, 14))):
        assert field_of(nn.Sequential(conv(3), norm)).is_uniform, norm


def test_elementwise_layers_do_not_change_fields():
    elementwise = [nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.Hardswish(), nn.Dropout(0.3),
                   nn.BatchNorm2d(2), nn.PReLU(), nn.Tanh(), nn.Identity()]  # fmt: skip
    plain = [conv(3, out=2, padding=1), nn.MaxPool2d(2), conv(3, channels=2, out=2)]
    expected = field_of(nn.Sequential(*plain))
    field = field_of(nn.Sequential(*(m for p in plain for m in (p, *elementwise))))
    for axis, expected_axis in zip(field.axes, expected.axes, strict=True):
        assert (axis.pattern, axis.dim) == (expected_axis.pattern, expected_axis.dim)
        assert np.array_equal(axis.used, expected_axis.used)


@st.composite
def layers(draw):
    """A convolution or pooling as (kind, kernel, stride, padding, dilation), the latter pairs."""
    kind = draw(st.sampled_from(["conv", "max", "avg"]))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    stride = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    dilation = (1, 1) if kind == "avg" else draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    limits = [k // 2 if kind != "conv" else 2 for k in kernel]
    padding = tuple(draw(st.integers(0, limit)) for limit in limits)
    return kind, kernel, stride, padding, dilation


def module_of(layer) -> nn.Module:
    kind, kernel, stride, padding, dilation = layer
    if kind == "conv":
        return nn.Conv2d(1, 1, kernel, stride, padding, dilation)
    if kind == "max":
        return nn.MaxPool2d(kernel, stride, padding, dilation)
    return nn.AvgPool2d(kernel, stride, padding)


def pixels_of(layer, unit, field_below, bounded_by=None):
    """Return the union of `field_below` over the units that one unit of this layer reads."""
    _, kernel, stride, padding, dilation = layer
    result = set()
    for a in range(kernel[0]):
        for b in range(kernel[1]):
            i, j = (unit[d] * stride[d] - padding[d] + t * dilation[d] for d, t in ((0, a), (1, b)))
            if bounded_by is None or (0 <= i < bounded_by[0] and 0 <= j < bounded_by[1]):
                result |= field_below((i, j))
    return result


def size_after(layer, size):
    _, kernel, stride, padding, dilation = layer
    return tuple(
        (size[d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1
        for d in (0, 1)
    )


@properties(30)
@given(
    st.lists(layers(), min_size=1, max_size=4), st.tuples(st.integers(7, 10), st.integers(7, 10))
)
def test_random_chains(chain, size):
    sizes = [size]
    for layer in chain:
        sizes.append(size_after(layer, sizes[-1]))
    if min(min(s) for s in sizes) < 1:
        return

    def endless(depth, unit):
        if depth == 0:
            return {unit}
        return pixels_of(chain[depth - 1], unit, lambda u: endless(depth - 1, u))

    def inside(depth, unit):
        if depth == 0:
            return {unit}
        below = sizes[depth - 1]
        return pixels_of(chain[depth - 1], unit, lambda u: inside(depth - 1, u), below)

    field = field_of(nn.Sequential(*map(module_of, chain)), size)
    assert field.units == sizes[-1]
    rows, columns = sizes[-1]
    for unit in {(0, 0), (rows // 2, 0), (rows // 3, columns // 2), (rows - 1, columns - 1)}:
        pixels = endless(len(chain), unit)
        interval = tuple((min(p[d] for p in pixels), max(p[d] for p in pixels)) for d in (0, 1))
        assert field.interval(unit) == interval
        assert field.size == tuple(last - first + 1 for first, last in interval)
        used = field.used(unit)
        assert inside(len(chain), unit) == {(i, j) for i in used[0] for j in used[1]}
    assert field.start == field.interval((0, 0))[0][:1] + field.interval((0, 0))[1][:1]


@properties(15)
@given(layer_lists.filter(lambda x: receptive_field(x) < 40))
def test_lists_and_networks_agree(chain):
    network = nn.Sequential(*(nn.Conv2d(1, 1, k, s) for k, s in chain), nn.Identity())
    field = field_of(network, 40)
    assert field.size == (receptive_field(chain),) * 2


def test_errors_for_invalid_arguments():
    network = SimpleCNN()
    with pytest.raises(ValueError, match=r"input_size is \(1, 2, 3, 4\): give the side"):
        receptive_fields(network, (1, 2, 3, 4))
    with pytest.raises(ValueError, match="input_size is 0: give the side"):
        receptive_fields(network, 0)
    with pytest.raises(ValueError, match=r"does not run on one image of shape \(1, 1, 32, 32\)"):
        receptive_fields(network, 32)
    with pytest.raises(ValueError, match=r"does not run on one image of shape \(1, 3, 28, 28\)"):
        receptive_fields(network, (3, 28, 28))
    with pytest.raises(ValueError, match="uninitialized lazy layers"):
        receptive_fields(nn.LazyConv2d(1, 3), 8)
    field = receptive_fields(network, 28)["pool3"]
    for unit in (3, (0, 3), (-1, 0)):
        with pytest.raises(ValueError, match="the layer has 3 x 3 units"):
            field.interval(unit)


def test_the_default_number_of_channels_is_that_of_the_first_convolution():
    network = nn.Sequential(nn.Conv2d(5, 2, 3))
    assert field_of(network, (6, 8)).image_size == (6, 8)
    assert field_of(network, (5, 6, 8)).units == (4, 6)
