"""Feature maps are the outputs of each convolution's ReLU, in any network."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from simplecnn.models.activations import (
    ablated_channel,
    capture_activations,
    convolutions,
    evaluation_mode,
    feature_maps,
    reads_color,
)
from simplecnn.models.simple_cnn import SimpleCNN


class Functional(nn.Module):
    """A functional ReLU after normalization, an in-place ReLU, a convolution without a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3, stride=2)
        self.last = nn.Conv2d(5, 10, 1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = self.act(self.second(F.max_pool2d(x, 2)))
        return self.last(x).mean((2, 3))


def test_only_the_first_convolution_of_three_channels_reads_color():
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 8, 3))
    assert [reads_color(network, network[i]) for i in (0, 2)] == [True, False]
    assert not reads_color(nn.Sequential(gray := nn.Conv2d(1, 3, 3)), gray)


def num_hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) for m in network.modules())


def test_feature_maps_are_those_of_the_tutorial(ten_digits):
    torch.manual_seed(0)
    network = SimpleCNN()
    x = torch.from_numpy(ten_digits[0])
    maps, logits = feature_maps(network, x)
    with torch.no_grad():
        first = F.relu(network.conv1(x))
        second = F.relu(network.conv2(F.max_pool2d(first, 2)))
        third = F.relu(network.conv3(F.max_pool2d(second, 2)))
    assert list(maps) == ["conv1", "conv2", "conv3"]
    for actual, expected in zip(maps.values(), (first, second, third), strict=True):
        assert torch.equal(actual, expected)
    assert torch.equal(logits, network(x).detach())


NOT_ELEMENTWISE = ("Softmax", "Softmax2d", "LogSoftmax", "Softmin", "GLU", "MultiheadAttention")
ACTIVATIONS = {
    name: getattr(nn, name)()
    for name in nn.modules.activation.__all__
    if name not in (*NOT_ELEMENTWISE, "Threshold")
} | {
    "threshold": nn.Threshold(0.1, 0.0),
    "in place": nn.CELU(inplace=True),
    "selu": torch.selu,
    "tanh_": torch.Tensor.tanh_,
    "leaky_relu_": F.leaky_relu_,
    "clamp_min": lambda x: x.clamp_min(0),
    "clip": lambda x: torch.clip(x, 0, 1),
}


@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS.keys())
def test_the_activation_may_be_any_of_torchs(activation):
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 4, 3)
            self.activation = activation

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.activation(self.conv(x)).mean((2, 3))

    torch.manual_seed(0)
    network, x = Network().eval(), torch.randn(2, 1, 6, 6)
    (maps,) = feature_maps(network, x)[0].values()
    with torch.no_grad():
        assert torch.equal(maps, network.activation(network.conv(x)))
        assert not torch.equal(maps, network.conv(x))


def test_functional_normalized_and_in_place_activations(ten_digits):
    torch.manual_seed(0)
    network = Functional()
    x = torch.from_numpy(ten_digits[0])
    network(x)  # moves the running mean away from zero
    maps, _ = feature_maps(network, x)
    network.eval()
    with torch.no_grad():
        first = F.relu(network.norm(network.first(x)))
        second = F.relu(network.second(F.max_pool2d(first, 2)))
        last = network.last(second)
    assert list(maps) == ["first", "second", "last"]
    assert torch.equal(maps["first"], first)
    assert torch.equal(maps["second"], second)
    assert torch.equal(maps["last"], last) and (last < 0).any()  # no ReLU follows


def test_feature_maps_of_resnet18():
    torch.manual_seed(0)
    network = torchvision.models.resnet18(num_classes=10)
    maps, logits = feature_maps(network, torch.randn(2, 3, 64, 64))
    assert list(maps) == list(convolutions(network)) and len(maps) == 20
    assert maps["conv1"].shape == (2, 64, 32, 32)
    assert (maps["conv1"] >= 0).all() and logits.shape == (2, 10)


@pytest.mark.parametrize("training", [True, False])
def test_hooks_modes_and_state_are_restored(training, ten_digits):
    torch.manual_seed(0)
    network = Functional().train(training)
    network.norm.eval()
    state = {k: v.clone() for k, v in network.state_dict().items()}
    random_state = torch.get_rng_state()
    feature_maps(network, torch.from_numpy(ten_digits[0]))
    assert num_hooks(network) == 0
    assert network.training is training and network.act.training is training
    assert not network.norm.training
    assert all(torch.equal(state[k], v) for k, v in network.state_dict().items())
    assert torch.equal(random_state, torch.get_rng_state())
    assert all(p.grad is None for p in network.parameters())


