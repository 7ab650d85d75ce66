"""Corrupted example images beside the error rates that they cause."""

from collections.abc import Sequence

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.style import NOTE, SMALL


def corruption_figure(
    tiles: NDArray,
    errors: NDArray,
    *,
    kinds: Sequence[str],
    units: Sequence[str],
    amounts: Sequence[Sequence[float]],
    intervals: NDArray,
    title: str,
) -> Figure:
    """Draw one row per kind of corruption and one column per severity, 0 to 5.

    Left: example images `tiles` (kinds, 6, C, H, W). Right: error rates `errors` (kinds, 6) in
    percent, with the ends `intervals` (2, kinds, 6) of their intervals or NaN, and the `amounts`
    (kinds, 5) of the corruption in `units`.
    """
    num_kinds, num_columns = errors.shape
    figure = style.new_figure(9.6, 0.64 * num_kinds + 0.9)
    left, right = figure.subplots(1, 2)
    height, width = tiles.shape[-2:]
    gap = max(2, width // 7)
    step_x, step_y = width + gap, height + gap
    sheet = np.ones((num_kinds * step_y, num_columns * step_x - gap, 3))
    for i, j in np.ndindex(errors.shape):
        y, x = i * step_y + gap // 2, j * step_x
        sheet[y : y + height, x : x + width] = style.image_colors(tiles[i, j])
    left.imshow(sheet, interpolation="nearest")
    rows = [f"{k}\n{u}" for k, u in zip(kinds, units, strict=True)]
    left.set_yticks([(i + 0.5) * step_y for i in range(num_kinds)], rows, fontsize=NOTE)
    names = ["original", "severity 1", *map(str, range(2, num_columns))]
    left.set_xticks([j * step_x + width / 2 for j in range(num_columns)], names, fontsize=NOTE)
    left.spines[:].set_visible(False)
    scale = Normalize(0, 100)
    style.tile(right, errors, style.POSITIVE, scale)
    right.set_aspect("auto")
    right.set_box_aspect(sheet.shape[0] / sheet.shape[1])  # align its rows with those on the left
    right.set_xticks(range(num_columns), names, fontsize=NOTE)
    size = NOTE if np.isnan(intervals).all() else SMALL
    for (i, j), error in np.ndenumerate(errors):
        low, high = intervals[:, i, j]
        interval = "" if np.isnan(low) else f" [{low:.0f}, {high:.0f}]"
        below = f"\nat {amounts[i][j - 1]:g}" if j else ""
        right.text(
            j, i, f"{error:.1f}{interval}{below}", ha="center", va="center", fontsize=size,
            color="black" if error > 60 else "white",
        )  # fmt: skip
    for ax in (left, right):
        ax.tick_params(length=0)
        ax.xaxis.tick_top()
    style.color_bar(figure, [left, right], style.POSITIVE, scale, "error rate in %")
    style.add_title(figure, title)
    return figure
