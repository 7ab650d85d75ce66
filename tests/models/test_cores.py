"""A batch in shares gives what the whole gives; so do pooling before ReLU and blocks of memory."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from simplecnn.models.classifier import Classifier
from simplecnn.models.cores import Cores, can_split
from simplecnn.models.simple_cnn import HAS_BLOCKS, SimpleCNN


@pytest.fixture
def digits(bundled) -> tuple[torch.Tensor, torch.Tensor]:
    """640 real digits and their labels."""
    images, labels = bundled
    chosen = torch.randperm(5000, generator=torch.Generator().manual_seed(0))[:640]
    return torch.from_numpy(images)[chosen, None] / 255, torch.from_numpy(labels)[chosen]


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return SimpleCNN().to(memory_format=torch.channels_last)


def gradients(network: nn.Module) -> list[torch.Tensor]:
    found = [p.grad for p in network.parameters()]
    for p in network.parameters():
        p.grad = None
    return found


def layer_by_layer(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The plain path: every layer in the order of its definition."""
    for layer in network:
        images = layer(images)
    return images


def plain_steps(network, digits, *, num: int, size: int = 32) -> list[float]:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    losses = []
    for step in range(num):
        part = slice(step * size % 640, step * size % 640 + size)
        loss = F.cross_entropy(layer_by_layer(network, digits[0][part]), digits[1][part])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_before_relu_is_the_same_function_bit_for_bit(layout, digits):
    torch.manual_seed(0)
    network = SimpleCNN().to(memory_format=layout)
    images, labels = digits[0][:64], digits[1][:64]
    found = []
    for forward in (lambda x: layer_by_layer(network, x), network.train()):
        logits = forward(images)
        F.cross_entropy(logits, labels).backward()
        found.append((logits, gradients(network)))
    (logits, plain), (fast_logits, fast) = found
    assert torch.equal(logits, fast_logits)
    assert torch.equal(logits, network.eval()(images))
    for p, q in zip(plain, fast, strict=True):
        assert torch.equal(p, q)


def test_evaluation_keeps_the_order_of_definition(digits, network):
    sizes = {}
    network.relu1.register_forward_hook(lambda m, i, o: sizes.update({m.training: o.shape[-1]}))
    network.eval()(digits[0][:2])
    network.train()(digits[0][:2])
    assert sizes == {False: 28, True: 14}


@pytest.fixture
def blocked_sizes(monkeypatch) -> list[int]:
    """The sizes of the batches that oneDNN's own layout was asked for."""
    sizes, convert = [], torch.Tensor.to_mkldnn
    monkeypatch.setattr(
        torch.Tensor, "to_mkldnn", lambda images: (sizes.append(len(images)), convert(images))[1]
    )
    return sizes


@pytest.mark.parametrize(
    ("arguments", "is_blocked"),
    [
        ({}, True),
        ({"pool": "none"}, True),
        ({"channels": [32, 16], "kernel_size": 5}, True),
        *(({"pool": pool}, False) for pool in ("average", "stride", "blur")),
        ({"channels": [8, 16, 32]}, False),
    ],
)
def test_the_blocked_layout_gives_the_same_to_rounding(
    arguments, is_blocked, digits, blocked_sizes
):
    torch.manual_seed(0)
    network = SimpleCNN(**arguments).to(memory_format=torch.channels_last)
    images, labels = digits[0][:64], digits[1][:64]
    found = []
    for network.blocked in (False, True, True):
        logits = network.train()(images)
        F.cross_entropy(logits, labels).backward()
        found.append([logits, *gradients(network)])
    assert blocked_sizes == [64, 64] * (is_blocked and HAS_BLOCKS)
    for plain, blocked, again in zip(*found, strict=True):
        assert torch.equal(blocked, again)
        assert blocked.layout == torch.strided
        if plain.ndim == 4:
            assert blocked.is_contiguous(memory_format=torch.channels_last)
        largest = plain.abs().max().item()
        torch.testing.assert_close(blocked, plain, rtol=0, atol=2e-5 * largest)


