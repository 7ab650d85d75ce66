"""A reliability diagram: accuracy by confidence."""

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style

BAR, GAP = style.COLORS[0], style.NEW


def reliability_figure(
    counts: NDArray, confidences: NDArray, accuracies: NDArray, *, title: str
) -> Figure:
    """Draw the accuracy in bins of confidence, which have equal widths from 0 to 1.

    Number of images, mean confidence and accuracy are (bins,), NaN where a bin is empty. Bars of a
    calibrated network end on the diagonal; bars below it mean overconfidence.
    """
    edges = np.linspace(0, 1, len(counts) + 1)
    width = edges[1]
    figure = style.new_figure(4.6, 5.2)
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    ax.bar(
        edges[:-1], accuracies, width, align="edge", color=BAR, edgecolor="white", label="accuracy"
    )
    ax.plot([0, 1], [0, 1], color="0.4", lw=1, ls="--", label="calibrated")
    ax.plot(confidences, accuracies, "o", color=GAP, ms=4, clip_on=False,
            label="at the mean confidence; line: gap to calibrated")  # fmt: skip
    for x, y in zip(confidences, accuracies, strict=True):
        ax.plot([x, x], [x, y], color=GAP, lw=1.5)
    ax.set(xlim=(0, 1), ylim=(0, 1.02))
    style.style_axes(ax, y="accuracy")
    figure.legend(fontsize=style.NOTE, frameon=False, loc="outside lower center", ncols=3)
    below.bar(
        edges[:-1], np.maximum(counts, 0.5), width, align="edge", color="0.6", edgecolor="white"
    )
    below.set_yscale("log")
    below.set_ylim(0.5, max(counts.max(), 1) * 2)
    style.style_axes(
        below, x="confidence: probability of the predicted class", y="number of images"
    )
    style.add_title(figure, title)
    return figure
