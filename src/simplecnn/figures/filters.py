"""Filters of a convolution: red is positive, blue is negative, white is zero."""

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures.raster import MIN_FOR_DOTS, Mosaic, join
from simplecnn.figures.style import SIGNED, SMALL, number, signed_scale

MAX_WIDTH = 1376  # pixels


def filters_figure(weights: NDArray, *, title: str = "filters", in_color: bool = False) -> Figure:
    """Draw the weights (out_channels, in_channels, K, L) of a convolution on one symmetric scale.

    With one input channel, a grid of numbered filters with their Euclidean norms, and with the
    value of each weight if there are at most 400. With several, a matrix: a row per filter, a
    column per input channel. Where values are not written, a dot marks negative weights.

    Args:
        in_color: the three input channels are red, green and blue; each filter is drawn as a color
            image, in which gray is zero, and as three signed planes.
    """
    if in_color or weights.shape[1] == 1:
        return _grid(weights, title, signed_scale(weights), in_color)
    return _matrix(weights, title, signed_scale(weights))


def _grid(weights: NDArray, title: str, scale: Normalize, in_color: bool) -> Figure:
    num_filters, _, height, width = weights.shape
    zoom = max(1, 48 // max(height, width)) if in_color else max(4, 120 // width)
    tile_width, tile_height, gap = width * zoom, height * zoom, 4
    block = 4 * tile_width + 3 * gap if in_color else tile_width
    header = 34 if in_color else 20
    step_x, step_y = block + (30 if in_color else 36), tile_height + header + 16
    columns = min(6 if in_color else 8, num_filters)
    has_values = not in_color and num_filters * height * width <= 400 and zoom >= 24
    planes = " in color (gray is zero), and their red, green and blue planes" * in_color
    title += f"\n{num_filters} filters of {height} x {width}{planes}, one scale for the layer: "
    title += f"±{scale.vmax:.3g}{'' if has_values else dots_note(zoom)}"
    size = (columns - 1) * step_x + block, -(-num_filters // columns) * step_y
    mosaic = Mosaic(*size, title=title, colors=SIGNED, scale=scale, bar="weight")
    for i, kernel in enumerate(weights):
        row, column = divmod(i, columns)
        left, y = column * step_x, row * step_y + header
        x = left + (tile_width + gap if in_color else 0)  # of the planes
        mosaic.write(left, y - header + 16, f"{i}", weight="bold")
        norm = np.linalg.norm(kernel.astype(np.float64))
        mosaic.write(left + block, y - header + 16, f"norm {norm:.2f}", ha="right")
        if in_color:
            mosaic.put(filter_colors(kernel, scale), left, y, zoom)
            mosaic.box(left, y, tile_width, tile_height, fill=False, linewidth=0.4)
        mosaic.put(join(kernel[None], zoom=zoom, gap=gap, dots=not has_values), x, y)
        for j, name in enumerate(("red", "green", "blue") if in_color else ()):
            plane = x + j * (tile_width + gap)
            mosaic.write(plane + tile_width / 2, y - 4, name, size=SMALL, ha="center")
            mosaic.box(plane, y, tile_width, tile_height, fill=False, linewidth=0.2)
        for (p, q), value in np.ndenumerate(kernel[0]) if has_values else ():
            mosaic.write(
                x + (q + 0.5) * zoom, y + (p + 0.5) * zoom, number(value, "z.2f"), size=SMALL - 1,
                ha="center", va="center", color="white" if scale(abs(value)) > 0.8 else "black",
            )  # fmt: skip
    return mosaic.figure


def _matrix(weights: NDArray, title: str, scale: Normalize) -> Figure:
    num_filters, num_inputs, height, width = weights.shape
    gap, left, header = 6, 30, 18
    zoom = int(np.clip((MAX_WIDTH / num_inputs - gap) // width, 1, 14))
    step_x, step_y = width * zoom + gap, height * zoom + gap
    title += f"\n{num_filters} filters (rows) of {height} x {width} on {num_inputs} input channels "
    title += f"(columns), one scale for the layer: ±{scale.vmax:.3g}{dots_note(zoom)}"
    size = left + num_inputs * step_x - gap, header + num_filters * step_y - gap
    mosaic = Mosaic(*size, title=title, colors=SIGNED, scale=scale, bar="weight")
    mosaic.put(join(weights, zoom=zoom, gap=gap, dots=True), left, header)
    # Number every nth row and column if there is no room for all.
    for i in range(0, num_filters, -(-16 // step_y)):
        y = header + i * step_y + height * zoom / 2
        mosaic.write(left - 6, y, str(i), size=SMALL, ha="right", va="center")
    for j in range(0, num_inputs, -(-28 // step_x)):
        x = left + j * step_x + width * zoom / 2
        mosaic.write(x, header - 5, str(j), size=SMALL, ha="center")
    return mosaic.figure


def filter_colors(kernel: NDArray, scale: Normalize) -> NDArray:
    """Convert weights (3, K, L) of red, green and blue to colors (K, L, 3) from 0 to 1.

    Gray is a weight of zero, black and white are the ends of the scale.
    """
    return scale(kernel).filled().clip(0, 1).transpose(1, 2, 0)


def dots_note(zoom: int) -> str:
    """Explain, for a title, the dots that `join` draws on negative values."""
    return ", dots: negative" if zoom >= MIN_FOR_DOTS else ""
