"""The captured step is the plain step. The capture itself needs a CUDA device."""

import contextlib
import copy
import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from conftest import compose_run
from torch.nn import functional as F

from simplecnn.models.classifier import Classifier
from simplecnn.models.cuda_graph import NUM_EAGER, GraphedStep
from simplecnn.models.simple_cnn import SimpleCNN
from simplecnn.training.run import train


def batches(bundled, *, num: int, device: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images = torch.from_numpy(bundled[0])[:, None].to(device) / 255
    labels = torch.from_numpy(bundled[1]).to(device)
    order = torch.randperm(5000, generator=torch.Generator().manual_seed(0)).to(device)
    chosen = [order[64 * i % 4096 :][: 64 if i % 10 != 9 else 32] for i in range(num)]
    return [(images[part], labels[part]) for part in chosen]


class Replayed:
    """Does on a CPU what a CUDA graph does: repeats a step with the numbers of its capture.

    It reads and writes the memory that the captured step had, whatever has been put in its place:
    images, labels, mean loss, gradients, and learning rates where they were tensors.
    """

    def __init__(self, step: GraphedStep) -> None:
        self.step = step
        self.num_replays = 0

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """What runs inside leaves no trace but the memory that it made, as in a capture."""
        step = self.step
        assert all(group["capturable"] for group in step.optimizer.param_groups)
        self.settings = [dict(group) for group in step.optimizer.param_groups]
        state = step.optimizer.state
        written = [*step.parameters, step.sums, *(t for s in state.values() for t in s.values())]
        before = [tensor.detach().clone() for tensor in written]
        yield
        self.gradients = [p.grad for p in step.parameters]
        with torch.no_grad():
            torch._foreach_copy_(written, before)

    def replay(self) -> None:
        step, self.num_replays = self.step, self.num_replays + 1
        gradients = [p.grad for p in step.parameters]
        groups = [dict(group) for group in step.optimizer.param_groups]
        for group, settings in zip(step.optimizer.param_groups, self.settings, strict=True):
            group.update(settings | {"capturable": False})
        step.mean.copy_(step._step(step.images, step.labels))
        for parameter, own, before in zip(step.parameters, self.gradients, gradients, strict=True):
            own.copy_(parameter.grad)
            parameter.grad = before
        for group, settings in zip(step.optimizer.param_groups, groups, strict=True):
            group.update(settings)


@pytest.fixture
def replayed(monkeypatch):
    """Lets a GraphedStep on the CPU capture and replay."""

    class Stream:
        def wait_stream(self, other: "Stream") -> None:
            pass

    def prepare(step: GraphedStep) -> Replayed:
        graph = Replayed(step)
        step.stream = Stream()
        monkeypatch.setattr(torch.cuda, "current_stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: graph)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream: graph.capture())
        return graph

    return prepare


def one_cycle(optimizer: torch.optim.Optimizer, num: int) -> torch.optim.lr_scheduler.OneCycleLR:
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=2e-3, total_steps=num + 1, cycle_momentum=False
    )


def compare(bundled, *, num: int, device: str, tolerance: float, prepare=None) -> GraphedStep:
    """Train twice, by plain steps and by a GraphedStep; every tenth batch has another size."""
    torch.manual_seed(0)
    plain = SimpleCNN().to(device, memory_format=torch.channels_last)
    graphed = copy.deepcopy(plain)
    optimizer = torch.optim.Adam(plain.parameters(), fused=True)
    own = torch.optim.Adam(graphed.parameters(), fused=True)
    schedule, own_schedule = one_cycle(optimizer, num), one_cycle(own, num)
    step = GraphedStep(graphed, F.cross_entropy, own)
    if prepare:
        prepare(step)
    loss_sum = num_correct = 0.0
    for images, labels in batches(bundled, num=num, device=device):
        logits = plain(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert step(images, labels).item() == pytest.approx(loss.item(), abs=tolerance)
        norms = [torch.stack([p.grad.norm() for p in n.parameters()]) for n in (plain, graphed)]
        torch.testing.assert_close(*norms, rtol=100 * tolerance, atol=100 * tolerance)
        assert own.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
        assert not own.param_groups[0]["capturable"]
        schedule.step()
        own_schedule.step()
        loss_sum += loss.item() * len(labels)
        num_correct += (logits.argmax(1) == labels).sum().item()
    assert step.sums.tolist() == pytest.approx([loss_sum, num_correct], rel=1e-3)
    return step


def test_the_step_is_the_plain_step(bundled):
    assert compare(bundled, num=12, device="cpu", tolerance=0).graph is None


def test_what_a_graph_repeats_is_the_plain_step(bundled, replayed):
    """Rates from their own memory, gradients where callbacks look, batches of another size."""
    step = compare(bundled, num=32, device="cpu", tolerance=1e-6, prepare=replayed)
    assert step.graph.num_replays == 32 - NUM_EAGER - 3
    assert step.num_eager == NUM_EAGER + 3


def test_a_run_by_a_graph_is_the_plain_run(replayed, monkeypatch, tmp_path):
    """Metrics, what callbacks saw of gradients and rates, and what a checkpoint holds."""
    graphs = []

    def captured(module: Classifier) -> GraphedStep:
        step = GraphedStep(module.network, module.loss, module.optimizers().optimizer)
        graphs.append(replayed(step))
        return step

    monkeypatch.setattr(Classifier, "_captured_step", captured)
    words = ["data.steps_together=16", "+trainer.limit_train_batches=1.0", "seed=7",
             "model/scheduler=one_cycle", "+model.scheduler.cycle_momentum=false"]  # fmt: skip
    folders = [tmp_path / "plain", tmp_path / "graph"]
    for folder, graph in zip(folders, ("false", "true"), strict=True):
        train(compose_run(folder, *words, f"model.cuda_graph={graph}"), folder, seconds={})
    assert [graph.num_replays for graph in graphs] == [2 * 62 - NUM_EAGER]
    plain, other = (json.loads((folder / "run.json").read_text()) for folder in folders)
    assert other["metrics"] == pytest.approx(plain["metrics"], abs=1e-5)
    for name in ("health_gradients", "curves_steps"):
        expected, found = (np.load(next(folder.rglob(f"{name}.npz"))) for folder in folders)
        assert set(found) == set(expected)
        for key in found:
            np.testing.assert_allclose(found[key], expected[key], rtol=1e-4, atol=1e-6)
    expected, found = (
        torch.load(next(folder.rglob("last.ckpt")), weights_only=True)["optimizer_states"][0]
        for folder in folders
    )
    assert found["param_groups"] == expected["param_groups"]


@pytest.mark.parametrize(
    ("optimizer", "sentence"),
    [
        (torch.optim.SGD, "SGD with fused=true cannot be captured in a CUDA graph, only Adam"),
        (torch.optim.Adam, "Adam with fused=false cannot .* fused=true can: type model/optim"),
    ],
)
def test_an_optimizer_that_cannot_be_captured_is_a_sentence(optimizer, sentence):
    network = SimpleCNN()
    fused = optimizer is torch.optim.SGD
    with pytest.raises(ValueError, match=sentence):
        GraphedStep(network, F.cross_entropy, optimizer(network.parameters(), lr=0.1, fused=fused))


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
