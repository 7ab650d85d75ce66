"""Which classes are confused with which, and the recall and precision of each."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures.raster import Mosaic, join, short_name, text_width
from simplecnn.figures.style import COUNT, FAINT, SMALL, positive_scale

MAX_NAMED = 100  # classes
BAR = 180  # pixels, from a recall of 0 to 1


def confusion_figure(
    counts: NDArray, *, class_names: Sequence[str], title: str = "confusion"
) -> Figure:
    """Draw counts (classes, classes): a row per true class, a column per predicted one.

    Only mistakes have a color, on one scale from zero; the diagonal is gray. Beside each row
    stands the recall of its class, as a bar and in percent, below each column the precision.
    """
    num_classes = len(counts)
    names = [short_name(name) for name in class_names]
    widest = max(map(text_width, names))
    named, counted = num_classes <= MAX_NAMED, num_classes <= 30
    # A cell is as high as the name of its class, where there is one.
    cell = int(np.clip(900 // num_classes, 15 if named else 6, 52))
    if counted:
        cell = max(cell, 8 * len(str(counts.max())))
    turned = widest > min(cell, 40)
    left, header = widest + 32, (widest if turned else 12) + 34
    mistakes = counts * (1 - np.eye(num_classes, dtype=counts.dtype))
    rows, columns, right = counts.sum(1), counts.sum(0), counts.diagonal()
    recall = right / np.maximum(rows, 1)
    precision = right / np.maximum(columns, 1)
    scale = positive_scale(mistakes)
    size = num_classes * cell
    at_bar = left + size + 24
    title += f"\n{int(mistakes.sum()):,} of {int(counts.sum()):,} images wrong; colors are counts "
    title += "of mistakes, gray is right"
    canvas = at_bar + BAR + 84, header + size + 44
    mosaic = Mosaic(*canvas, title=title, colors=COUNT, scale=scale, bar="mistakes")
    mosaic.put(join(mistakes[:, :, None, None], zoom=cell - 1, gap=1), left, header)
    for i in range(num_classes):
        x, y = left + i * cell, header + i * cell
        center, middle = x + (cell - 1) / 2, y + (cell - 1) / 2
        mosaic.box(x, y, cell - 1, cell - 1, facecolor="0.9")
        if named:
            mosaic.write(left - 8, middle, names[i], ha="right", va="center")
            mosaic.write(center, header - 8, names[i], ha="center", va="bottom",
                         rotation=90 if turned else 0)  # fmt: skip
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
            mosaic.write(center, header + size + 16, _percent(precision[i]), size=SMALL,
                         ha="center", color=FAINT)  # fmt: skip
    mosaic.write(left, 10, "predicted →", size=SMALL, color=FAINT)
    mosaic.write(left - 8, 10, "true ↓", size=SMALL, color=FAINT, ha="right")
    mosaic.write(at_bar, header - 8, "recall")
    if counted and cell >= 36:
        mosaic.write(at_bar, header + size + 16, "precision", color=FAINT)
    return mosaic.figure


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 1 else "100 %"
