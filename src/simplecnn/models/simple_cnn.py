"""SimpleCNN: convolution, ReLU and pooling blocks, then two linear layers. Plain torch."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import Tensor, nn

from simplecnn.models.layers import BlurPool, Crop, Normalize

POOLS = {"max": nn.MaxPool2d, "average": nn.AvgPool2d, "blur": BlurPool}


class SimpleCNN(nn.Sequential):
    """Images (N, in_channels, image_size, image_size), 0 to 1, to logits (N, num_classes).

    Each block is a convolution that keeps the size, ReLU, and a 2 x 2 max-pool that halves it
    (rounding down): 28, 14, 7, 3 with the defaults, 98,442 parameters. Layers carry the names
    of the tutorial's network (`conv1` … `fc2`), so its weights load here unchanged.

    pool: `max`; `average`; `blur` (BlurPool); `stride`: no pool, the convolution itself takes steps
        of two pixels, which halves the size rounding up; `none`: nothing shrinks.
    final_pool: the last maps are averaged to so many units a side, whatever the image size.
    normalize: `mean` and `std` of each channel, subtracted and divided by first (Normalize).
    crop: the network sees pixels `crop[0]` up to, not including, `crop[1]`, enlarged (Crop).
    in_channels, num_classes, image_size: those of MNIST where they are None: 1, 10, 28.
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
                    f"crop is {list(crop)}: it must be two pixels in order, 0 to {image_size}."
                )
            layers["crop"] = Crop(*crop)
        if normalize is not None:
            layers["normalize"] = Normalize(**normalize)
        width, size, stride = in_channels, image_size, 2 if pool == "stride" else 1
        for i, out in enumerate(channels, start=1):
            layers[f"conv{i}"] = nn.Conv2d(width, out, kernel_size, stride, kernel_size // 2)
            layers[f"relu{i}"] = nn.ReLU()
            if pool in POOLS:
                layers[f"pool{i}"] = POOLS[pool](2)
            width, size = out, {"none": size, "stride": (size + 1) // 2}.get(pool, size // 2)
        if size == 0:
            raise ValueError(f"channels has {len(channels)} blocks, each halves the image: "
                             f"nothing is left of {image_size} pixels.")  # fmt: skip
        if final_pool is not None:
            layers["final_pool"], size = nn.AdaptiveAvgPool2d(final_pool), final_pool
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
            # ReLU and maximum commute, gradients included: pool first, ReLU has a quarter to do.
            for i, layer in enumerate(layers):
                if isinstance(layer, nn.MaxPool2d):
                    layers[i - 1], layers[i] = layer, layers[i - 1]
        for layer in layers:
            images = layer(images)
        return images
