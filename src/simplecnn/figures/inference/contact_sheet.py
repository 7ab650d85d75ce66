"""A contact sheet of images with their predicted classes and files; unsure ones are marked."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.raster import short_name, text_width

COLUMNS = 16
TILE, TEXT, GAP = 0.62, 0.4, 0.08  # inches: an image, the text below it, between two columns
UNSURE = style.NEW


def contact_sheet_figure(
    images: NDArray,
    labels: Sequence[str],
    unsure: NDArray,
    *,
    title: str,
    files: Sequence[str] = (),
) -> Figure:
    """Draw images (N, C, H, W) from 0 to 1, with 1 or 3 channels.

    Below each image are its label, of two lines, and the name of its file, if given, shortened to
    fit. Where `unsure` (N,) is true, the frame is thick and orange, and the label is orange.
    """
    step = GAP + max(TILE, *(text_width(label, style.SMALL) / style.DPI for label in labels))
    columns = min(int(COLUMNS * (TILE + GAP) / step), max(8, len(images)))
    rows = -(-len(images) // columns)
    width, height = columns * step, rows * (TILE + TEXT)
    figure = style.new_figure(width + 0.2, height + 0.6)
    ax = figure.subplots()
    ax.set_axis_off()
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        x, y = (i % columns + 0.5) * step - TILE / 2, i // columns * (TILE + TEXT) + 0.03
        ax.imshow(style.image_colors(image), interpolation="nearest",
                  extent=(x, x + TILE, y + TILE, y))  # fmt: skip
        color, thickness = (UNSURE, 2.5) if unsure[i] else ("0.8", 0.5)
        ax.add_patch(Rectangle((x, y), TILE, TILE, fill=False, edgecolor=color, lw=thickness))
        ax.text(x + TILE / 2, y + TILE + 0.04, label, ha="center", va="top", fontsize=style.SMALL,
                color=UNSURE if unsure[i] else "black")  # fmt: skip
        if files:
            name = short_name(files[i], style.DPI * step - 6, style.SMALL)
            ax.text(x + TILE / 2, y + TILE + 0.24, name, ha="center", va="top",
                    fontsize=style.SMALL, color=style.FAINT)  # fmt: skip
    ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    style.add_title(figure, title)
    return figure
