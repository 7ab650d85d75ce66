"""Maps of which pixels count, beside the image, and those of a network that learned nothing."""

from collections.abc import Sequence

from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.raster import text_width
from simplecnn.figures.style import NOTE


def attribution_figure(
    images: Sequence[NDArray],
    notes: Sequence[str],
    maps: Sequence[Sequence[NDArray]],
    scores: Sequence[Sequence[str]],
    *,
    titles: Sequence[str],
    title: str,
) -> Figure:
    """A row an image (C, H, W) with its note and its maps (h, w), a score below each.

    The first half of the columns is of the trained network, the second of random weights.
    """
    half = len(titles) // 2
    ratios = [1.0] * (half + 1) + [0.12] + [1.0] * half
    width = 1.32 * (2 * half + 1) + 0.8 + max(map(text_width, notes)) / style.DPI
    figure = style.new_figure(width, 1.42 * len(images) + 1.15)
    grid = figure.subplots(len(images), len(ratios), squeeze=False, width_ratios=ratios)
    for i, row in enumerate(grid):
        image, *axes = (ax for j, ax in enumerate(row) if j != half + 1)
        row[half + 1].set_axis_off()
        style.tile(image, style.image_colors(images[i]), style.DIGIT)
        image.set_ylabel(
            notes[i], fontsize=NOTE, color=style.WRONG if "WRONG" in notes[i] else "black",
            rotation=0, ha="right", va="center",
        )  # fmt: skip
        for ax, values, score in zip(axes, maps[i], scores[i], strict=True):
            scale = style.signed_scale(values)
            style.mark_negative(style.tile(ax, values, style.SIGNED, scale))
            ax.set_xlabel(score, fontsize=NOTE, labelpad=1.5)
            ax.spines[:].set(color="0.7", lw=0.5)
        if i == 0:
            image.set_title("image", fontsize=NOTE)
            for ax, name in zip(axes, titles, strict=True):
                ax.set_title(name, fontsize=NOTE)
    style.color_bar(
        figure, grid, style.SIGNED, Normalize(-1, 1), "of the largest value of each map",
        shrink=0.4, ticks=[-1, 0, 1],
    )  # fmt: skip
    style.head(figure, title)
    return figure
