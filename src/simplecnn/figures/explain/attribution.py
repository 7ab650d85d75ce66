"""Attribution maps of a trained network, beside those of the same network before training."""

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
    """Draw one row per image (C, H, W): its note, the image, and its maps (h, w) with their scores.

    `titles` name the columns of maps: the first half shows the trained network, the second half
    random weights. A note that starts with WRONG is drawn in red.
    """
    half = len(titles) // 2
    ratios = [1.0] * (half + 1) + [0.12] + [1.0] * half  # a gap between the two halves
    width = 1.32 * (2 * half + 1) + 0.8 + max(map(text_width, notes)) / style.DPI
    figure = style.new_figure(width, 1.42 * len(images) + 1.15)
    grid = figure.subplots(len(images), len(ratios), squeeze=False, width_ratios=ratios)
    for i, row in enumerate(grid):
        image, *axes = (ax for j, ax in enumerate(row) if j != half + 1)
        row[half + 1].set_axis_off()
        style.tile(image, style.image_colors(images[i]), style.DIGIT)
        image.set_ylabel(
            notes[i], fontsize=NOTE,
            color=style.WRONG if notes[i].startswith("WRONG") else "black",
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
        figure, grid, style.SIGNED, Normalize(-1, 1), "relative to the map's largest magnitude",
        shrink=0.4, ticks=[-1, 0, 1],
    )  # fmt: skip
    style.add_title(figure, title)
    return figure
