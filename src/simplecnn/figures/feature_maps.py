"""Feature maps of all channels of a layer for a few images."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures.raster import Mosaic, join, short_name, text_width
from simplecnn.figures.style import POSITIVE, SIGNED, SMALL, WRONG, image_colors, number

MIN_TILE = 42  # pixels; the height of the two-line label beside a row
MIN_SMALL_TILE = 28  # pixels; of maps of at most SMALL_MAP values a side, beside one-line labels
SMALL_MAP = 4
MAX_TILE = 84  # pixels; larger input images are subsampled
GAP, HEADER = 2, 34
MAX_WIDTH = 32 * (MIN_TILE + GAP)  # pixels of the maps
PERCENTILE = 99  # of the nonzero outputs: the upper end of the color scale


def feature_maps_figure(
    images: NDArray,
    maps: NDArray,
    *,
    labels: Sequence[str],
    predictions: Sequence[str],
    title: str = "feature maps",
) -> Figure:
    """Draw maps (N, channels, H, W) of images (N, C, h, w): a row per image, a column per channel.

    All channels share one color scale, from zero up, or symmetric about zero if any output is
    negative. It ends at the 99th percentile of the nonzero outputs, because a few strong outputs
    would leave all others dark. Each row starts with the true and the predicted class, red where
    they differ, and the image. A channel that is zero on all images is marked dead. Channels that
    do not fit side by side continue in further blocks below.
    """
    num_images, num_channels, height, width = maps.shape
    signed = bool((maps < 0).any())
    sizes = np.abs(maps[(maps != 0) & np.isfinite(maps)])
    limit = float(np.percentile(sizes, PERCENTILE)) if sizes.size else 1.0
    images = images[:, :, :: -(-images.shape[2] // MAX_TILE), :: -(-images.shape[3] // MAX_TILE)]
    has_long_names = any(len(name) > 3 for name in (*labels, *predictions))
    min_tile = MIN_SMALL_TILE if height <= SMALL_MAP and not has_long_names else MIN_TILE
    min_zoom = -(-max(min_tile, images.shape[2]) // height)  # a row is as high as its image
    zoom = MAX_WIDTH // num_channels // (width + GAP)
    zoom = max(min_zoom, min(zoom, MAX_TILE // height))
    step_x, step_y = width * zoom + GAP, height * zoom + GAP
    image_zoom = max(1, height * zoom // images.shape[2])
    image_height, image_width = (image_zoom * side for side in images.shape[2:])
    # One column of all images: to draw them one by one takes as long as the maps of many blocks.
    inputs = np.ones((num_images, step_y, image_width, 3), np.float32)
    for image, tile in zip(images, inputs, strict=True):
        tile[:image_height] = image_colors(image).repeat(image_zoom, 0).repeat(image_zoom, 1)
    inputs = inputs.reshape(-1, image_width, 3)
    arrow = "\n→ " if has_long_names else " → "
    row_labels = [
        f"{short_name(label)}{arrow}{short_name(prediction)}"
        for label, prediction in zip(labels, predictions, strict=True)
    ]
    left = max(map(text_width, row_labels)) + 12 + image_width + 12
    num_blocks = -(-num_channels * step_x // MAX_WIDTH)
    columns = -(-num_channels // num_blocks)
    block_height = HEADER + num_images * step_y
    dead = (maps == 0).all(axis=(0, 2, 3))
    mosaic = Mosaic(
        left + columns * step_x - GAP,
        num_blocks * block_height,
        title=f"{title}; left: true → predicted class\n"
        f"{num_channels} channels of {height} x {width}, {dead.sum()} of them dead on these "
        "images; one scale for the layer, up to the 99th percentile of the nonzero outputs, "
        f"{number(limit)} (largest {number(sizes.max(initial=0.0))})",
        colors=SIGNED if signed else POSITIVE,
        scale=Normalize(-limit if signed else 0.0, limit),
        bar="output",
    )
    shown = np.where(dead[:, None, None], np.nan, maps)
    for block in range(num_blocks):
        y = block * block_height + HEADER
        channels = range(num_channels)[block * columns :][:columns]
        mosaic.put(join(shown[:, channels], zoom=zoom, gap=GAP), left, y)
        for column, channel in enumerate(channels):
            x = left + column * step_x
            name, color = str(channel), "black"
            if dead[channel]:
                name, color = f"{channel}\ndead", WRONG
                mosaic.box(x, y, step_x - GAP, num_images * step_y - GAP,
                           facecolor="0.92", edgecolor="0.75", lw=0.3)  # fmt: skip
            mosaic.write(x + (step_x - GAP) / 2, y - 4, name, size=SMALL, ha="center", color=color)
        for i in range(num_images):
            color = "black" if labels[i] == predictions[i] else WRONG
            middle = y + i * step_y + (step_y - GAP) / 2
            mosaic.write(0, middle, row_labels[i], va="center", color=color)
        mosaic.put(inputs, left - 12 - image_width, y + (step_y - GAP - image_height) / 2)
    return mosaic.figure
