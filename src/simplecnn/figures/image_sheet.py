"""Images in rows, each with a frame and a caption."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures.raster import Mosaic, text_width
from simplecnn.figures.style import image_colors

MAX_WIDTH = 1450  # pixels
TILE = 112  # approximate size of an image in pixels
LINE = 20  # height of a line of text in pixels


def image_sheet(
    images: NDArray, captions: Sequence[str], frames: Sequence[str], *, title: str
) -> Figure:
    """Draw images (N, C, H, W) from 0 to 1, gray or RGB, in order; `frames` are their colors."""
    num_images, _, height, width = images.shape
    zoom = max(1, round(TILE / max(height, width)))
    num_lines = max((caption.count("\n") + 1 for caption in captions), default=0)
    step_x = max(width * zoom + 16, max(map(text_width, captions), default=0) + 20)
    step_y = height * zoom + num_lines * LINE + 18
    num_rows = max(1, math.ceil(num_images / max(1, MAX_WIDTH // step_x)))
    columns = max(1, math.ceil(num_images / num_rows))  # rows of equal length
    mosaic = Mosaic(columns * step_x - 16, num_rows * step_y, title=title)
    for i, (image, caption, frame) in enumerate(zip(images, captions, frames, strict=True)):
        x, y = i % columns * step_x + 3, i // columns * step_y + 3
        mosaic.put(image_colors(image), x, y, zoom)
        mosaic.box(
            x - 2, y - 2, width * zoom + 4, height * zoom + 4,
            fill=False, edgecolor=frame, linewidth=2.0,
        )  # fmt: skip
        mosaic.write(x, y + height * zoom + 7, caption, va="top")
    return mosaic.figure
