"""Points in a plane, each drawn as the name of its class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.receptive_field import COLOURS

LABEL, NOTE = 9, 7  # font sizes in points


def embedding_figure(
    points: NDArray, labels: NDArray, right: NDArray, *, class_names: Sequence[str], title: str
) -> Figure:
    """Points (N, 2): a digit or letter marks the class, a red ring a wrong answer.

    The shape tells the classes apart, the colour only helps: it reads in grey as well.
    """
    figure = style.new_figure(7.6, 6.6)
    ax = figure.add_subplot()
    short = len(class_names) <= 36 and all(len(name) == 1 for name in class_names)
    for label, name in enumerate(class_names):
        x, y = points[labels == label].T
        sign = name if short else "0123456789abcdefghijklmnopqrstuvwxyz"[label % 36]
        colour = (*COLOURS, "0.1", "0.45", "#8c6d31", "#5254a3")[label % 10]
        ax.scatter(
            x, y, s=16, marker=f"${sign}$", color=colour, linewidths=0,
            label=None if short else f"{sign}: {name}",
        )  # fmt: skip
    wrong = points[~right]
    ax.scatter(
        wrong[:, 0], wrong[:, 1], s=60, facecolors="none", edgecolors="#b2182b", linewidths=0.9
    )
    ax.set_aspect("equal", adjustable="datalim")
    ax.tick_params(labelsize=NOTE)
    ax.set_xlabel("first direction", fontsize=LABEL)
    ax.set_ylabel("second direction", fontsize=LABEL)
    ax.spines[["top", "right"]].set_visible(False)
    if not short:
        ax.legend(fontsize=NOTE, frameon=False)
    style.head(
        figure,
        f"{title}\nsign: true class; ring: wrong answer ({int((~right).sum())} of {len(labels)})",
        LABEL,
    )
    assert np.isfinite(points).all()
    return figure
