"""The captured step is the plain step. The capture itself needs a CUDA device."""

import copy

import pytest
import torch
from torch.nn import functional as F

from simplecnn.cuda_graph import GraphedStep, make_capturable
from simplecnn.network import SimpleCNN


def batches(bundled, *, num: int, device: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images = torch.from_numpy(bundled[0])[:, None].to(device) / 255
    labels = torch.from_numpy(bundled[1]).to(device)
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0)).to(device)
    chosen = [order[64 * i % 4096 :][: 64 if i % 10 != 9 else 32] for i in range(num)]
    return [(images[part], labels[part]) for part in chosen]


def compare(bundled, *, num: int, device: str, tolerance: float) -> GraphedStep:
    torch.manual_seed(0)
    plain = SimpleCNN().to(device, memory_format=torch.channels_last)
    graphed = copy.deepcopy(plain)
    optimizer = torch.optim.Adam(plain.parameters(), lr=1e-3, fused=True)
    own = torch.optim.Adam(graphed.parameters(), lr=1e-3, fused=True)
    if device == "cuda":
        make_capturable(own)
    step = GraphedStep(graphed, F.cross_entropy, own)
    loss_sum = num_correct = 0.0
    for images, labels in batches(bundled, num=num, device=device):
        logits = plain(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert step(images, labels).item() == pytest.approx(loss.item(), abs=tolerance)
        loss_sum += loss.item() * len(labels)
        num_correct += (logits.argmax(1) == labels).sum().item()
    assert step.sums.tolist() == pytest.approx([loss_sum, num_correct], rel=1e-3)
    return step


def test_the_step_is_the_plain_step(bundled):
    assert compare(bundled, num=12, device="cpu", tolerance=0).graph is None


def test_an_optimizer_that_cannot_be_captured_is_a_sentence():
    optimizer = torch.optim.SGD(SimpleCNN().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="SGD cannot be captured in a CUDA graph: take Adam"):
        make_capturable(optimizer)


def test_a_captured_rate_follows_its_schedule():
    optimizer = torch.optim.Adam(SimpleCNN().parameters(), lr=1e-3)
    make_capturable(optimizer)
    rate = optimizer.param_groups[0]["lr"]
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer._opt_called = True
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is rate  # the memory that a graph reads
    assert rate.item() == pytest.approx(5e-4)


@pytest.mark.gpu
def test_the_captured_steps_are_the_plain_steps(bundled):
    """Losses to 1e-5 over 100 steps, some of them of another size."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        step = compare(bundled, num=100, device="cuda", tolerance=1e-5)
    finally:
        torch.use_deterministic_algorithms(False)
    assert step.graph is not None
