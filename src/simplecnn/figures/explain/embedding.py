"""A scatter plot that marks each point with a symbol of its class."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.raster import short_name, text_width

HUES = (*style.COLORS, "0.1", "0.45", "#8c6d31", "#5254a3")
MAX_ROWS = 36  # of the legend, in each of up to three columns
MAX_NAMED = 3 * MAX_ROWS  # classes in the legend


def embedding_figure(
    points: NDArray, labels: NDArray, correct: NDArray, *, class_names: Sequence[str], title: str
) -> Figure:
    """Plot points (N, 2) as symbols of their true class, ringed in red where not `correct` (N,).

    The symbol is the name of the class if it is a single character, else its index, so that the
    figure reads in gray.
    """
    short = all(len(name) == 1 and name.isascii() and name.isalnum() for name in class_names)
    num = len(class_names)
    symbols = class_names if short else list(map(str, range(num)))
    names = [f"{s}: {short_name(name)}" for s, name in zip(symbols, class_names, strict=True)]
    columns = 0 if short or num > MAX_NAMED else -(-num // MAX_ROWS)
    legend_width = columns * (0.45 + max(map(text_width, names)) / style.DPI)
    figure = style.new_figure(6.6 + max(1.0, legend_width), 6.6)
    ax = figure.add_subplot()
    for label, (symbol, name) in enumerate(zip(symbols, names, strict=True)):
        x, y = points[labels == label].T
        ax.scatter(
            x, y, s=16 * len(symbol), marker=f"${symbol}$", color=HUES[label % len(HUES)],
            linewidths=0, label=name if columns else None,
        )  # fmt: skip
    x, y = points[~correct].T
    ax.scatter(x, y, s=60, facecolors="none", edgecolors=style.WRONG, linewidths=0.9)
    ax.set_aspect("equal", adjustable="datalim")
    style.style_axes(ax, x="first principal component", y="second principal component")
    if columns:
        figure.legend(fontsize=style.NOTE, frameon=False, loc="outside right center", ncols=columns)
    num_wrong = int((~correct).sum())
    meaning = "true class" if short or columns else f"index of the true class, 0 to {num - 1}"
    style.add_title(
        figure,
        f"{title}\nsymbol: {meaning}; red ring: misclassified ({num_wrong:,} of {len(labels):,})",
    )
    return figure
