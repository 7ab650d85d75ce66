"""One prediction: preprocessing, class probabilities, attribution and feature maps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.raster import join, short_name
from simplecnn.table import percent

WIDTH = 8.0  # inches
MAX_MAPS = 64  # per layer
MAX_BARS, MAX_SHOWN = 12, 10  # with more than MAX_BARS classes, the MAX_SHOWN most probable


def prediction_figure(
    steps: Sequence[tuple[str, NDArray]],
    class_names: Sequence[str],
    probabilities: NDArray,
    maps: Mapping[str, NDArray],
    attribution: NDArray,
    *,
    title: str,
) -> Figure:
    """Draw one image on its way from the file to the prediction.

    Args:
        steps: the name of each preprocessing step and its result (H, W) or (H, W, 3), 0 to 1.
        class_names: the names of all classes.
        probabilities: (classes,)
        maps: the feature maps (channels, H, W) of each layer.
        attribution: (H, W), positive for pixels that support the prediction, negative for pixels
            that oppose it.
        title: the title of the figure.
    """
    num_bars = len(class_names) if len(class_names) <= MAX_BARS else MAX_SHOWN
    heights = [1.7, 0.5 + 0.14 * num_bars, *[1.2] * len(maps)]
    figure = style.new_figure(WIDTH, 0.4 + sum(heights))
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    axes = parts[0].subplots(1, len(steps) + 1, squeeze=False)[0]
    for ax, (name, pixels) in zip(axes, steps, strict=False):
        ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        _label(ax, name.replace(", ", ",\n"))
    scale = style.signed_scale(attribution)
    style.mark_negative(style.tile(axes[-1], attribution, style.SIGNED, scale))
    name = f"integrated gradients, ±{scale.vmax:.2g}"
    _label(axes[-1], f"{name}:\nred supports the prediction,\nblue (dots) opposes it")
    _draw_probabilities(parts[1].subplots(), class_names, probabilities, num_bars)
    for part, (name, values) in zip(parts[2:], maps.items(), strict=True):
        shown = values[:MAX_MAPS]
        ax = part.subplots()
        scale = style.signed_scale(shown) if (shown < 0).any() else style.positive_scale(shown)
        colors = style.SIGNED if (shown < 0).any() else style.POSITIVE
        style.tile(ax, _side_by_side(shown), colors, scale)
        more = f", the first {MAX_MAPS}" if len(values) > MAX_MAPS else ""
        size = " x ".join(map(str, values.shape[1:]))
        span = f"{style.number(scale.vmin or 0)} to {style.number(scale.vmax or 0)}"
        _label(ax, f"{name}: {len(values)} channels of {size}{more}, one scale: {span}")
    style.add_title(figure, title)
    return figure


def _draw_probabilities(
    ax: Axes, names: Sequence[str], probabilities: NDArray, num_bars: int
) -> None:
    """Draw one bar per class in class order, or the `num_bars` most probable classes."""
    classes, title = list(range(len(names))), ""
    if len(names) > num_bars:
        classes = np.argsort(-probabilities, kind="stable")[:num_bars].tolist()
        title = f"the {num_bars} most probable of {len(names)} classes"
    best = probabilities.argmax()
    colors = [style.WRONG if i == best else "0.6" for i in classes]
    bars = ax.barh(range(num_bars), probabilities[classes], color=colors)
    ax.bar_label(bars, [percent(probabilities[i]) for i in classes], padding=3,
                 fontsize=style.SMALL)  # fmt: skip
    ax.set_yticks(range(num_bars), [short_name(names[i]) for i in classes])
    ax.set(xlim=(0, 1.08), xticks=[0, 1], ylim=(num_bars - 0.4, -0.6))
    style.style_axes(ax, title=title, x="probability")


def _side_by_side(maps: NDArray) -> NDArray:
    """Tile maps (channels, H, W) in one, two or four rows, separated by NaN."""
    rows = 4 if len(maps) > 32 else 2 if len(maps) > 8 else 1
    columns = -(-len(maps) // rows)
    tiles = np.full((rows * columns, *maps.shape[1:]), np.nan, np.float32)
    tiles[: len(maps)] = maps
    return join(tiles.reshape(rows, columns, *maps.shape[1:]), zoom=1, gap=1)


def _label(ax: Axes, text: str) -> None:
    ax.set_title(text, fontsize=style.NOTE)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set(color="0.7", lw=0.5)
