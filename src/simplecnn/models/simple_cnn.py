"""SimpleCNN: blocks of convolution, ReLU and pooling, then two linear layers. Plain PyTorch."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from simplecnn.models.layers import BlurPool, Crop, Normalize

POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d, "blur": BlurPool}


class SimpleCNN(nn.Sequential):
    """A small CNN from images (N, in_channels, image_size, image_size) to logits (N, num_classes).

    Each block is a convolution that preserves the image size, a ReLU, and a 2 x 2 max-pool that
    halves the size, rounding down. The defaults take 28 x 28 pixels to 14, 7 and 3 pixels a side
    with 98,442 parameters. Layers have the tutorial's names (`conv1` … `fc2`), so the state dict
    of its network loads unchanged. Pixel values are in [0, 1].

    Args:
        channels: output channels of each block's convolution.
        kernel_size: side of the kernels, in pixels; odd.
        hidden: units of the first linear layer.
        dropout: dropout probability before the last linear layer.
        pool: `max`, `average` or `blur` (BlurPool); `stride`: no pooling layer, the convolution has
            stride 2, which halves the size, rounding up; `none`: every block keeps the size.
        final_pool: average-pool the last feature maps to this size, whatever the image size.
        crop: zoom in on rows and columns `crop[0]` to `crop[1] - 1` first (Crop).
        normalize: `mean` and `std` of each channel, by which images are standardized (Normalize).
        in_channels, num_classes, image_size: None for those of MNIST: 1, 10, 28.
    """

    def __init__(
        self,
        channels: Sequence[int] = (16, 32, 64),
        kernel_size: int = 3,
        hidden: int = 128,
        dropout: float = 0.0,
        *,
        pool: Literal["max", "average", "blur", "stride", "none"] = "max",
        final_pool: int | None = None,
        crop: Sequence[int] | None = None,
        normalize: Mapping[str, Sequence[float]] | None = None,
        in_channels: int | None = None,
        num_classes: int | None = None,
        image_size: int | None = None,
    ) -> None:
        in_channels, num_classes, image_size = in_channels or 1, num_classes or 10, image_size or 28
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}: only odd kernels keep the image size.")
        if pool not in (*POOLS, "stride", "none"):
            raise ValueError(f"pool is {pool!r}: it must be max, average, blur, stride or none.")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if crop is not None:
            if not (len(crop) == 2 and 0 <= crop[0] < crop[1] <= image_size):
                raise ValueError(
                    f"crop is {list(crop)}: it must be two increasing integers, 0 to {image_size}."
                )
            layers["crop"] = Crop(*crop)
        if normalize is not None:
            layers["normalize"] = Normalize(**normalize)
        size = image_size
        stride = 2 if pool == "stride" else 1
        for i, out_channels in enumerate(channels, start=1):
            padding = kernel_size // 2
            layers[f"conv{i}"] = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
            layers[f"relu{i}"] = nn.ReLU()
            if pool in POOLS:
                layers[f"pool{i}"] = POOLS[pool](2)
                size //= 2
            elif pool == "stride":
                size = (size + 1) // 2
            in_channels = out_channels
        if size == 0:
            raise ValueError(
                f"channels has {len(channels)} blocks, each of which halves the image: nothing is "
                f"left of {image_size} pixels."
            )
        if final_pool is not None:
            layers["final_pool"], size = nn.AdaptiveAvgPool2d(final_pool), final_pool
        layers["flatten"] = nn.Flatten()
        layers["fc1"] = nn.Linear(in_channels * size**2, hidden)
        layers["relu_fc1"] = nn.ReLU()
        if dropout > 0:
            layers["dropout"] = nn.Dropout(dropout)
        layers["fc2"] = nn.Linear(hidden, num_classes)
        super().__init__(layers)

    def forward(self, images: Tensor) -> Tensor:
        layers = list(self)
        if self.training:
            # Max-pooling and ReLU commute, gradients included: after pooling, ReLU has a quarter of
            # the values to process. Evaluation keeps the order, for feature maps before pooling.
            for i, layer in enumerate(layers):
                if isinstance(layer, nn.MaxPool2d):
                    layers[i - 1], layers[i] = layer, layers[i - 1]
        x = images
        for layer in layers:
            x = layer(x)
        return x
