"""Spoiled images and the errors they cause, on one sheet; networks side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.explain.intervals import Interval
from simplecnn.figures import style
from simplecnn.figures.receptive_field import COLOURS
from simplecnn.figures.unit_cards import colours

LABEL, NOTE = 8, 6.5  # font sizes in points
HATCHES = ("", "/////", ".....", "xxxxx")  # of bars, which tell them apart in grey as well


def corruption_figure(
    tiles: NDArray,
    errors: NDArray,
    *,
    kinds: Sequence[str],
    units: Sequence[str],
    amounts: Sequence[Sequence[str]],
    halves: NDArray,
    title: str,
) -> Figure:
    """A row a kind. Left: an image (kinds, 6, C, H, W) from unspoiled to the worst; right: the
    errors (kinds, 6) in percent on one scale from 0, with `halves` of their intervals or NaN."""
    num_kinds, num_columns = errors.shape
    figure = style.new_figure(9.6, 0.64 * num_kinds + 0.9)
    left, right = figure.subplots(1, 2)
    side = tiles.shape[-1]
    gap = max(2, side // 7)
    step_x, step_y = side + gap, tiles.shape[-2] + gap
    sheet = np.ones((num_kinds * step_y, num_columns * step_x - gap, 3))
    for (i, j), _ in np.ndenumerate(errors):
        y, x = i * step_y + gap // 2, j * step_x
        sheet[y : y + tiles.shape[-2], x : x + side] = colours(tiles[i, j])
    left.imshow(sheet, interpolation="nearest")
    left.set_yticks(
        [(i + 0.5) * step_y for i in range(num_kinds)],
        [f"{k}\n{u}" for k, u in zip(kinds, units, strict=True)], fontsize=NOTE,
    )  # fmt: skip
    places = [j * step_x + side / 2 for j in range(num_columns)]
    names = ["unspoiled", *(f"severity {j}" if j == 1 else str(j) for j in range(1, num_columns))]
    left.set_xticks(places, names, fontsize=NOTE)
    left.spines[:].set_visible(False)
    scale = Normalize(0, 100)
    style.tile(right, errors, style.POSITIVE, scale)
    right.set_aspect("auto")
    right.set_box_aspect(sheet.shape[0] / sheet.shape[1])  # its rows beside those on the left
    right.set_xticks(range(num_columns), names, fontsize=NOTE)
    right.set_yticks([])
    for (i, j), error in np.ndenumerate(errors):
        half = "" if np.isnan(halves[i, j]) else f" ± {halves[i, j]:.1f}"
        below = f"\nat {amounts[i][j - 1]}" if j else ""
        right.text(
            j, i, f"{error:.1f}{half}{below}", ha="center", va="center", fontsize=NOTE,
            color="black" if error > 60 else "white",
        )  # fmt: skip
    for ax in (left, right):
        ax.tick_params(length=0)
        ax.xaxis.tick_top()
    bar = figure.colorbar(ScalarMappable(scale, style.POSITIVE), ax=[left, right], aspect=30)
    bar.set_label("error in %, one scale", fontsize=NOTE)
    bar.ax.tick_params(labelsize=NOTE)
    style.head(figure, title, LABEL + 1)
    return figure


def compared_figure(
    by_kind: Mapping[str, NDArray],
    intervals: Mapping[str, Sequence[Interval]],
    *,
    kinds: Sequence[str],
    setting: str,
) -> Figure:
    """Mean error over the severities, in shares (networks, kinds) by group.

    A bar is the mean of a group, a line its interval, a dot a network.
    """
    figure = style.new_figure(9.2, 3.6)
    ax = figure.add_subplot()
    width = 0.8 / len(by_kind)
    for i, (title, table) in enumerate(by_kind.items()):
        places = np.arange(len(kinds)) + (i - (len(by_kind) - 1) / 2) * width
        colour = COLOURS[i % len(COLOURS)]
        ax.bar(
            places, 100 * table.mean(0), 0.9 * width, color=colour, alpha=0.75, label=title,
            hatch=HATCHES[i % len(HATCHES)], edgecolor="white", linewidth=0,
        )  # fmt: skip
        low, high = (
            np.clip([getattr(x, end) for x in intervals[title]], 0, 1) for end in ("low", "high")
        )
        ax.vlines(places, 100 * low, 100 * high, color="0.35", lw=0.9)
        for row in table:
            ax.plot(places, 100 * row, "o", color="black", ms=1.8)
    ax.set_xticks(range(len(kinds)), kinds, fontsize=LABEL)
    ax.set_ylabel("error in %", fontsize=LABEL)
    ax.tick_params(labelsize=NOTE)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, fontsize=NOTE, frameon=False)
    style.head(
        figure,
        "Errors on spoiled digits, mean over five severities; dot: network; line: 95 % interval\n"
        f"{setting}",
        LABEL + 1,
    )
    return figure
