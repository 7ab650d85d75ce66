"""SimpleCNN: convolution, ReLU and pooling blocks, then two linear layers. Plain torch."""

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn


class SimpleCNN(nn.Sequential):
    """Images (N, in_channels, H, W) to logits (N, num_classes).

    Each block is a convolution that keeps the size, ReLU, and a 2 x 2 max-pool that halves it
    (rounding down): 28, 14, 7, 3 with the defaults, 98,442 parameters. Layers carry the names
    of the tutorial's network (`conv1` … `fc2`), so its weights load here unchanged.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64),
        kernel_size: int = 3,
        hidden: int = 128,
        dropout: float = 0.0,
        *,
        in_channels: int = 1,
        num_classes: int = 10,
        image_size: int = 28,
    ) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}: only odd kernels keep the image size.")
        final_size = image_size // 2 ** len(channels)
        if final_size < 1:
            raise ValueError(
                f"channels has {len(channels)} blocks, each halves the image: "
                f"nothing is left of {image_size} pixels."
            )
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        width = in_channels
        for i, out in enumerate(channels, start=1):
            layers[f"conv{i}"] = nn.Conv2d(width, out, kernel_size, padding=kernel_size // 2)
            layers[f"relu{i}"] = nn.ReLU()
            layers[f"pool{i}"] = nn.MaxPool2d(2)
            width = out
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(width * final_size**2, hidden)
        layers["relu_fc1"] = nn.ReLU()
        if dropout > 0:
            layers["dropout"] = nn.Dropout(dropout)
        layers["fc2"] = nn.Linear(hidden, num_classes)
        super().__init__(layers)
