"""Which classes are confused with which, and the recall and precision of each."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures.raster import Mosaic, join
from simplecnn.figures.style import COUNT, FAINT, SMALL, positive_scale

MAX_NAMED = 100  # classes
MAX_NAME = 24  # characters
BAR = 180  # pixels, from a recall of 0 to 1


def confusion_figure(
    counts: NDArray, *, class_names: Sequence[str], title: str = "confusion"
) -> Figure:
    """Draw counts (classes, classes): a row a true class, a column a predicted one.

    Only mistakes have a color, on one scale from zero; the diagonal is gray. Beside each row
    stands the recall of its class, as a bar and in percent, below each column the precision.
    """
    number = len(counts)
    class_names = [n if len(n) <= MAX_NAME else f"{n[: MAX_NAME - 1]}…" for n in class_names]
    widest = max(len(name) for name in class_names)
    # Up to 100 classes, a cell is as high as the name of its class.
    cell = int(np.clip(900 // number, 15 if number <= MAX_NAMED else 6, 52))
    cell = max(cell, 8 * len(str(counts.max())) if number <= 30 else cell)
    left, header = 9 * widest + 32, 40 if widest <= 4 else 9 * widest + 30
    mistakes = counts * (1 - np.eye(number, dtype=counts.dtype))
    rows, columns, right = counts.sum(1), counts.sum(0), counts.diagonal()
    recall = right / np.maximum(rows, 1)
    precision = right / np.maximum(columns, 1)
    scale = positive_scale(mistakes)
    size = number * cell
    at_bar = left + size + 24
    wrong, total = int(mistakes.sum()), int(counts.sum())
    mosaic = Mosaic(
        at_bar + BAR + 84,
        header + size + 44,
        title=f"{title}\n{wrong:,} of {total:,} images wrong; colors are counts of mistakes, "
        "gray is right",
        colors=COUNT,
        scale=scale,
        bar="mistakes",
    )
    mosaic.put(join(mistakes[:, :, None, None], zoom=cell - 1, gap=1), left, header)
    named = cell >= 15  # smaller cells are too close for the name of each class
    counted = number <= 30
    for i in range(number):
        x, y = left + i * cell, header + i * cell
        middle = y + (cell - 1) / 2
        mosaic.box(x, y, cell - 1, cell - 1, facecolor="0.9")
        if named:
            mosaic.write(left - 8, middle, class_names[i], ha="right", va="center")
            mosaic.write(x + (cell - 1) / 2, header - 8, class_names[i], ha="center", va="bottom",
                         rotation=90 if widest > 4 else 0)  # fmt: skip
            text = _percent(recall[i]) if rows[i] else "none"
            mosaic.write(at_bar + BAR + 6, middle, text, va="center")
        if rows[i]:  # what is missed in the color of mistakes
            hit = BAR * recall[i]
            mosaic.box(at_bar, y, hit, cell - 1, facecolor="0.85")
            mosaic.box(at_bar + hit, y, BAR - hit, cell - 1, facecolor=COUNT(0.55))
        for j in np.flatnonzero(counts[i]) if counted else ():
            dark = i != j and scale(counts[i, j]) > 0.55
            mosaic.write(
                left + j * cell + (cell - 1) / 2, middle, str(counts[i, j]), size=SMALL,
                ha="center", va="center", color="white" if dark else "black",
            )  # fmt: skip
        if counted and columns[i] and cell >= 36:
            mosaic.write(x + cell / 2, header + size + 16, _percent(precision[i]), size=SMALL,
                         ha="center", color=FAINT)  # fmt: skip
    mosaic.write(left, 10, "predicted →", size=SMALL, color=FAINT)
    mosaic.write(left - 8, 10, "true ↓", size=SMALL, color=FAINT, ha="right")
    mosaic.write(at_bar, header - 8, "recall")
    if counted and cell >= 36:
        mosaic.write(at_bar, header + size + 16, "precision", color=FAINT)
    return mosaic.figure


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 1 else "100 %"
