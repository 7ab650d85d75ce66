"""Health of a network's layers: activation statistics, gradient norms and update ratios."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from simplecnn.models.metrics import SUM_DTYPE

LAYERS = (nn.Conv2d, nn.Linear)  # the layer types that are measured


def measured_layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Return every convolution and linear layer by its module name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, LAYERS)}


class ActivityMeter:
    """Accumulate statistics of one layer's outputs over batches, on their device, without a sync.

    A unit is one element of the output for one image.
    """

    def __init__(self) -> None:
        self.num_images = 0

    def add(self, output: Tensor) -> None:
        """Add a batch of outputs (N, channels, H, W) or (N, …, units); only N may vary."""
        values = output.detach().float()
        if values.ndim == 4:  # channels-last in memory: moving the channels back copies nothing
            values = values.movedim(1, -1)
        self._num_channels = values.shape[-1]
        values = values.reshape(len(values), -1)
        maximum, minimum = values.amax(0), values.amin(0)
        # Chosen for speed: row sums over a float64 sum, the norm over var, count_nonzero of
        # booleans over that of floats (each many times as fast), and bool() over != 0 (twice).
        total = values.sum(1).to(SUM_DTYPE).sum()
        square = torch.linalg.vector_norm(values, dim=1).to(SUM_DTYPE).square().sum()
        num_nonzero = values.bool().count_nonzero().to(SUM_DTYPE)
        sums = torch.stack([total, square, num_nonzero])
        if self.num_images == 0:
            self._maximum, self._minimum, self._sums = maximum, minimum, sums
        else:
            self._maximum = torch.maximum(self._maximum, maximum)
            self._minimum = torch.minimum(self._minimum, minimum)
            self._sums += sums
        self.num_images += len(values)

    def result(self) -> dict[str, float]:
        """Return the statistics of all batches added, at least one; waits for the device.

        - `dead`, `always_on`: fraction of units that are positive for no image, for every image.
        - `dead_channels`: number of channels whose units are all dead (of a linear layer: units).
        - `zeros`: fraction of outputs that are exactly zero.
        - `mean`, `std`: over all outputs.

        The first three are NaN if any output is negative: they are meaningful after a ReLU only.
        """
        total, square, num_nonzero = self._sums.tolist()
        num_outputs = self.num_images * self._maximum.numel()
        mean = total / num_outputs
        dead = self._maximum <= 0
        counts = {
            "dead": float(dead.float().mean()),
            "always_on": float((self._minimum > 0).float().mean()),
            "dead_channels": float(dead.view(-1, self._num_channels).all(0).sum()),
        }
        is_rectified = bool((self._minimum >= 0).all())
        return {
            **(counts if is_rectified else dict.fromkeys(counts, float("nan"))),
            "zeros": 1 - num_nonzero / num_outputs,
            "mean": mean,
            "std": max(square / num_outputs - mean**2, 0.0) ** 0.5,
        }


@torch.no_grad()
def gradient_norms(modules: Iterable[nn.Conv2d | nn.Linear]) -> Tensor:
    """Return the L2 norm of each layer's weight gradient (layers,), NaN without a gradient."""
    grads = [m.weight.new_tensor(torch.nan) if m.weight.grad is None else m.weight.grad
             for m in modules]  # fmt: skip
    return torch.stack([grad.norm().float() for grad in grads])


@torch.no_grad()
def update_ratios(modules: Iterable[nn.Conv2d | nn.Linear], before: Iterable[Tensor]) -> Tensor:
    """Return the norm of each layer's weight update relative to its weights `before` (layers,)."""
    pairs = zip(modules, before, strict=True)
    return torch.stack([((m.weight - old).norm() / old.norm()).float() for m, old in pairs])
