"""Points in a plane, each drawn as the sign of its class."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.raster import short_name, text_width

SIGNS = "0123456789abcdefghijklmnopqrstuvwxyz"
HUES = (*style.COLORS, "0.1", "0.45", "#8c6d31", "#5254a3")
MAX_NAMED = 3 * len(SIGNS)  # classes, in columns beside the plot


def embedding_figure(
    points: NDArray, labels: NDArray, right: NDArray, *, class_names: Sequence[str], title: str
) -> Figure:
    """Points (N, 2): a digit or letter marks the class, a red ring a wrong answer.

    The shape tells the classes apart, the color only helps: it reads in gray as well.
    """
    short = all(len(name) == 1 and name.isascii() and name.isalnum() for name in class_names)
    num = len(class_names)
    signs = class_names if short else SIGNS if num <= len(SIGNS) else list(map(str, range(num)))
    names = [f"{sign}: {short_name(name)}" for sign, name in zip(signs, class_names, strict=False)]
    columns = 0 if short or num > MAX_NAMED else -(-num // len(SIGNS))
    wide = columns * (0.45 + max(map(text_width, names)) / style.DPI)
    figure = style.new_figure(6.6 + max(1.0, wide), 6.6)
    ax = figure.add_subplot()
    for label, (sign, name) in enumerate(zip(signs, names, strict=False)):
        x, y = points[labels == label].T
        ax.scatter(
            x, y, s=16 * len(sign), marker=f"${sign}$", color=HUES[label % len(HUES)],
            linewidths=0, label=name if columns else None,
        )  # fmt: skip
    x, y = points[~right].T
    ax.scatter(x, y, s=60, facecolors="none", edgecolors=style.WRONG, linewidths=0.9)
    ax.set_aspect("equal", adjustable="datalim")
    style.dress(ax, x="first direction", y="second direction")
    if columns:
        figure.legend(fontsize=style.NOTE, frameon=False, loc="outside right center", ncols=columns)
    num_wrong = int((~right).sum())
    sign = "true class" if short or columns else f"true class, of 0 to {num - 1}"
    style.head(
        figure, f"{title}\nsign: {sign}; ring: wrong answer ({num_wrong:,} of {len(labels):,})"
    )
    return figure
