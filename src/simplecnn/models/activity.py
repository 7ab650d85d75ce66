"""Whether a network's layers are alive: activations over many images, gradients, updates."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from simplecnn.models.metrics import PRECISE

LAYERS = (nn.Conv2d, nn.Linear)  # the kinds of layers that are measured


def layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Every convolution and every fully connected layer by its module name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, LAYERS)}


class ActivityMeter:
    """Adds up the outputs of one layer, batch after batch, on their device and without a wait."""

    def __init__(self) -> None:
        self.num_images = 0

    def add(self, output: Tensor) -> None:
        """A batch (N, channels, H, W) or (N, units), all of one size."""
        # Channels last, as maps lie in memory: then nothing is copied.
        values = output.detach().float().movedim(1, -1)
        self._num_channels = values.shape[-1]
        values = values.reshape(len(values), -1)
        largest, smallest = values.amax(0), values.amin(0)
        # Sums of rows, the norm and the count of booleans are many times as fast as a sum in
        # double precision, var and the count of numbers; `bool()` twice as fast as `!= 0`.
        total = values.sum(1).to(PRECISE).sum()
        square = torch.linalg.vector_norm(values, dim=1).to(PRECISE).square().sum()
        num_nonzero = values.bool().count_nonzero().to(PRECISE)
        sums = torch.stack([total, square, num_nonzero])
        if self.num_images == 0:
            self._largest, self._smallest, self._sums = largest, smallest, sums
        else:
            self._largest = torch.maximum(self._largest, largest)
            self._smallest = torch.minimum(self._smallest, smallest)
            self._sums += sums
        self.num_images += len(values)

    def result(self) -> dict[str, float]:
        """What the layer's units did; a unit is one number of the output for one image.

        `dead`, `always_on`: shares of the units that were above zero on no image, on every image.
        `dead_channels`: number of channels (of units, where there is no map) of which every unit
        is dead. These three are NaN where an output was below zero: only behind a ReLU they mean
        something. `zeros`: share of all outputs that are exactly zero. `mean`, `std`: of all
        outputs. Waits for the device. At least one batch must have been added.
        """
        total, square, num_nonzero = self._sums.tolist()
        count = self.num_images * self._largest.numel()
        mean = total / count
        dead = self._largest <= 0
        counts = {
            "dead": float(dead.float().mean()),
            "always_on": float((self._smallest > 0).float().mean()),
            "dead_channels": float(dead.view(-1, self._num_channels).all(0).sum()),
        }
        rectified = bool((self._smallest >= 0).all())
        return {
            **(counts if rectified else dict.fromkeys(counts, float("nan"))),
            "zeros": 1 - num_nonzero / count,
            "mean": mean,
            "std": max(square / count - mean**2, 0.0) ** 0.5,
        }


@torch.no_grad()
def gradient_norms(modules: Iterable[nn.Conv2d | nn.Linear]) -> Tensor:
    """The Euclidean norm of each layer's weight gradient (layers,), NaN where there is none."""
    grads = [m.weight.new_tensor(torch.nan) if m.weight.grad is None else m.weight.grad
             for m in modules]  # fmt: skip
    return torch.stack([grad.norm().float() for grad in grads])


@torch.no_grad()
def update_ratios(modules: Iterable[nn.Conv2d | nn.Linear], before: Iterable[Tensor]) -> Tensor:
    """For each layer the norm of what its weights changed by, over their norm before (layers,)."""
    pairs = zip(modules, before, strict=True)
    return torch.stack([((m.weight - old).norm() / old.norm()).float() for m, old in pairs])
