"""Confusion matrix with the recall and precision of each class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures.raster import Mosaic, join, short_name, text_width
from simplecnn.figures.style import COUNT, FAINT, SMALL, positive_scale

MAX_NAMED = 100  # classes; more are drawn without their names
TRUE = "true ↓"
BAR = 180  # pixels; the length of a recall of 1


def confusion_figure(
    counts: NDArray, *, class_names: Sequence[str], title: str = "confusion"
) -> Figure:
    """Draw a confusion matrix (classes, classes): rows are true classes, columns predicted ones.

    Only misclassifications are colored, on a scale that starts at zero; the diagonal is gray. The
    recall of each class is to the right of its row, the precision below its column.
    """
    num_classes = len(counts)
    names = [short_name(name) for name in class_names]
    has_names, has_counts = num_classes <= MAX_NAMED, num_classes <= 30
    widest = max(map(text_width, names)) if has_names else 0
    # With names, a cell is at least as high as a line of text.
    cell = int(np.clip(900 // num_classes, 15 if has_names else 6, 52))
    if has_counts:
        cell = max(cell, 8 * len(str(counts.max())))
    rotated = widest > min(cell, 40)
    left, header = max(widest + 32, text_width(TRUE, SMALL) + 8), (widest if rotated else 12) + 34
    mistakes = counts * (1 - np.eye(num_classes, dtype=counts.dtype))
    row_sums, column_sums, correct = counts.sum(1), counts.sum(0), counts.diagonal()
    recall = correct / np.maximum(row_sums, 1)
    precision = correct / np.maximum(column_sums, 1)
    scale = positive_scale(mistakes)
    size = num_classes * cell
    bar_left = left + size + 24
    title += f"\n{int(mistakes.sum()):,} of {int(counts.sum()):,} images misclassified; "
    title += "color: number of mistakes, gray: correct"
    canvas = bar_left + BAR + 84, header + size + 44
    mosaic = Mosaic(*canvas, title=title, colors=COUNT, scale=scale, bar="mistakes")
    mosaic.put(join(mistakes[:, :, None, None], zoom=cell - 1, gap=1), left, header)
    for i in range(num_classes):
        x, y = left + i * cell, header + i * cell
        center, middle = x + (cell - 1) / 2, y + (cell - 1) / 2
        mosaic.box(x, y, cell - 1, cell - 1, facecolor="0.9")
        if has_names:
            mosaic.write(left - 8, middle, names[i], ha="right", va="center")
            mosaic.write(center, header - 8, names[i], ha="center", va="bottom",
                         rotation=90 if rotated else 0)  # fmt: skip
            text = _percent(recall[i]) if row_sums[i] else "none"
            mosaic.write(bar_left + BAR + 6, middle, text, va="center")
        if row_sums[i]:
            hit = BAR * recall[i]
            mosaic.box(bar_left, y, hit, cell - 1, facecolor="0.85")
            mosaic.box(bar_left + hit, y, BAR - hit, cell - 1, facecolor=COUNT(0.55))
        for j in np.flatnonzero(counts[i]) if has_counts else ():
            dark = i != j and scale(counts[i, j]) > 0.55
            mosaic.write(
                left + j * cell + (cell - 1) / 2, middle, str(counts[i, j]), size=SMALL,
                ha="center", va="center", color="white" if dark else "black",
            )  # fmt: skip
        if has_counts and column_sums[i] and cell >= 36:
            mosaic.write(center, header + size + 16, _percent(precision[i]), size=SMALL,
                         ha="center", color=FAINT)  # fmt: skip
    mosaic.write(left, 10, "predicted →", size=SMALL, color=FAINT)
    mosaic.write(left - 8, 10, TRUE, size=SMALL, color=FAINT, ha="right")
    mosaic.write(bar_left, header - 8, "recall")
    if has_counts and cell >= 36:
        mosaic.write(bar_left, header + size + 16, "precision", color=FAINT)
    return mosaic.figure


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share < 1 else "100 %"
