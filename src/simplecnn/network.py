"""SimpleCNN: convolution, ReLU and pooling blocks, then two linear layers. Plain torch."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn


class SimpleCNN(nn.Sequential):
    """Images (N, in_channels, H, W) to logits (N, num_classes).

    Each block is a convolution that keeps the size, ReLU, and a 2 x 2 max-pool that halves it
    (rounding down): 28, 14, 7, 3 with the defaults, 98,442 parameters. Layers carry the names
    of the tutorial's network (`conv1` … `fc2`), so its weights load here unchanged.

    While it trains, it pools before ReLU: the maximum of what ReLU leaves is what ReLU leaves of
    the maximum, gradients included, and there is a quarter to do. In evaluation mode every layer
    comes in the order of its definition.

    With `pool` "average" the pool takes means. With "stride" there is none: the convolution
    itself takes steps of two pixels, which halves the size rounding up: 28, 14, 7, 4.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64),
        kernel_size: int = 3,
        hidden: int = 128,
        dropout: float = 0.0,
        *,
        pool: Literal["max", "average", "stride"] = "max",
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: int = 28,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}: only odd kernels keep the image size.")
        if pool not in ("max", "average", "stride"):
            raise ValueError(f"pool is {pool!r}: it must be max, average or stride.")
        if image_size // 2 ** len(channels) < 1:
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
            if pool != "stride":
                layers[f"pool{i}"] = nn.MaxPool2d(2) if pool == "max" else nn.AvgPool2d(2)
            width, size = out, (size + 1) // 2 if pool == "stride" else size // 2
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(width * size**2, hidden)
        layers["relu_fc1"] = nn.ReLU()
        if dropout > 0:
            layers["dropout"] = nn.Dropout(dropout)
        layers["fc2"] = nn.Linear(hidden, num_classes)
        super().__init__(layers)

    def forward(self, images: Tensor) -> Tensor:
        layers = list(self)
        if self.training:
            for i, pair in enumerate(zip(layers, layers[1:], strict=False)):
                if isinstance(pair[0], nn.ReLU) and isinstance(pair[1], nn.MaxPool2d):
                    layers[i : i + 2] = reversed(pair)
        for layer in layers:
            images = layer(images)
        return images
