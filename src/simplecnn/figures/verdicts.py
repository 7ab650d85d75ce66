"""The measurements behind a verdict: a dot for each network, a bar for their mean."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.receptive_field import COLOURS

LABEL, NOTE = 8.5, 7  # font sizes in points
FLOOR = 1e-8  # of a logarithmic axis: below the rounding of float32


@dataclass(frozen=True)
class Panel:
    """Numbers (categories, networks) by series; NaN where there is none."""

    title: str
    unit: str
    categories: Sequence[str]
    note: str
    series: Mapping[str, NDArray]
    logarithmic: bool = False
    top: float | None = None


def verdict_figure(panels: Sequence[Panel], *, title: str) -> Figure:
    """Panels side by side, each as wide as it has categories."""
    widths = [min(6.5, max(3.0, 0.8 + 0.24 * len(p.categories) * len(p.series))) for p in panels]
    figure = style.new_figure(max(5.6, 0.6 + sum(widths)), 3.9)
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for ax, panel in zip(axes, panels, strict=True):
        _draw(ax, panel)
    style.head(figure, title, LABEL)
    return figure


def _draw(ax: Axes, panel: Panel) -> None:
    places = np.arange(len(panel.categories))
    width = 0.8 / len(panel.series)
    for i, (name, table) in enumerate(panel.series.items()):
        at = places + (i - (len(panel.series) - 1) / 2) * width
        numbers = np.maximum(table, FLOOR) if panel.logarithmic else table
        colour = (COLOURS[0], COLOURS[5])[i % 2]
        foot = FLOOR / 3 if panel.logarithmic else 0.0
        means = numbers.mean(1) if numbers.size else np.zeros(0)
        ax.bar(at, means - foot, 0.9 * width, bottom=foot, color=colour, alpha=0.55, label=name)
        for network in numbers.T:
            ax.plot(at, network, "o", color="black", ms=2.2, clip_on=False)
    if panel.logarithmic:
        ax.set_yscale("log")
        ax.set_ylim(FLOOR / 3, 10)
    else:
        ax.set_ylim(0, panel.top)
    if len(places) == 1:  # a bar, not a wall
        ax.set_xlim(-1.2, 1.2)
    title = panel.title + (" (0 drawn at 1e-8)" if panel.logarithmic else "")
    ax.set_title(title, fontsize=LABEL, pad=20)
    crowded = sum(map(len, panel.categories)) > 40
    ax.set_xticks(places, panel.categories, fontsize=NOTE, rotation=60 if crowded else 0)
    ax.set_ylabel(panel.unit, fontsize=LABEL)
    ax.set_xlabel(panel.note, fontsize=NOTE)
    ax.tick_params(labelsize=NOTE)
    ax.spines[["top", "right"]].set_visible(False)
    if len(panel.series) > 1:
        ax.legend(
            fontsize=NOTE, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0),
            borderaxespad=0.1,
        )  # fmt: skip