def test_the_blocked_layout_is_for_training_in_single_precision_unwatched(
    digits, network, blocked_sizes
):
    images, network.blocked = digits[0][:8], True
    network.eval()(images)
    copy.deepcopy(network).double().train()(images.double())
    handle = network.conv2.register_forward_hook(lambda *_: None)
    network.train()(images)
    assert blocked_sizes == []
    handle.remove()
    network(images)
    assert blocked_sizes == [8] * HAS_BLOCKS


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("num_images", [64, 47, 20])
@pytest.mark.parametrize("num_cores", [2, 3])
def test_shares_give_loss_logits_and_gradients_of_the_batch(
    num_cores, num_images, blocked, digits, network
):
    images, labels = digits[0][:num_images], digits[1][:num_images]
    logits = network(images)
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    whole = gradients(network)
    network.blocked = blocked
    cores = Cores(network, F.cross_entropy, num_cores=num_cores)
    for _ in range(2):  # what an earlier batch has left does not count
        shared_loss, shared_logits = cores.backward(images, labels)
    cores.close()
    assert not shared_loss.requires_grad and not shared_logits.requires_grad
    torch.testing.assert_close(shared_loss, loss, rtol=1e-6, atol=0)
    torch.testing.assert_close(shared_logits, logits, rtol=1e-5, atol=1e-6)
    for p, q in zip(whole, gradients(network), strict=True):
        torch.testing.assert_close(q, p, rtol=1e-5, atol=1e-6)
        assert q.stride() == p.stride()


def test_a_hundred_steps_in_shares_are_those_of_the_plain_path(digits, network):
    """Losses over 100 Adam steps, and twice the same bits.

    In double precision: Adam divides small gradients by their own size, so that rounding grows.
    """
    network, digits = network.double(), (digits[0].double(), digits[1])
    plain = plain_steps(copy.deepcopy(network), digits, num=100)
    runs = []
    for _ in range(2):
        own = copy.deepcopy(network)
        cores = Cores(own, F.cross_entropy, num_cores=2)
        optimizer = torch.optim.Adam(own.parameters(), lr=1e-3, fused=True)
        losses = []
        for step in range(100):
            part = slice(step * 32 % 640, step * 32 % 640 + 32)
            loss, _ = cores.backward(digits[0][part], digits[1][part])
            optimizer.step()
            losses.append(loss.item())
        cores.close()
        runs.append((losses, own))
    assert runs[0][0] == runs[1][0]
    for p, q in zip(runs[0][1].parameters(), runs[1][1].parameters(), strict=True):
        assert torch.equal(p, q)
    assert plain[0] > 2 and plain[-1] < 0.5
    assert runs[0][0] == pytest.approx(plain, rel=1e-9)


def test_an_error_in_a_share_arrives(network):
    cores = Cores(network, F.cross_entropy, num_cores=2)
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        cores.backward(torch.zeros(64, 1, 14, 14), torch.zeros(64, dtype=torch.long))
    cores.close()
    assert torch.get_num_threads() == before


def test_threads_are_given_back(network):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        cores = Cores(network, F.cross_entropy, num_cores=2)
        batch = torch.zeros(64, 1, 28, 28), torch.zeros(64, dtype=torch.long)
        for give_back in (cores.release, cores.close):
            cores.backward(*batch)
            assert torch.get_num_threads() == 1
            give_back()
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_what_cannot_be_split_is_not():
    assert can_split(SimpleCNN())
    assert not can_split(SimpleCNN(dropout=0.1))
    assert not can_split(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)))
    hooked = SimpleCNN()
    hooked.conv1.register_forward_hook(lambda *_: None)
    assert not can_split(hooked)

    class Own(nn.Module):
        pass

    assert not can_split(nn.Sequential(Own()))


def test_the_classifier_splits_where_there_are_cores(monkeypatch):
    network = {
        "_target_": "simplecnn.models.simple_cnn.SimpleCNN",
        "channels": [4, 8],
        "hidden": 16,
    }
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    module = Classifier(network)
    cores = module.split_among_cores()
    assert cores.num_cores == 2
    again = copy.deepcopy(cores)
    assert again.workers is not cores.workers
    assert Classifier({**network, "dropout": 0.5}).split_among_cores() is None
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert module.split_among_cores() is None
