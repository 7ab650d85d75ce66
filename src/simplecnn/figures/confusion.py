"""What is taken for what, and how much of each class is found."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from simplecnn.figures.mosaic import Mosaic, join
from simplecnn.figures.style import COUNT, positive_scale

BAR = 180  # pixels, from a recall of 0 to 1


def confusion_figure(
    counts: NDArray, *, class_names: Sequence[str], title: str = "confusion"
) -> Figure:
    """Draw counts (classes, classes): a row a true class, a column what it was taken for.

    Only mistakes have a colour, on one scale from zero; the diagonal is grey. Beside each row
    stands the recall of its class, as a bar and in percent, below each column the precision.
    """
    number = len(counts)
    widest = max(len(name) for name in class_names)
    cell = int(np.clip(900 // number, 6, 52))
    cell = max(cell, 8 * len(str(counts.max())) if number <= 30 else cell)
    left, header = 8 * widest + 32, 40 if widest <= 4 else 8 * widest + 30
    mistakes = counts * (1 - np.eye(number, dtype=counts.dtype))
    rows, columns, right = counts.sum(1), counts.sum(0), counts.diagonal()
    recall = right / np.maximum(rows, 1)
    precision = right / np.maximum(columns, 1)
    scale = positive_scale(mistakes)
    at_bar = left + number * cell + 24
    size = number * cell
    wrong, total = int(mistakes.sum()), int(counts.sum())
    mosaic = Mosaic(
        at_bar + BAR + 84,
        header + size + 44,
        title=f"{title}\n{wrong:,} of {total:,} images wrong; colours are counts of mistakes, "
        "grey is right",
        colours=COUNT,
        scale=scale,
        bar="mistakes",
    )
    mosaic.put(join(mistakes[:, :, None, None], zoom=cell - 1, gap=1), left, header, 1)
    named = cell >= 12  # else there is no room for the name of each class
    for i in range(number):
        x, y = left + i * cell, header + i * cell
        middle = y + (cell - 1) / 2
        mosaic.ax.add_patch(Rectangle((x, y), cell - 1, cell - 1, facecolor="0.9", zorder=1))
        if named:
            mosaic.write(left - 8, middle, class_names[i], ha="right", va="center")
            across = x + (cell - 1) / 2
            if widest <= 4:
                mosaic.write(across, header - 8, class_names[i], ha="center")
            else:
                mosaic.ax.text(across, header - 8, class_names[i], fontsize=6, rotation=90,
                               ha="center", va="bottom")  # fmt: skip
        _bar(mosaic, recall[i], at_bar, y, cell, empty=rows[i] == 0, named=named)
        if number <= 30:
            for j in np.flatnonzero(counts[i]):
                dark = i != j and scale(counts[i, j]) > 0.55
                mosaic.write(
                    left + j * cell + (cell - 1) / 2, middle, str(counts[i, j]), size=5.5,
                    ha="center", va="center", color="white" if dark else "black",
                )  # fmt: skip
            if columns[i] and cell >= 36:
                mosaic.write(x + cell / 2, header + size + 16, _percent(precision[i]), size=5.5,
                             ha="center", color="0.35")  # fmt: skip
    mosaic.write(left, 8, "taken for →", size=5.5, color="0.35")
    mosaic.write(left - 8, 8, "is ↓", size=5.5, color="0.35", ha="right")
    mosaic.write(at_bar, header - 8, "recall")
    if number <= 30 and cell >= 36:
        mosaic.write(at_bar, header + size + 16, "precision", color="0.35")
    return mosaic.figure


def _bar(
    mosaic: Mosaic, recall: float, x: float, y: float, cell: int, *, empty: bool, named: bool
) -> None:
    """A recall from 0 to 1: the part that is missed in the colour of mistakes."""
    found = BAR * recall
    mosaic.ax.add_patch(Rectangle((x, y), found, cell - 1, facecolor="0.85"))
    if not empty:
        mosaic.ax.add_patch(Rectangle((x + found, y), BAR - found, cell - 1, facecolor=COUNT(0.55)))
    if named:
        text = "none" if empty else _percent(recall)
        mosaic.write(x + BAR + 6, y + (cell - 1) / 2, text, va="center")


def _percent(share: float) -> str:
    text = f"{share:.1%}" if share < 1 else "100%"
    return text.replace("%", " %")
