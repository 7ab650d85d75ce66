"""What every channel of a layer makes of a few images, as one picture."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures.raster import Mosaic, join
from simplecnn.figures.style import POSITIVE, SIGNED, SMALL, WRONG, number

MAX_WIDTH = 1376  # pixels
MIN_TILE = 42  # pixels that a label of two lines beside a row takes
MAX_TILE = 84  # pixels; larger images beside a row are shown by every second pixel, or third, …
PERCENTILE = 99  # of the outputs that are not zero: where the scale ends


def feature_maps_figure(
    images: NDArray,
    maps: NDArray,
    *,
    labels: Sequence[str],
    predictions: Sequence[str],
    title: str = "feature maps",
) -> Figure:
    """Draw maps (N, channels, H, W) of images (N, C, h, w): a row an image, a column a channel.

    One scale for the layer, so that channels can be compared: from zero up, or symmetric about
    zero where there are negative values. It ends where 99 % of the outputs that are not zero are
    reached: a few strong outputs would leave all others dark. Beside a row stand its true and its
    predicted class, red where they differ. A channel that is zero on all the images is marked
    dead. More channels than fit side by side continue in further blocks below.
    """
    num_images, num_channels, height, width = maps.shape
    signed = bool((maps < 0).any())
    sizes = np.abs(maps[(maps != 0) & np.isfinite(maps)])
    limit = float(np.percentile(sizes, PERCENTILE)) if sizes.size else 1.0
    gap, header = 2, 34
    images = images[:, :, :: -(-images.shape[2] // MAX_TILE), :: -(-images.shape[3] // MAX_TILE)]
    smallest = max(MIN_TILE, images.shape[2])  # an image stands beside its row
    zoom = max(MAX_WIDTH // (num_channels * (width + gap)), -(-smallest // height), 1)
    zoom = min(zoom, max(-(-smallest // height), MAX_TILE // height))
    step_x, step_y = width * zoom + gap, height * zoom + gap
    answers = [_answer(*pair) for pair in zip(labels, predictions, strict=True)]
    widest = max(len(line) for answer in answers for line in answer.split("\n"))
    left = 9 * widest + _side(images[0], height * zoom) + 16
    num_blocks = -(-num_channels * step_x // MAX_WIDTH)
    columns = -(-num_channels // num_blocks)
    block_height = header + num_images * step_y
    dead = (maps == 0).all(axis=(0, 2, 3))
    largest = number(sizes.max(initial=0.0))
    mosaic = Mosaic(
        left + columns * step_x - gap,
        num_blocks * block_height,
        title=f"{title}\n{num_channels} channels of {height} x {width}, "
        f"{dead.sum()} of them dead on these images; one scale for the layer, "
        f"up to the 99th percentile {number(limit)} (largest output {largest})",
        colors=SIGNED if signed else POSITIVE,
        scale=Normalize(-limit if signed else 0.0, limit),
        bar="output",
    )
    for block in range(num_blocks):
        y = block * block_height + header
        channels = range(block * columns, min((block + 1) * columns, num_channels))
        shown = np.where(dead[:, None, None], np.nan, maps)[:, channels]
        mosaic.put(join(shown, zoom=zoom, gap=gap), left, y)
        for column, channel in enumerate(channels):
            x = left + column * step_x
            name, color = str(channel), "black"
            if dead[channel]:
                name, color = f"{channel}\ndead", WRONG
                mosaic.box(x, y, step_x - gap, num_images * step_y - gap,
                           facecolor="0.92", edgecolor="0.75", lw=0.3)  # fmt: skip
            mosaic.write(x + (step_x - gap) / 2, y - 4, name, size=SMALL, ha="center", color=color)
        for i in range(num_images):
            color = "black" if labels[i] == predictions[i] else WRONG
            middle = y + i * step_y + (step_y - gap) / 2
            mosaic.write(0, middle, answers[i], va="center", color=color)
            side = _side(images[i], step_y - gap)
            zoom_in = max(1, side // images.shape[2])
            mosaic.put_image(images[i], left - 12 - side, middle - side / 2, zoom_in)
    return mosaic.figure


def _answer(label: str, prediction: str) -> str:
    space = " " if len(label + prediction) < 8 else "\n"
    return f"{label}{space}→ {prediction}"


def _side(image: NDArray, height: int) -> int:
    """The height in pixels of an image (C, h, w) beside a row, a whole number for each value."""
    return max(1, height // image.shape[1]) * image.shape[1]
