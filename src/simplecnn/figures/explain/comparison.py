"""Compare networks: the mean of each category, its interval, and one dot per network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.style import COLORS, NOTE

FLOOR = 1e-8  # of a logarithmic axis: below the rounding of float32
HATCHES = ("", "/////", ".....", "xxxxx")  # so that bars also differ in gray


@dataclass(frozen=True)
class Series:
    """Values (categories, networks), NaN where missing, and the 95 % interval of each category's
    mean from `low` to `high`, (categories,) each, NaN or None without an interval."""

    values: NDArray
    low: NDArray | None = None
    high: NDArray | None = None


@dataclass(frozen=True)
class Panel:
    """One chart: series over the same categories.

    `from_zero` draws means as bars from zero, otherwise as diamonds on an axis fitted to the data,
    which shows small differences.
    """

    title: str
    unit: str
    categories: Sequence[str]
    series: Mapping[str, Series]
    note: str = ""  # label of the category axis
    from_zero: bool = True
    logarithmic: bool = False
    top: float | None = None  # end of the value axis


def comparison_figure(panels: Sequence[Panel], *, title: str) -> Figure:
    """Draw panels side by side, with widths in proportion to their bars."""
    widths = [min(8.5, max(3.0, 0.8 + 0.24 * len(p.categories) * len(p.series))) for p in panels]
    figure = style.new_figure(max(5.6, 0.6 + sum(widths)), 3.9)
    axes = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for ax, panel, width in zip(axes, panels, widths, strict=True):
        _draw(ax, panel, int(13 * (width - 0.5)))  # about 13 characters per inch
        if sum(map(len, panel.categories)) > 14 * width:  # about 14 characters per inch
            ax.tick_params(axis="x", rotation=35)
            for label in ax.get_xticklabels():
                label.set(ha="right", rotation_mode="anchor")
    style.add_title(figure, title)
    return figure


def _draw(ax: Axes, panel: Panel, title_width: int) -> None:
    categories = np.arange(len(panel.categories))
    width = 0.8 / len(panel.series)
    for i, (name, series) in enumerate(panel.series.items()):
        x = categories + (i - (len(panel.series) - 1) / 2) * width
        values = np.maximum(series.values, FLOOR) if panel.logarithmic else series.values
        means = np.ma.masked_invalid(values).mean(1).filled(np.nan) if values.size else np.zeros(0)
        if panel.from_zero:
            bottom = FLOOR / 3 if panel.logarithmic else 0.0
            ax.bar(
                x, means - bottom, 0.9 * width, bottom=bottom, color=COLORS[i % len(COLORS)],
                alpha=0.6, label=name, hatch=HATCHES[i % len(HATCHES)], edgecolor="white",
                linewidth=0,
            )  # fmt: skip
        else:
            ax.plot(x, means, "D", color=COLORS[i % len(COLORS)], ms=5, label=name)
        if series.low is not None and series.high is not None:
            ax.vlines(x, series.low, series.high, color="0.35", lw=1.0)
        for network in values.T:
            ax.plot(x, network, "o", color="black", ms=2.2, clip_on=False)
    if panel.logarithmic:
        ax.set_yscale("log")
        ax.set_ylim(FLOOR / 3, 10)
    elif panel.from_zero:
        ax.set_ylim(0, panel.top)
    ax.margins(x=0.05 if panel.from_zero else 0.15)
    if len(categories) == 1:  # a single bar would fill the panel
        ax.set_xlim(-1.2, 1.2)
    title = panel.title + (" (0 is drawn at 1e−8)" if panel.logarithmic else "")
    style.style_axes(ax, x=panel.note, y=panel.unit, grid="y")
    ax.set_xticks(categories, panel.categories, fontsize=NOTE)
    num_rows = -(-len(panel.series) // 4) if len(panel.series) > 1 else 0  # rows of the legend
    ax.set_title(style.wrap(title, title_width), fontsize=style.LABEL, pad=8 + 12 * num_rows)
    if num_rows:
        ax.legend(
            fontsize=NOTE, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0),
            borderaxespad=0.1,
        )  # fmt: skip
