"""Networks side by side: a bar or a dot for each mean, its interval, and a dot a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.style import COLORS, NOTE

FLOOR = 1e-8  # of a logarithmic axis: below the rounding of float32
HATCHES = ("", "/////", ".....", "xxxxx")  # of bars, which tell them apart in gray as well


@dataclass(frozen=True)
class Series:
    """Values (categories, networks), NaN where there is none, and where the mean of each category
    lies with 95 % confidence: (categories,) each, NaN or None without an interval."""

    values: NDArray
    low: NDArray | None = None
    high: NDArray | None = None


@dataclass(frozen=True)
class Panel:
    """Series over the same categories.

    from_zero: bars from zero; else dots, on an axis that shows small differences.
    """

    title: str
    unit: str
    categories: Sequence[str]
    series: Mapping[str, Series]
    note: str = ""  # below the categories
    from_zero: bool = True
    logarithmic: bool = False
    top: float | None = None


def comparison_figure(panels: Sequence[Panel], *, title: str) -> Figure:
    """Panels side by side, each as wide as it has categories."""
    widths = [min(8.5, max(3.0, 0.8 + 0.24 * len(p.categories) * len(p.series))) for p in panels]
    figure = style.new_figure(max(5.6, 0.6 + sum(widths)), 3.9)
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for ax, panel, width in zip(axes, panels, widths, strict=True):
        _draw(ax, panel)
        if sum(map(len, panel.categories)) > 14 * width:  # letters in an inch
            ax.tick_params(axis="x", rotation=35)
            for label in ax.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
    style.head(figure, title)
    return figure


def _draw(ax: Axes, panel: Panel) -> None:
    places = np.arange(len(panel.categories))
    width = 0.8 / len(panel.series)
    for i, (name, series) in enumerate(panel.series.items()):
        at = places + (i - (len(panel.series) - 1) / 2) * width
        values = np.maximum(series.values, FLOOR) if panel.logarithmic else series.values
        means = np.ma.masked_invalid(values).mean(1).filled(np.nan) if values.size else np.zeros(0)
        if panel.from_zero:
            foot = FLOOR / 3 if panel.logarithmic else 0.0
            ax.bar(
                at, means - foot, 0.9 * width, bottom=foot, color=COLORS[i % len(COLORS)],
                alpha=0.6, label=name, hatch=HATCHES[i % len(HATCHES)], edgecolor="white",
                linewidth=0,
            )  # fmt: skip
        else:
            ax.plot(at, means, "D", color=COLORS[i % len(COLORS)], ms=5, label=name)
        if series.low is not None and series.high is not None:
            ax.vlines(at, series.low, series.high, color="0.35", lw=1.0)
        for network in values.T:
            ax.plot(at, network, "o", color="black", ms=2.2, clip_on=False)
    if panel.logarithmic:
        ax.set_yscale("log")
        ax.set_ylim(FLOOR / 3, 10)
    elif panel.from_zero:
        ax.set_ylim(0, panel.top)
    ax.margins(x=0.05 if panel.from_zero else 0.15)
    if len(places) == 1:  # a bar, not a wall
        ax.set_xlim(-1.2, 1.2)
    title = panel.title + (" (0 drawn at 1e−8)" if panel.logarithmic else "")
    style.dress(ax, x=panel.note, y=panel.unit, grid="y")
    ax.set_xticks(places, panel.categories, fontsize=NOTE)
    num_rows = -(-len(panel.series) // 4) if len(panel.series) > 1 else 0  # of the legend
    ax.set_title(title, fontsize=style.LABEL, pad=8 + 12 * num_rows)
    if num_rows:
        ax.legend(
            fontsize=NOTE, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0),
            borderaxespad=0.1,
        )  # fmt: skip
