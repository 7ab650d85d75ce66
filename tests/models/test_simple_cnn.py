"""SimpleCNN computes exactly what the tutorial's network computes; its options and errors."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from simplecnn.models.simple_cnn import SimpleCNN


class Tutorial(nn.Module):
    """The tutorial's network, written from its description."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1)
        self.fc1 = nn.Linear(576, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.max_pool2d(F.relu(conv(x)), 2)
        return self.fc2(F.relu(self.fc1(x.reshape(len(x), -1))))


def test_same_logits_from_the_tutorials_weights(ten_digits):
    torch.manual_seed(0)
    tutorial, network = Tutorial(), SimpleCNN()
    network.load_state_dict(tutorial.state_dict(), strict=True)
    images = torch.from_numpy(ten_digits[0])
    torch.testing.assert_close(network(images), tutorial(images), rtol=0, atol=0)
    # Channels last is the same function up to rounding.
    network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(network(images), tutorial(images), rtol=1e-5, atol=1e-6)


def test_same_gradients_as_the_tutorial(ten_digits):
    torch.manual_seed(0)
    tutorial, network = Tutorial(), SimpleCNN()
    network.load_state_dict(tutorial.state_dict())
    images, labels = (torch.from_numpy(a) for a in ten_digits)
    for model in (tutorial, network):
        F.cross_entropy(model(images), labels).backward()
    for (name, p), q in zip(tutorial.named_parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(q.grad, p.grad, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({}, 98_442),
        # conv: c_in * c_out * k * k + c_out; linear: in * out + out
        ({"channels": [8]}, 80 + (8 * 14 * 14 * 128 + 128) + 1290),
        ({"channels": [4, 8], "kernel_size": 5, "hidden": 32, "dropout": 0.5},
         104 + 808 + (8 * 7 * 7 * 32 + 32) + 330),
        ({"in_channels": 3, "num_classes": 7, "image_size": 64},
         448 + 4_640 + 18_496 + (64 * 8 * 8 * 128 + 128) + 903),
    ],
)  # fmt: skip
def test_number_of_parameters(arguments, parameters):
    network = SimpleCNN(**arguments)
    assert sum(p.numel() for p in network.parameters()) == parameters
    size = arguments.get("image_size", 28)
    images = torch.zeros(2, arguments.get("in_channels", 1), size, size)
    assert network(images).shape == (2, arguments.get("num_classes", 10))


def test_average_and_stride_pooling(ten_digits):
    average, stride = SimpleCNN(pool="average"), SimpleCNN(pool="stride")
    assert [name for name, _ in average.named_children()] == list(
        dict(SimpleCNN().named_children())
    )
    assert isinstance(average.pool2, nn.AvgPool2d)
    assert sum(p.numel() for p in average.parameters()) == 98_442
    assert not any(name.startswith("pool") for name, _ in stride.named_children())
    assert stride.conv3.stride == (2, 2) and stride.fc1.in_features == 64 * 4 * 4  # 28, 14, 7, 4
    images = torch.from_numpy(ten_digits[0])
    assert stride(images).shape == average(images).shape == (10, 10)
    average.load_state_dict(SimpleCNN().state_dict(), strict=True)


def test_blur_pooling_and_no_pooling(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    blur, none = SimpleCNN(pool="blur"), SimpleCNN(pool="none", channels=[2, 3])
    assert blur(images).shape == none(images).shape == (10, 10)
    blur.load_state_dict(SimpleCNN().state_dict(), strict=True)  # BlurPool has no weights
    assert none.fc1.in_features == 3 * 28 * 28
    edge = torch.zeros(1, 1, 8, 8)
    edge[..., 4:] = 1  # maxima are 1 from column 3; blurred by 1/4, 1/2, 1/4; columns 0, 2, 4, 6
    assert blur.pool1(edge)[0, 0, 0].tolist() == [0, 0.25, 1, 1]
    assert blur.pool1(torch.rand(2, 5, 7, 9)).shape == (2, 5, 3, 4)


def test_a_crop_is_the_first_layer_and_has_no_weights(ten_digits):
    images = torch.from_numpy(ten_digits[0])
    cropped, plain = SimpleCNN(crop=[4, 28]), SimpleCNN()
    plain.load_state_dict(cropped.state_dict(), strict=True)
    zoomed = F.interpolate(images[..., 4:28, 4:28], (28, 28), mode="bicubic").clamp(0, 1)
    assert torch.equal(cropped(images), plain(zoomed))
    uncropped = SimpleCNN(crop=[0, 28])
    uncropped.load_state_dict(plain.state_dict(), strict=True)
    torch.testing.assert_close(uncropped(images), plain(images), rtol=1e-5, atol=1e-6)
    for crop in ([4], [28, 4], [0, 29]):
        with pytest.raises(ValueError, match="two increasing integers, 0 to 28"):
            SimpleCNN(crop=crop)


def test_dropout_is_before_the_last_layer():
    assert list(dict(SimpleCNN(dropout=0.3).named_children()))[-2:] == ["dropout", "fc2"]
    assert "dropout" not in dict(SimpleCNN().named_children())


def test_invalid_arguments_raise_value_error():
    with pytest.raises(ValueError, match="kernel_size is 4: only odd kernels"):
        SimpleCNN(kernel_size=4)
    with pytest.raises(
        ValueError, match="pool is 'min': it must be max, average, blur, stride or none."
    ):
        SimpleCNN(pool="min")
    with pytest.raises(ValueError, match="channels has 5 blocks.*nothing is left of 28 pixels"):
        SimpleCNN(channels=[1] * 5)


def test_normalization_is_the_first_layer_and_has_no_weights():
    statistics = {"mean": [0.2, 0.4, 0.6], "std": [0.5, 0.25, 2.0]}
    torch.manual_seed(0)
    network = SimpleCNN(in_channels=3, image_size=16, normalize=statistics)
    plain = SimpleCNN(in_channels=3, image_size=16)
    plain.load_state_dict(network.state_dict())
    images = torch.rand(4, 3, 16, 16)
    normalized = torch.stack([(images[:, c] - m) / s for c, (m, s) in
                           enumerate(zip(*statistics.values(), strict=True))], 1)  # fmt: skip
    torch.testing.assert_close(network(images), plain(normalized), rtol=0, atol=0)
    with pytest.raises(ValueError, match="std above 0"):
        SimpleCNN(normalize={"mean": [0.0], "std": [0.0]})


def test_the_final_pool_accepts_any_image_size():
    network = SimpleCNN(final_pool=4, image_size=64)
    assert network.fc1.in_features == 64 * 4 * 4
    assert network(torch.rand(2, 1, 224, 224)).shape == (2, 10)
    maps = nn.Sequential(*list(network)[:-4])(torch.rand(2, 1, 64, 64))
    assert maps.shape == (2, 64, 4, 4)


def test_max_pooling_runs_before_relu_in_training_only(ten_digits):
    network, sizes = SimpleCNN(), []
    network.relu1.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[-1]))
    for training in (True, False):
        network.train(training)(torch.from_numpy(ten_digits[0]))
    assert sizes == [14, 28]
