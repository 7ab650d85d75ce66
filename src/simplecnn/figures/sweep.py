"""Results of a sweep against its parameters, and the learning curves of its best runs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.raster import short_name

PANEL_WIDTH, PANEL_HEIGHT = 3.6, 3.0  # inches
LINES = tuple(zip(style.COLORS, "os^Dv*", strict=True))  # the markers also work in gray
# An axis with more distinct values, or nearer ones, is labeled with round numbers instead.
MAX_TICKS, MIN_GAP = 6, 0.08  # as a fraction of the axis
MAX_LABELS = 8  # of more categories, only every second, third, … is labeled


class _Scale:
    """An axis for the values of one parameter: `positions` (jobs,), and labeled `ticks`.

    Numbers are their own positions; categories are numbered in order of appearance.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        self.distinct = list(dict.fromkeys(values))
        if not all(isinstance(value, int | float) for value in values):
            self.positions = np.array([self.distinct.index(value) for value in values], float)
            self.is_logarithmic = False
            named = [(float(i), _text(value)) for i, value in enumerate(self.distinct)]
            self.ticks = named[:: math.ceil(len(named) / MAX_LABELS)]
            return
        self.positions = np.array(values, float)
        ticks = self.distinct = sorted(value for value in self.distinct if math.isfinite(value))
        low, high = ticks[0], ticks[-1]
        # Logarithmic if the median is nearer to the geometric than to the arithmetic mean of the
        # ends.
        is_wide = low > 0 and high >= 3 * low
        self.is_logarithmic = bool(
            is_wide and np.median(ticks) ** 2 < math.sqrt(low * high) * (low + high) / 2
        )
        if len(ticks) > MAX_TICKS or (np.diff(self.fraction(np.array(ticks))) < MIN_GAP).any():
            linear, logarithmic = MaxNLocator(MAX_TICKS, steps=style.ROUND), LogLocator(subs=(1, 3))
            locator = logarithmic if self.is_logarithmic else linear
            ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
        self.ticks = [(tick, _text(tick)) for tick in ticks]

    def fraction(self, position: Any) -> Any:
        """Map a position to a fraction of the axis, from 0 to 1."""
        transform = np.log if self.is_logarithmic else np.asarray
        low, high = np.nanmin(transform(self.positions)), np.nanmax(transform(self.positions))
        return (transform(position) - low) / (high - low) if high > low else 0.5 + 0.0 * position


def sweep_figure(
    parameters: Mapping[str, Sequence[Any]],
    results: Sequence[float],
    curves: Mapping[str, Sequence[tuple[int, float]]],
    *,
    metric: str,
    curve_metric: str,
    larger_is_better: bool = True,
) -> Figure:
    """Draw the metric against each varied parameter, and the learning curves of the best runs.

    From three parameters on, parallel coordinates show how their values were combined.

    Args:
        parameters: the values, numbers or strings, of each varied parameter in all jobs.
        results: the metric of each job; NaN if the job failed.
        curves: learning curves of the best jobs, by label: pairs of epoch (from 1) and value.
        metric, curve_metric: axis labels of `results` and `curves`.
    """
    values = np.asarray(results, dtype=float)
    scales = {name: _Scale(settings) for name, settings in parameters.items()}
    num_columns = min(3, max(2, len(scales)))
    is_single = len(scales) == 1  # its panel and the curves share a row
    num_panel_rows = math.ceil(len(scales) / num_columns)
    num_rows = num_panel_rows + (len(scales) > 2) + (not is_single)
    figure = style.new_figure(PANEL_WIDTH * num_columns + 0.6, PANEL_HEIGHT * num_rows + 0.5)
    grid = figure.add_gridspec(num_rows, num_columns)
    num_failed = int(np.isnan(values).sum())
    failed = f", {num_failed} without a result (crosses)" if num_failed else ""
    for i, name in enumerate(scales):
        ax = figure.add_subplot(grid[i // num_columns, i % num_columns])
        others = [other for other in scales if other != name]
        style.style_axes(ax, x=name, y=metric, grid="y")
        _draw_parameter(ax, name, scales, values, other=others[0] if len(others) == 1 else None)
    if len(scales) > 2:
        ax = figure.add_subplot(grid[num_panel_rows, :])
        _draw_parallel(ax, scales, values, metric, larger_is_better)
    curves_column = 1 if is_single else slice(None)
    _draw_curves(figure.add_subplot(grid[-1, curves_column]), curves, curve_metric)
    style.add_title(figure, f"{len(values)} jobs{failed}")
    return figure


def _draw_parameter(
    ax: Axes, name: str, scales: Mapping[str, _Scale], values: NDArray, *, other: str | None
) -> None:
    """Draw a dot per job, and a line through the means: one for each value of the `other`
    parameter, or one for all jobs."""
    scale = scales[name]
    positions, is_valid = scale.positions, np.isfinite(values)
    if scale.is_logarithmic:
        ax.set_xscale("log")
    is_crowded = sum(len(text) for _, text in scale.ticks) > 34
    ax.set_xticks([tick for tick, _ in scale.ticks], [text for _, text in scale.ticks],
                  rotation=20 if is_crowded else 0,
                  ha="right" if is_crowded else "center")  # fmt: skip
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=style.ROUND))
    ax.margins(x=0.12)
    groups = [("mean", LINES[0], is_valid)]
    if other and len(scales[other].distinct) <= len(LINES):
        axis = scales[other]
        groups = [
            (f"{other} {_text(value)}", line, is_valid & (axis.positions == position))
            for line, value, position in zip(
                LINES, axis.distinct, np.unique(axis.positions), strict=False
            )
        ]
    for label, (color, marker), chosen in groups:
        x, y = positions[chosen], values[chosen]
        is_mean = label == "mean"
        dots_label, line_label = (None, label) if is_mean else (label, None)
        ax.plot(x, y, marker, color=color, markersize=4, alpha=0.75, label=dots_label)
        unique = np.unique(x)
        is_repeated = 1 < len(unique) <= max(8, len(x) / 2)
        if len(scales) > 1:  # else a line through single jobs, which differ in more than this
            is_repeated &= len(unique) < len(x)
        if not is_mean or (is_repeated and name != "seed"):  # seeds have no order
            means = [y[x == position].mean() for position in unique]
            ax.plot(unique, means, "-", color=color, linewidth=1.2, alpha=0.8, label=line_label)
    if not is_valid.all():  # crosses below the worst result
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.08 * (high - low), high)
        floor = np.full((~is_valid).sum(), low - 0.05 * (high - low))
        ax.plot(positions[~is_valid], floor, "x", color=style.WRONG, markersize=6, clip_on=False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=style.NOTE, framealpha=0.8)


