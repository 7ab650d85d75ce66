"""Small networks and images for the tests of explain and figures."""

import copy

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from simplecnn.explain.subject import Subject
from simplecnn.models.simple_cnn import SimpleCNN

_digit_subjects: dict[tuple[int, int], Subject] = {}  # by seed and number of steps


class Residual(nn.Module):
    """A color network with BatchNorm, a residual sum, a stride, in-place ReLU, global pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.inner = nn.Conv2d(6, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.norm(self.stem(x)))
        x = F.relu(x + self.inner(x))
        x = F.relu(self.down(F.max_pool2d(x, 2)))
        return self.head(x.mean((2, 3)))


def frozen(network: nn.Module) -> nn.Module:
    return network.eval().requires_grad_(False)


def color_subject() -> Subject:
    """A residual network on 40 random images of 3 x 64 x 64 in four classes."""
    torch.manual_seed(0)
    network, untrained = Residual(), Residual()
    images = torch.rand(40, 3, 64, 64)
    with torch.no_grad():
        network(images)  # sets the running mean of the normalization
    labels = torch.arange(40) % 4
    names = ("cat", "dog", "horse", "ship")
    return Subject("residual", frozen(network), frozen(untrained), images, labels, names)


def digit_subject(
    bundled: tuple[np.ndarray, np.ndarray], *, seed: int = 0, num_steps: int = 60
) -> Subject:
    """A small SimpleCNN trained for some steps on bundled digits, with 200 held-out digits."""
    if (seed, num_steps) not in _digit_subjects:
        _digit_subjects[seed, num_steps] = _trained(bundled, seed, num_steps)
    return copy.deepcopy(_digit_subjects[seed, num_steps])  # because tests may modify its network


def _trained(bundled: tuple[np.ndarray, np.ndarray], seed: int, num_steps: int) -> Subject:
    torch.manual_seed(seed)
    network = SimpleCNN(channels=[4, 8], hidden=16)
    torch.manual_seed(seed)
    untrained = SimpleCNN(channels=[4, 8], hidden=16)
    order = np.random.default_rng(0).permutation(5000)
    images = torch.from_numpy(bundled[0][order]).float().unsqueeze(1) / 255
    labels = torch.from_numpy(bundled[1][order])
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)
    for step in range(num_steps):
        part = slice(200 + 64 * step, 264 + 64 * step)
        optimizer.zero_grad()
        F.cross_entropy(network(images[part]), labels[part]).backward()
        optimizer.step()
    names = tuple(map(str, range(10)))
    return Subject(
        f"digits {seed}", frozen(network), frozen(untrained), images[:200], labels[:200], names
    )
