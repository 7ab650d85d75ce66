"""One prediction: what was done to the image, what the network answers, and what led to it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style

WIDTH = 8.0  # inches
MAX_MAPS = 64  # of a layer


def prediction_figure(
    steps: Sequence[tuple[str, NDArray]],
    class_names: Sequence[str],
    probabilities: NDArray,
    maps: Mapping[str, NDArray],
    attribution: NDArray,
    *,
    title: str,
) -> Figure:
    """Draw one image from the file to the answer.

    steps: what was done and the pixels (H, W) or (H, W, 3), 0 to 1. probabilities: (classes,).
    maps: of each layer (channels, H, W). attribution: (H, W), positive where a pixel speaks for the
    answer, negative where it speaks against it.
    """
    figure = style.new_figure(WIDTH, 3.3 + 1.2 * len(maps))
    heights = [1.5, 1.1, *[1.15] * len(maps)]
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights)
    axes = parts[0].subplots(1, len(steps) + 1, squeeze=False)[0]
    for ax, (what, pixels) in zip(axes, steps, strict=False):
        ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        _label(ax, what)
    style.mark_negative(
        style.tile(axes[-1], attribution, style.SIGNED, style.signed_scale(attribution))
    )
    _label(axes[-1], "red speaks for the answer,\nblue (dots) against it")
    _draw_probabilities(parts[1].subplots(), class_names, probabilities)
    for part, (name, values) in zip(parts[2:], maps.items(), strict=True):
        shown = values[:MAX_MAPS]
        ax = part.subplots()
        scale = style.signed_scale(shown) if (shown < 0).any() else style.positive_scale(shown)
        colors = style.SIGNED if (shown < 0).any() else style.POSITIVE
        style.tile(ax, _side_by_side(shown), colors, scale)
        more = f", the first {MAX_MAPS}" if len(values) > MAX_MAPS else ""
        size = " x ".join(map(str, values.shape[1:]))
        _label(ax, f"{name}: {len(values)} channels of {size}{more}, one scale")
    style.head(figure, title)
    return figure


def _draw_probabilities(ax: Axes, names: Sequence[str], probabilities: NDArray) -> None:
    best = int(probabilities.argmax())
    colors = [style.WRONG if i == best else "0.6" for i in range(len(names))]
    bars = ax.bar(range(len(names)), probabilities, color=colors)
    if len(names) <= 20:
        ax.bar_label(bars, [f"{100 * p:.1f} %" for p in probabilities], fontsize=style.SMALL)
    ax.set_xticks(range(len(names)), names, rotation=0 if len(names[0]) < 4 else 20)
    ax.set_ylim(0, 1.18)
    ax.set_yticks([0, 1], ["0", "1"])
    style.dress(ax)


def _side_by_side(maps: NDArray) -> NDArray:
    """(channels, H, W) in two rows, four where they are many, with NaN between them."""
    rows = 4 if len(maps) > 32 else 2 if len(maps) > 8 else 1
    columns = -(-len(maps) // rows)
    _, height, width = maps.shape
    joined = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1), np.nan, np.float32)
    for i, values in enumerate(maps):
        y, x = i // columns * (height + 1), i % columns * (width + 1)
        joined[y : y + height, x : x + width] = values
    return joined


def _label(ax: Axes, text: str) -> None:
    ax.set_title(text, fontsize=style.NOTE)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set(color="0.7", lw=0.5)
