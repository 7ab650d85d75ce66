"""Maps of which pixels count, beside the image, and those of a network that learned nothing."""

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.unit_cards import colours

LABEL, NOTE = 8, 6.5  # font sizes in points


@dataclass(frozen=True)
class Tile:
    """One map (h, w), signed, and the number below it."""

    values: NDArray
    note: str


@dataclass(frozen=True)
class Row:
    """An image (C, H, W), what was answered, and its maps."""

    image: NDArray
    note: str
    tiles: Sequence[Tile]


def attribution_figure(rows: Sequence[Row], titles: Sequence[str], *, title: str) -> Figure:
    """A row an image; the first half of the columns from the trained network, the second not."""
    half = len(titles) // 2
    ratios = [1.0] * (half + 1) + [0.12] + [1.0] * half
    figure = style.new_figure(1.32 * (2 * half + 1) + 1.0, 1.42 * len(rows) + 1.15)
    grid = figure.subplots(len(rows), len(ratios), squeeze=False, width_ratios=ratios)
    for i, row in enumerate(rows):
        image, *axes = (ax for j, ax in enumerate(grid[i]) if j != half + 1)
        grid[i][half + 1].set_axis_off()
        image.imshow(colours(row.image), interpolation="nearest")
        image.set_xticks([])
        image.set_yticks([])
        image.set_ylabel(
            row.note, fontsize=NOTE, color="tab:red" if "WRONG" in row.note else "black"
        )
        for ax, tile in zip(axes, row.tiles, strict=True):
            scale = style.signed_scale(tile.values)
            style.mark_negative(style.tile(ax, tile.values, style.SIGNED, scale))
            ax.set_xlabel(tile.note, fontsize=NOTE, labelpad=1.5)
            ax.spines[:].set(color="0.7", lw=0.5)
        if i == 0:
            image.set_title("image", fontsize=NOTE)
            for j, (ax, name) in enumerate(zip(axes, titles, strict=True)):
                state = ("trained", "random weights")[j // half]
                ax.set_title(f"{state}\n{name}", fontsize=NOTE)
    bar = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), style.SIGNED), ax=grid, shrink=0.4, aspect=30,
        ticks=[-1, 0, 1],
    )  # fmt: skip
    bar.set_label("of the largest value of each map", fontsize=NOTE)
    bar.ax.tick_params(labelsize=NOTE)
    style.head(figure, title, LABEL)
    return figure
