"""The filters of a convolution as one picture: red excites, blue inhibits, white is zero."""

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures.raster import MIN_FOR_DOTS, Mosaic, join
from simplecnn.figures.style import SIGNED, SMALL, number, signed_scale

MAX_WIDTH = 1376  # pixels


def filters_figure(
    weights: NDArray,
    *,
    title: str = "filters",
    limit: float | None = None,
    in_color: bool = False,
) -> Figure:
    """Draw the weights (out_channels, in_channels, K, L) of a convolution on one symmetric scale.

    One input channel: a grid of numbered filters, each with its Euclidean norm, and with its
    weights where there are few. More: a matrix, a row a filter, a column an input channel.
    Weights without their numbers have a dot where they are below zero. With `in_color` the three
    input channels are red, green and blue: a filter is a small color picture, in which gray is
    zero, and three signed planes.
    `limit` fixes the end of the scale, so that several pictures can be compared.
    """
    draw = _colors if in_color else _grid if weights.shape[1] == 1 else _matrix
    return draw(weights, title, signed_scale(weights if limit is None else limit))


def _grid(weights: NDArray, title: str, scale: Normalize) -> Figure:
    num_filters, _, height, width = weights.shape
    zoom = max(4, 120 // width)
    tile_width, tile_height, gap, label = width * zoom, height * zoom, 36, 20
    columns = min(8, num_filters)
    rows = -(-num_filters // columns)
    with_weights = num_filters * height * width <= 400 and zoom >= 24
    mosaic = Mosaic(
        columns * (tile_width + gap) - gap,
        rows * (tile_height + gap),
        title=f"{title}\n{num_filters} filters of {height} x {width}, "
        f"one scale for the layer: ±{scale.vmax:.3g}{'' if with_weights else dots_words(zoom)}",
        colors=SIGNED,
        scale=scale,
        bar="weight",
    )
    for i, kernel in enumerate(weights[:, 0]):
        row, column = divmod(i, columns)
        x, y = column * (tile_width + gap), row * (tile_height + gap) + label
        mosaic.put(join(kernel[None, None], zoom=zoom, gap=0, dots=not with_weights), x, y)
        norm = np.linalg.norm(kernel.astype(np.float64))
        mosaic.write(x, y - 4, f"{i}", weight="bold")
        mosaic.write(x + tile_width, y - 4, f"norm {norm:.2f}", ha="right")
        for (p, q), value in np.ndenumerate(kernel) if with_weights else ():
            mosaic.write(
                x + (q + 0.5) * zoom, y + (p + 0.5) * zoom, number(value, "z.2f"), size=SMALL - 1,
                ha="center", va="center", color="white" if scale(abs(value)) > 0.8 else "black",
            )  # fmt: skip
    return mosaic.figure


def _colors(weights: NDArray, title: str, scale: Normalize) -> Figure:
    num_filters, _, height, width = weights.shape
    zoom = max(1, 48 // max(height, width))
    tile, gap, label, inner = width * zoom, 30, 34, 4
    block = 4 * tile + 3 * inner
    columns = min(6, num_filters)
    row_height = height * zoom + label + 8
    mosaic = Mosaic(
        columns * (block + gap) - gap,
        -(-num_filters // columns) * row_height,
        title=f"{title}\n{num_filters} filters of {height} x {width} in color (gray is zero), and "
        f"their red, green and blue plane; one scale for the layer: ±{scale.vmax:.3g}"
        f"{dots_words(zoom)}",
        colors=SIGNED,
        scale=scale,
        bar="weight",
    )
    for i, kernel in enumerate(weights):
        row, column = divmod(i, columns)
        x, y = column * (block + gap), row * row_height + label
        mosaic.put(scale(kernel).filled().clip(0, 1).transpose(1, 2, 0), x, y, zoom)
        mosaic.box(x, y, tile, height * zoom, fill=False, linewidth=0.4)
        planes = join(kernel[None], zoom=zoom, gap=inner, dots=True)
        mosaic.put(planes, x + tile + inner, y)
        mosaic.write(x, y - 18, f"{i}", weight="bold")
        norm = np.linalg.norm(kernel.astype(np.float64))
        mosaic.write(x + block, y - 18, f"norm {norm:.2f}", ha="right")
        for j, name in enumerate(("red", "green", "blue"), start=1):
            middle = x + j * (tile + inner) + tile / 2
            mosaic.write(middle, y - 4, name, size=SMALL, ha="center")
            mosaic.box(x + j * (tile + inner), y, tile, height * zoom, fill=False, linewidth=0.2)
    return mosaic.figure


def _matrix(weights: NDArray, title: str, scale: Normalize) -> Figure:
    num_filters, num_inputs, height, width = weights.shape
    gap, left, label = 6, 30, 18
    zoom = int(np.clip((MAX_WIDTH / num_inputs - gap) // width, 1, 14))
    step_x, step_y = width * zoom + gap, height * zoom + gap
    mosaic = Mosaic(
        left + num_inputs * step_x - gap,
        label + num_filters * step_y - gap,
        title=f"{title}\n{num_filters} filters (rows) of {height} x {width} "
        f"on {num_inputs} input channels (columns), "
        f"one scale for the layer: ±{scale.vmax:.3g}{dots_words(zoom)}",
        colors=SIGNED,
        scale=scale,
        bar="weight",
    )
    mosaic.put(join(weights, zoom=zoom, gap=gap, dots=True), left, label)
    # Number only as many rows and columns as fit.
    for i in range(0, num_filters, max(1, -(-16 // step_y))):
        y = label + i * step_y + height * zoom / 2
        mosaic.write(left - 6, y, str(i), size=SMALL, ha="right", va="center")
    for j in range(0, num_inputs, max(1, -(-28 // step_x))):
        x = left + j * step_x + width * zoom / 2
        mosaic.write(x, label - 5, str(j), size=SMALL, ha="center")
    return mosaic.figure


def dots_words(zoom: int) -> str:
    """What a title says of the dots that `join` puts on negative values."""
    return ", a dot: below zero" if zoom >= MIN_FOR_DOTS else ""
