"""Names of layers in a forward pass, and operations that can be followed or not."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from simplecnn.receptive_field import named_outputs, receptive_fields


class Network(nn.Module):
    """A convolution followed by a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(self.conv(x))


def names(network: nn.Module, num_passes: int = 1) -> list[str]:
    seen: list[str] = []
    with named_outputs(network, lambda name, module, output: seen.append(name)), torch.no_grad():
        for _ in range(num_passes):
            network(torch.zeros(1, 1, 12, 12))
    return seen


def test_names_of_layers():
    relu = nn.ReLU()
    block = nn.Sequential(nn.Conv2d(1, 1, 3), relu)
    network = nn.Sequential(block, relu, nn.Sequential(nn.Conv2d(1, 1, 3), relu))
    # Containers that return the output of their last child are not listed.
    assert names(network) == ["0.0", "0.1", "0.1_1", "2.0", "0.1_2"]
    assert names(network, num_passes=2) == ["0.0", "0.1", "0.1_1", "2.0", "0.1_2"] * 2
    assert names(Network(F.relu)) == ["conv", "output"]
    assert names(Network(nn.Identity())) == ["conv", "function"]
    assert names(nn.Conv2d(1, 1, 3)) == ["output"]


def test_numbered_names_skip_existing_names():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool, self.pool_1 = nn.MaxPool2d(2), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pool(self.pool_1(self.pool(x)))

    assert names(Twice()) == ["pool", "pool_1", "pool_2"]


def test_outputs_in_tuples_and_dictionaries():
    network = Network(lambda x: {"maps": (F.max_pool2d(x, 2), None), "more": x})
    assert receptive_fields(network, 12)["output"].size == (4, 4)


def test_layers_that_do_not_depend_on_the_image_are_omitted():
    class Prior(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.seen, self.constant = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (
                self.seen(x)
                + self.constant(torch.zeros_like(x))
                + self.constant(x.new_ones(x.shape))
            )

    assert list(receptive_fields(Prior(), 8)) == ["seen", "output"]


def test_fields_list_their_operations():
    fields = receptive_fields(Network(lambda x: F.relu(x).mean((2, 3))), 8)
    assert fields["conv"].operations == {"conv2d"}
    assert fields["output"].operations == {"conv2d", "relu", "mean"}


def test_fields_do_not_depend_on_weights():
    network = Network(lambda x: x * 0 if x.sum() > 1e9 else F.max_pool2d(x, 2))
    nn.init.zeros_(network.conv.weight)
    assert receptive_fields(network, 12)["output"].size == (4, 4)


def test_hooks_are_removed_and_modes_restored_after_an_error():
    def fail(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("cannot run")

    network = Network(fail).train()
    with pytest.raises(ValueError, match="cannot run"):
        receptive_fields(network, 8)
    assert network.training and network.conv.training
    assert not network._forward_pre_hooks and not network.conv._forward_hooks


def test_a_write_into_a_part_of_a_tensor_is_rejected():
    def write(x: torch.Tensor) -> torch.Tensor:
        canvas = torch.zeros(1, 2, 12, 12)
        canvas[:, :, 1:-1, 1:-1] = x
        return canvas

    with pytest.raises(ValueError, match="writes into a part of a tensor in place.*torch.cat"):
        receptive_fields(Network(write), 12)

    def add(x: torch.Tensor) -> torch.Tensor:
        x[:, :1] += F.avg_pool2d(x[:, :1], 3, 1, 1)
        return x

    with pytest.raises(ValueError, match="writes into a part of a tensor in place.*torch.cat"):
        receptive_fields(Network(add), 12)


def test_in_place_writes_that_are_followed():
    def write(x: torch.Tensor) -> torch.Tensor:
        canvas = torch.zeros_like(x)
        canvas[...] = x
        for half in canvas.chunk(2, 1):
            half.relu_()
        canvas += F.avg_pool2d(x, 3, 1, 1)
        return canvas

    assert receptive_fields(Network(write), 12)["output"].size == (5, 5)


def test_an_unknown_operation_is_bounded_by_the_whole_image():
    network = Network(lambda x: F.grid_sample(x, torch.zeros(1, 4, 4, 2), align_corners=False))
    field = receptive_fields(network, 12)["output"]
    assert field.is_uniform and field.used(0) == (tuple(range(12)),) * 2
    assert field.bound == "no rule for aten.grid_sampler_2d: assumed to depend on everything"
    # If all elements already have the same field, it is exact.
    pooled = Network(lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1).cumsum(1)[:, 0])
    assert receptive_fields(pooled, 12)["output"].bound == ""


def test_a_compiled_network_runs_uncompiled(monkeypatch):
    stances: list[str] = []

    class Stance:
        def __init__(self, stance: str) -> None:
            stances.append(stance)

        def __enter__(self) -> None: ...

        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(torch.compiler, "set_stance", Stance)
    network = Network(F.relu)
    receptive_fields(network, 12)
    assert stances == []
    network._compiled_call_impl = network._call_impl  # as network.compile() leaves it
    assert receptive_fields(network, 12)["conv"].size == (3, 3)
    assert stances == ["force_eager"]