def test_a_compiled_network_has_the_same_feature_maps(ten_digits):
    torch.manual_seed(0)
    network = SimpleCNN()
    images = torch.from_numpy(ten_digits[0])
    expected, _ = feature_maps(network, images)
    network.compile()
    maps, _ = feature_maps(network, images)
    assert list(maps) == list(expected)
    assert all(torch.equal(maps[name], expected[name]) for name in maps)


def test_hooks_and_modes_are_restored_after_an_error():
    network = Functional()
    with pytest.raises(RuntimeError):
        feature_maps(network, torch.zeros(1, 3, 28, 28))
    assert num_hooks(network) == 0 and network.training


def test_evaluation_mode_restores_the_mode_of_every_module():
    network = Functional()
    network.norm.eval()
    with evaluation_mode(network):
        assert not any(m.training for m in network.modules())
    assert network.training and not network.norm.training


class Residual(nn.Module):
    """Shortcuts added in place, to a convolution with and without normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.third = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.first(x), inplace=True)
        out = self.second(x)
        out += x
        out = self.norm(self.third(F.relu(out, inplace=True)))
        out += x
        return self.fc(F.relu(out).mean((2, 3)))


def test_feature_maps_are_stored_before_a_shortcut_is_added_in_place(ten_digits):
    torch.manual_seed(0)
    network = Residual().eval()
    x = torch.from_numpy(ten_digits[0])
    maps, _ = feature_maps(network, x)
    with torch.no_grad():
        first = F.relu(network.first(x))
        second = network.second(first)
        third = network.third(F.relu(second + first))
    assert list(maps) == ["first", "second", "third"]
    assert torch.equal(maps["first"], first)
    assert torch.equal(maps["second"], second) and (second < 0).any()
    assert torch.equal(maps["third"], third)


def test_each_forward_pass_delivers_each_layer_once(ten_digits):
    network = SimpleCNN().eval()
    received: list[tuple[str, tuple[int, ...], bool]] = []

    def receive(name: str, output: torch.Tensor) -> None:
        received.append((name, tuple(output.shape), bool((output < 0).any())))

    with (
        torch.inference_mode(),
        capture_activations(network, receive, (nn.Conv2d, nn.Linear)) as names,
    ):
        for num_images in (3, 7):
            network(torch.from_numpy(ten_digits[0][:num_images]))
    assert names == ["conv1", "conv2", "conv3", "fc1", "fc2"]
    assert received[:4] == [
        ("conv1", (3, 16, 28, 28), False), ("conv2", (3, 32, 14, 14), False),
        ("conv3", (3, 64, 7, 7), False), ("fc1", (3, 128), False),
    ]  # fmt: skip
    assert [entry[:2] for entry in received[-2:]] == [("fc2", (3, 10)), ("fc2", (7, 10))]
    assert len(received) == 10 and num_hooks(network) == 0


@pytest.mark.parametrize("layer", ["conv1", "conv3"])
def test_ablating_a_channel_equals_zeroing_its_weights(layer, ten_digits):
    torch.manual_seed(0)
    network = SimpleCNN().eval().requires_grad_(False)
    images = torch.from_numpy(ten_digits[0])
    expected = network(images)
    maps, _ = feature_maps(network, images)
    channel = int(maps[layer].mean((0, 2, 3)).argmax())
    with ablated_channel(network, layer, channel):
        ablated = network(images)
        second_pass = network(images)
    assert torch.equal(ablated, second_pass) and torch.equal(network(images), expected)
    module = network.get_submodule(layer)
    module.weight[channel] = module.bias[channel] = 0
    torch.testing.assert_close(ablated, network(images))
    assert not torch.equal(ablated, expected) and num_hooks(network) == 0


def test_a_channel_is_ablated_after_normalization_too(ten_digits):
    torch.manual_seed(0)
    network = Functional().requires_grad_(False)
    images = torch.from_numpy(ten_digits[0])
    network(images)  # moves the running mean away from zero
    network.eval()
    with ablated_channel(network, "first", 2):
        ablated = network(images)
    first = F.relu(network.norm(network.first(images)))
    first[:, 2] = 0
    second = F.relu(network.second(F.max_pool2d(first, 2)))
    torch.testing.assert_close(ablated, network.last(second).mean((2, 3)))
    assert num_hooks(network) == 0


def test_a_channel_is_ablated_without_a_non_linearity(ten_digits):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 26 * 26, 10))
    network.requires_grad_(False)
    images = torch.from_numpy(ten_digits[0])
    with ablated_channel(network, "0", 1):
        ablated = network(images)
    assert not torch.equal(ablated, network(images))
    network[0].weight[1] = network[0].bias[1] = 0
    torch.testing.assert_close(ablated, network(images))
