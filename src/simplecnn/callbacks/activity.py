"""Whether a network's layers are alive: activations over many images, gradients, updates."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LAYERS = (nn.Conv2d, nn.Linear)  # the kinds of layers that are looked at


def layers(network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """Every convolution and every fully connected layer by its module name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, LAYERS)}


@dataclass(frozen=True)
class Activity:
    """What the units of one layer did on `num_images` images. A unit is one number of its output.

    `dead` and `always_on`: boolean, of the shape of the output of one image; units that were
    above zero on no image, and on every image. `zeros`: share of all outputs that are exactly
    zero. `mean`, `std`: of all outputs. `rectified`: no output was below zero; only then dead and
    always on mean something.
    """

    num_images: int
    dead: Tensor
    always_on: Tensor
    zeros: float
    mean: float
    std: float
    rectified: bool

    @property
    def dead_channels(self) -> Tensor:
        """The channels (or units, where there is no map) of which every unit is dead."""
        return self.dead.flatten(1).all(1) if self.dead.ndim > 1 else self.dead


class ActivityMeter:
    """Adds up the outputs of one layer, batch after batch, on their device and without a wait."""

    def __init__(self) -> None:
        self.num_images = 0
        self._shape: torch.Size | None = None
        self._channels_last = False

    def add(self, output: Tensor) -> None:
        """A batch (N, channels, H, W) or (N, units), all of one size."""
        output = output.detach().float()
        if self._shape is None:
            self._channels_last = not output.is_contiguous() and output.ndim == 4
            self._shape = output.shape[1:]
        if self._channels_last:
            output = output.movedim(1, -1)  # as it lies in memory: then nothing is copied
        values = output.reshape(len(output), -1)
        largest, smallest = values.amax(0), values.amin(0)
        # Sums of rows, the norm and the count of booleans are many times as fast as a sum in
        # double precision, var and the count of numbers; `bool()` twice as fast as `!= 0`.
        total = values.sum(1).double().sum()
        square = torch.linalg.vector_norm(values, dim=1).double().square().sum()
        num_other = values.bool().count_nonzero().double()
        sums = torch.stack([total, square, num_other])
        if self.num_images == 0:
            self._largest, self._smallest, self._sums = largest, smallest, sums
        else:
            self._largest = torch.maximum(self._largest, largest)
            self._smallest = torch.minimum(self._smallest, smallest)
            self._sums = self._sums + sums
        self.num_images += len(values)

    def result(self) -> Activity:
        """Waits for the device. At least one batch must have been added."""
        assert self._shape is not None
        total, square, num_other = self._sums.tolist()
        count = self.num_images * self._shape.numel()
        mean = total / count
        return Activity(
            num_images=self.num_images,
            dead=self._shaped(self._largest <= 0),
            always_on=self._shaped(self._smallest > 0),
            zeros=1 - num_other / count,
            mean=mean,
            std=max(square / count - mean**2, 0.0) ** 0.5,
            rectified=bool((self._smallest >= 0).all()),
        )

    def _shaped(self, units: Tensor) -> Tensor:
        assert self._shape is not None
        if not self._channels_last:
            return units.reshape(self._shape).cpu()
        channels, height, width = self._shape
        return units.reshape(height, width, channels).movedim(-1, 0).cpu()


def merged(parts: Sequence[Activity]) -> Activity:
    """What several processes saw of one layer, each on images of its own."""
    if len(parts) == 1:
        return parts[0]
    total = sum(part.num_images for part in parts)
    shares = [part.num_images / total for part in parts]
    mean = sum(share * part.mean for share, part in zip(shares, parts, strict=True))
    square = sum(s * (p.std**2 + p.mean**2) for s, p in zip(shares, parts, strict=True))
    return Activity(
        num_images=total,
        dead=torch.stack([part.dead for part in parts]).all(0),
        always_on=torch.stack([part.always_on for part in parts]).all(0),
        zeros=sum(share * part.zeros for share, part in zip(shares, parts, strict=True)),
        mean=mean,
        std=max(square - mean**2, 0.0) ** 0.5,
        rectified=all(part.rectified for part in parts),
    )


@torch.no_grad()
def gradient_norms(modules: Iterable[nn.Conv2d | nn.Linear]) -> Tensor:
    """The Euclidean norm of each layer's weight gradient (layers,), NaN where there is none."""
    norms = [
        m.weight.new_full((), torch.nan) if m.weight.grad is None else m.weight.grad.norm()
        for m in modules
    ]
    return torch.stack([norm.float() for norm in norms])


@torch.no_grad()
def update_ratios(modules: Iterable[nn.Conv2d | nn.Linear], before: Iterable[Tensor]) -> Tensor:
    """For each layer the norm of what its weights changed by, over their norm before (layers,)."""
    return torch.stack(
        [
            ((m.weight - old).norm() / old.norm()).float()
            for m, old in zip(modules, before, strict=True)
        ]
    )
