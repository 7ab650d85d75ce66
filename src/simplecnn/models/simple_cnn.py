"""SimpleCNN: convolution, ReLU and pooling blocks, then two linear layers. Plain torch."""

import platform
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

HAS_BLOCKS = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")
POOLS = ("max", "average", "blur", "stride", "none")


class SimpleCNN(nn.Sequential):
    """Images (N, in_channels, H, W) to logits (N, num_classes).

    Each block is a convolution that keeps the size, ReLU, and a 2 x 2 max-pool that halves it
    (rounding down): 28, 14, 7, 3 with the defaults, 98,442 parameters. Layers carry the names
    of the tutorial's network (`conv1` … `fc2`), so its weights load here unchanged.

    While it trains, it pools before ReLU: the maximum of what ReLU leaves is what ReLU leaves of
    the maximum, gradients included, and there is a quarter to do. In evaluation mode every layer
    comes in the order of its definition.

    With `blocked` set, it trains in oneDNN's own layout, blocks of 16 channels, where that is
    faster (`pool` "max" or "none", whole blocks, x86) and possible (float32, nobody watching a
    layer). The numbers are the same to rounding.

    With `pool` "average" the pool takes means. With "stride" there is none: the convolution
    itself takes steps of two pixels, which halves the size rounding up: 28, 14, 7, 4. With
    "blur" the maximum is taken at every pixel and blurred before every second one is kept, with
    "none" nothing shrinks, and the first linear layer has all the more weights.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64),
        kernel_size: int = 3,
        hidden: int = 128,
        dropout: float = 0.0,
        *,
        pool: Literal["max", "average", "blur", "stride", "none"] = "max",
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: int = 28,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}: only odd kernels keep the image size.")
        if pool not in POOLS:
            raise ValueError(f"pool is {pool!r}: it must be {', '.join(POOLS[:-1])} or none.")
        if pool != "none" and image_size // 2 ** len(channels) < 1:
            raise ValueError(
                f"channels has {len(channels)} blocks, each halves the image: "
                f"nothing is left of {image_size} pixels."
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width, size = in_channels, image_size
        step, padding = 2 if pool == "stride" else 1, kernel_size // 2
        for i, out in enumerate(channels, start=1):
            layers[f"conv{i}"] = nn.Conv2d(width, out, kernel_size, step, padding)
            layers[f"relu{i}"] = nn.ReLU()
            if pool in HALVES:
                layers[f"pool{i}"] = HALVES[pool]()
            if pool != "none":
                size = (size + 1) // 2 if pool == "stride" else size // 2
            width = out
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(width * size**2, hidden)
        layers["relu_fc1"] = nn.ReLU()
        if dropout > 0:
            layers["dropout"] = nn.Dropout(dropout)
        layers["fc2"] = nn.Linear(hidden, num_classes)
        super().__init__(layers)
        self.blocked = False
        self.fits_blocks = pool in ("max", "none") and all(n % 16 == 0 for n in channels)

    def forward(self, images: Tensor) -> Tensor:
        layers = list(self)
        if self.training:
            for i, pair in enumerate(zip(layers, layers[1:], strict=False)):
                if isinstance(pair[0], nn.ReLU) and isinstance(pair[1], nn.MaxPool2d):
                    layers[i : i + 2] = reversed(pair)
            if self.blocked and self.fits_blocks and can_be_blocked(images, layers):
                images = images.to_mkldnn()
        for layer in layers:
            if images.is_mkldnn and isinstance(layer, nn.Flatten):
                images = images.to_dense()
            images = layer(images)
        return images


class BlurPool(nn.Module):
    """Maximum of 2 x 2 at every pixel, a binomial blur of 3 x 3, then every second pixel.

    Halves the size, rounding down, as a 2 x 2 max-pool does, without its aliasing. Has no weights.
    Zhang, "Making Convolutional Networks Shift-Invariant Again", ICML 2019, arXiv 1904.11486.
    """

    def forward(self, x: Tensor) -> Tensor:
        dense = functional.max_pool2d(x, 2, stride=1)
        line = dense.new_tensor([0.25, 0.5, 0.25])
        kernel = torch.outer(line, line).expand(dense.shape[1], 1, 3, 3)
        padded = functional.pad(dense, (1, 1, 1, 1), mode="replicate")
        return functional.conv2d(padded, kernel, stride=2, groups=dense.shape[1])


def can_be_blocked(images: Tensor, layers: Sequence[nn.Module]) -> bool:
    """Whether oneDNN has its layout here, and nobody looks at what is between the layers."""
    return (
        HAS_BLOCKS
        and images.device.type == "cpu"
        and images.dtype == torch.float32
        and not torch.compiler.is_compiling()
        and not torch.is_anomaly_enabled()  # it does not know the layout
        and not any(
            layer._forward_hooks
            or layer._forward_pre_hooks
            or layer._backward_hooks
            or layer._backward_pre_hooks
            for layer in layers
        )
    )


HALVES = {
    "max": lambda: nn.MaxPool2d(2),
    "average": lambda: nn.AvgPool2d(2),
    "blur": BlurPool,
}
