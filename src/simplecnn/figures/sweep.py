"""What the values of a sweep have to do with its results, and how its best runs learned."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
LINES = tuple(zip(style.COLORS, "os^Dv*", strict=True))  # colors, and marks for who sees none
MAX_TICKS = 6  # of an axis that names its values; more values get round numbers


@dataclass(frozen=True)
class Curve:
    """How one run learned: its label, epochs from 1, and the metric after each."""

    label: str
    epochs: Sequence[int]
    values: Sequence[float]


class _Scale:
    """Where values stand on an axis, (jobs,) `places`, and which `ticks` name them."""

    def __init__(self, values: Sequence[Any]) -> None:
        self.distinct = list(dict.fromkeys(values))
        if not all(isinstance(value, int | float) for value in values):  # as they were typed
            self.places = np.array([self.distinct.index(value) for value in values], float)
            self.is_logarithmic = False
            self.ticks = [(float(i), _text(value)) for i, value in enumerate(self.distinct)]
            return
        self.places = np.array(values, float)
        at = self.distinct = sorted(value for value in self.distinct if math.isfinite(value))
        low, high = at[0], at[-1]
        # Logarithmic where the median is nearer to the geometric mean of the ends than to the mean.
        is_wide = low > 0 and high >= 3 * low
        self.is_logarithmic = bool(
            is_wide and np.median(at) ** 2 < math.sqrt(low * high) * (low + high) / 2
        )
        if len(at) > MAX_TICKS:
            linear, logarithmic = MaxNLocator(MAX_TICKS, steps=style.ROUND), LogLocator(subs=(1, 3))
            locator = logarithmic if self.is_logarithmic else linear
            at = [place for place in locator.tick_values(low, high) if low <= place <= high]
        self.ticks = [(place, _text(place)) for place in at]

    def share(self, place: Any) -> Any:
        """How far along the axis a place is, from 0 to 1."""
        change = np.log if self.is_logarithmic else np.asarray
        low, high = np.nanmin(change(self.places)), np.nanmax(change(self.places))
        return (change(place) - low) / (high - low) if high > low else 0.5 + 0.0 * place


def sweep_figure(
    parameters: Mapping[str, Sequence[Any]],
    results: Sequence[float],
    curves: Sequence[Curve],
    *,
    metric: str,
    curve_metric: str,
    larger_is_better: bool = True,
) -> Figure:
    """The metric against each varied parameter, and the learning curves of the best runs.

    parameters: for each that varied, its value in each job, numbers or texts.
    results: the metric of each job; nan where a job has none (it failed).
    From three parameters on, parallel coordinates show which values came together.
    """
    values = np.asarray(results, dtype=float)
    scales = {name: _Scale(settings) for name, settings in parameters.items()}
    num_columns = min(3, max(2, len(scales)))
    one = len(scales) == 1  # its panel and the curves share a row
    num_rows = math.ceil(len(scales) / num_columns)
    num_all = num_rows + (len(scales) > 2) + (not one)
    figure = style.new_figure(PANEL_WIDTH * num_columns + 0.6, PANEL_HEIGHT * num_all + 0.5)
    grid = figure.add_gridspec(num_all, num_columns)
    num_failed = int(np.isnan(values).sum())
    failed = f", {num_failed} without a result (crosses)" if num_failed else ""
    for i, name in enumerate(scales):
        ax = figure.add_subplot(grid[i // num_columns, i % num_columns])
        others = [other for other in scales if other != name]
        style.dress(ax, x=name, y=metric, grid="y")
        _draw_parameter(ax, name, scales, values, other=others[0] if len(others) == 1 else None)
    if len(scales) > 2:
        ax = figure.add_subplot(grid[num_rows, :])
        _draw_parallel(ax, scales, values, metric, larger_is_better)
    _draw_curves(figure.add_subplot(grid[-1, 1 if one else slice(None)]), curves, curve_metric)
    style.head(figure, f"{len(values)} jobs{failed}")
    return figure


def _draw_parameter(
    ax: Axes, name: str, scales: Mapping[str, _Scale], values: NDArray, *, other: str | None
) -> None:
    """A dot per job; a line along each value of the `other` parameter, or along the mean."""
    scale = scales[name]
    places, good = scale.places, np.isfinite(values)
    if scale.is_logarithmic:
        ax.set_xscale("log")
    long = sum(len(text) for _, text in scale.ticks) > 34
    ax.set_xticks([place for place, _ in scale.ticks], [text for _, text in scale.ticks],
                  rotation=20 if long else 0, ha="right" if long else "center")  # fmt: skip
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=style.ROUND))
    ax.margins(x=0.12)
    groups = [("mean", LINES[0], good)]
    if other and len(scales[other].distinct) <= len(LINES):
        others = zip(LINES, scales[other].distinct, np.unique(scales[other].places), strict=False)
        groups = [
            (f"{other} {_text(value)}", line, good & (scales[other].places == place))
            for line, value, place in others
        ]
    for label, (color, mark), chosen in groups:
        x, y = places[chosen], values[chosen]
        is_mean = label == "mean"
        points = None if is_mean else label
        ax.plot(x, y, mark, color=color, markersize=4, alpha=0.75, label=points)
        where = np.unique(x)
        repeated = len(where) <= max(8, len(x) / 2)
        if not is_mean or (repeated and name != "seed"):  # seeds have no order
            means = [y[x == place].mean() for place in where]
            mean = label if is_mean else None
            ax.plot(where, means, "-", color=color, linewidth=1.2, alpha=0.8, label=mean)
    if not good.all():  # below the worst result
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.08 * (high - low), high)
        floor = np.full((~good).sum(), low - 0.05 * (high - low))
        ax.plot(places[~good], floor, "x", color=style.WRONG, markersize=6, clip_on=False)
    if ax.get_legend_handles_labels()[0]:
        ax.legend(fontsize=style.NOTE, framealpha=0.8)


def _draw_parallel(
    ax: Axes,
    scales: Mapping[str, _Scale],
    values: NDArray,
    metric: str,
    larger_is_better: bool,
) -> None:
    """A line per job, colored by its result, over an axis per parameter and one for the results."""
    good = np.flatnonzero(np.isfinite(values))
    columns = {**scales, metric: _Scale(values.tolist())}
    for x, scale in enumerate(columns.values()):
        ax.axvline(x, color=style.FAINT, linewidth=0.8)
        is_result = x == len(scales)
        for place, text in scale.ticks:
            ax.annotate(
                text, (x, scale.share(place)), (5 if is_result else -4, 0),
                textcoords="offset points", ha="left" if is_result else "right", va="center",
                fontsize=style.NOTE,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
            )  # fmt: skip
    norm = Normalize(values[good].min(), max(values[good].max(), values[good].min() + 1e-9))
    colors = matplotlib.colormaps[style.POSITIVE]
    lines = np.stack([scale.share(scale.places) for scale in columns.values()], axis=1)
    for i in good[np.argsort(values[good] if larger_is_better else -values[good])]:
        ax.plot(lines[i], color=colors(norm(values[i])), linewidth=1.4, alpha=0.8)  # best on top
    ax.set_xticks(range(len(columns)), list(columns), fontsize=style.LABEL)
    ax.set_xlim(-0.35, len(scales) + 0.2)
    ax.set_ylim(-0.06, 1.06)
    ax.set_yticks([])
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)
    title = "Which values came together: one line per job, colored by its result"
    ax.set_title(title, fontsize=style.LABEL)


def _draw_curves(ax: Axes, curves: Sequence[Curve], metric: str) -> None:
    title = f"Learning curves of the best {len(curves)}" if len(curves) > 1 else "Learning curve"
    style.dress(ax, title=title, x="epoch", y=metric, grid="both")
    for (color, mark), curve in zip(LINES, curves, strict=False):
        ax.plot(curve.epochs, curve.values, f"{mark}-", color=color, linewidth=1.3, markersize=3.5,
                label=curve.label)  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if curves:
        ax.legend(fontsize=style.NOTE, framealpha=0.8)
    else:
        ax.text(0.5, 0.5, "no metrics.csv: the jobs logged nothing", ha="center", va="center",
                transform=ax.transAxes, fontsize=style.LABEL)  # fmt: skip


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else short_name(str(value))