def _draw_parallel(
    ax: Axes,
    scales: Mapping[str, _Scale],
    values: NDArray,
    metric: str,
    larger_is_better: bool,
) -> None:
    """Draw parallel coordinates: a line per job, an axis per parameter and one for the result."""
    valid = np.flatnonzero(np.isfinite(values))
    columns = {**scales, metric: _Scale(values.tolist())}
    for x, scale in enumerate(columns.values()):
        ax.axvline(x, color=style.FAINT, linewidth=0.8)
        is_result = x == len(scales)
        for tick, text in scale.ticks:
            ax.annotate(
                text, (x, scale.fraction(tick)), (5 if is_result else -4, 0),
                textcoords="offset points", ha="left" if is_result else "right", va="center",
                fontsize=style.NOTE,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
            )  # fmt: skip
    low, high = values[valid].min(), values[valid].max()
    norm = Normalize(low, max(high, low + 1e-9))
    colors = matplotlib.colormaps[style.POSITIVE]
    lines = np.stack([scale.fraction(scale.positions) for scale in columns.values()], axis=1)
    for i in valid[np.argsort(values[valid] if larger_is_better else -values[valid])]:
        ax.plot(lines[i], color=colors(norm(values[i])), linewidth=1.4, alpha=0.8)  # best on top
    ax.set_xticks(range(len(columns)), list(columns), fontsize=style.LABEL)
    ax.set_xlim(-0.35, len(scales) + 0.2)
    ax.set_ylim(-0.06, 1.06)
    ax.set_yticks([])
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)
    title = "Combinations of values: one line per job, colored by its result"
    ax.set_title(title, fontsize=style.LABEL)


def _draw_curves(ax: Axes, curves: Mapping[str, Sequence[tuple[int, float]]], metric: str) -> None:
    title = f"Learning curves of the best {len(curves)}" if len(curves) > 1 else "Learning curve"
    style.style_axes(ax, title=title, x="epoch", y=metric, grid="both")
    for (color, marker), (label, points) in zip(LINES, curves.items(), strict=False):
        ax.plot(*zip(*points, strict=True), f"{marker}-", color=color, linewidth=1.3,
                markersize=3.5, label=label)  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if curves:
        ax.legend(fontsize=style.NOTE, framealpha=0.8)
    else:
        ax.text(0.5, 0.5, "no metrics.csv: the jobs logged no metrics", ha="center", va="center",
                transform=ax.transAxes, fontsize=style.LABEL)  # fmt: skip


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else short_name(str(value))
