"""Points in a plane, each drawn as the sign of its class."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style

SIGNS = "0123456789abcdefghijklmnopqrstuvwxyz"
HUES = (*style.COLORS, "0.1", "0.45", "#8c6d31", "#5254a3")


def embedding_figure(
    points: NDArray, labels: NDArray, right: NDArray, *, class_names: Sequence[str], title: str
) -> Figure:
    """Points (N, 2): a digit or letter marks the class, a red ring a wrong answer.

    The shape tells the classes apart, the color only helps: it reads in gray as well.
    """
    figure = style.new_figure(7.6, 6.6)
    ax = figure.add_subplot()
    short = all(len(name) == 1 and name.isascii() and name.isalnum() for name in class_names)
    for label, name in enumerate(class_names):
        x, y = points[labels == label].T
        sign = name if short else SIGNS[label % len(SIGNS)]
        ax.scatter(
            x, y, s=16, marker=f"${sign}$", color=HUES[label % len(HUES)], linewidths=0,
            label=None if short else f"{sign}: {name}",
        )  # fmt: skip
    x, y = points[~right].T
    ax.scatter(x, y, s=60, facecolors="none", edgecolors=style.WRONG, linewidths=0.9)
    ax.set_aspect("equal", adjustable="datalim")
    style.dress(ax, x="first direction", y="second direction")
    if not short:
        figure.legend(fontsize=style.NOTE, frameon=False, loc="outside right center")
    num_wrong = int((~right).sum())
    style.head(
        figure, f"{title}\nsign: true class; ring: wrong answer ({num_wrong:,} of {len(labels):,})"
    )
    return figure
