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
from matplotlib.ticker import MaxNLocator, NullLocator
from numpy.typing import NDArray

from simplecnn.figures import style

PANEL_WIDTH, PANEL_HEIGHT = 3.6, 3.0  # inches
MAX_LINES = 6  # in one panel: more values of the other parameter are dots only


@dataclass(frozen=True)
class Curve:
    """How one run learned: its label, epochs from 1, and the metric after each."""

    label: str
    epochs: Sequence[int]
    values: Sequence[float]


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
    num_columns = min(3, max(2, len(parameters)))
    one = len(parameters) == 1  # its panel and the curves share a row
    num_rows = math.ceil(len(parameters) / num_columns)
    heights = [PANEL_HEIGHT] * (num_rows + (len(parameters) > 2) + (not one))
    figure = style.new_figure(PANEL_WIDTH * num_columns + 0.6, sum(heights) + 0.5)
    grid = figure.add_gridspec(len(heights), num_columns)
    num_failed = int(np.isnan(values).sum())
    failed = f", {num_failed} without a result (crosses)" if num_failed else ""
    style.head(figure, f"{len(values)} jobs{failed}")
    for i, name in enumerate(parameters):
        ax = figure.add_subplot(grid[i // num_columns, i % num_columns])
        others = [other for other in parameters if other != name] if len(parameters) == 2 else []
        style.dress(ax, x=name, y=metric, grid="y")
        _draw_parameter(ax, name, parameters, values, other=others[0] if others else None)
    if len(parameters) > 2:
        ax = figure.add_subplot(grid[num_rows, :])
        _draw_parallel(ax, parameters, values, metric, larger_is_better)
    _draw_curves(figure.add_subplot(grid[-1, 1 if one else slice(None)]), curves, curve_metric)
    return figure


def _draw_parameter(
    ax: Axes,
    name: str,
    parameters: Mapping[str, Sequence[Any]],
    values: NDArray[Any],
    *,
    other: str | None,
) -> None:
    """A dot a job; a line along each value of the `other` parameter, or along the mean."""
    places, ticks = _places(parameters[name])
    _scale_axis(ax, places, ticks)
    good = np.isfinite(values)
    lines = _distinct(parameters[other]) if other else []
    if other and len(lines) <= MAX_LINES:
        for color, setting in zip(style.COLORS, lines, strict=False):
            chosen = good & np.array([s == setting for s in parameters[other]])
            ax.plot(places[chosen], values[chosen], "o", color=color, markersize=4)
            _draw_mean(ax, places[chosen], values[chosen], color, f"{other} {_text(setting)}")
        ax.legend(fontsize=style.NOTE, framealpha=0.8)
    else:
        ax.plot(places[good], values[good], "o", color=style.COLORS[0], markersize=4, alpha=0.75)
        repeated = len(np.unique(places[good])) <= max(8, len(places) / 2)
        if repeated and name != "seed":  # seeds have no order
            _draw_mean(ax, places[good], values[good], style.COLORS[0], "mean")
    if not good.all():  # below the worst result
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.08 * (high - low), high)
        floor = np.full((~good).sum(), low - 0.05 * (high - low))
        ax.plot(places[~good], floor, "x", color=style.WRONG, markersize=6, clip_on=False)


def _draw_mean(
    ax: Axes, places: NDArray[Any], values: NDArray[Any], color: str, label: str
) -> None:
    where = np.unique(places)
    means = [values[places == place].mean() for place in where]
    ax.plot(where, means, "-", color=color, linewidth=1.2, alpha=0.8, label=label)


def _draw_parallel(
    ax: Axes,
    parameters: Mapping[str, Sequence[Any]],
    values: NDArray[Any],
    metric: str,
    larger_is_better: bool,
) -> None:
    """Each job a line over an axis a parameter and one of the results, in the color of its own."""
    good = np.flatnonzero(np.isfinite(values))
    axes = [_places(settings) for settings in parameters.values()]
    axes.append((values, []))
    columns = []
    for x, (places, ticks) in enumerate(axes):
        is_result = x == len(parameters)
        logarithmic = not is_result and _is_logarithmic(places, ticks)
        change = np.log if logarithmic else np.asarray
        low, high = np.nanmin(change(places)), np.nanmax(change(places))
        span = high - low or 1.0
        columns.append((change(places) - low) / span if high > low else 0.5 + 0 * places)
        ax.axvline(x, color=style.FAINT, linewidth=0.8)
        for place, text in ticks or _few(places, logarithmic=logarithmic):
            y = float((change(place) - low) / span) if high > low else 0.5
            ax.annotate(
                text, (x, y), (5 if is_result else -4, 0), textcoords="offset points",
                ha="left" if is_result else "right", va="center", fontsize=style.NOTE,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
            )  # fmt: skip
    norm = Normalize(values[good].min(), max(values[good].max(), values[good].min() + 1e-9))
    colors = matplotlib.colormaps[style.POSITIVE]
    lines = np.stack(columns, axis=1)
    for i in good[np.argsort(values[good] if larger_is_better else -values[good])]:
        ax.plot(lines[i], color=colors(norm(values[i])), linewidth=1.4, alpha=0.8)  # best on top
    ax.set_xticks(range(len(columns)), [*parameters, metric], fontsize=style.LABEL)
    ax.set_xlim(-0.35, len(parameters) + 0.2)
    ax.set_ylim(-0.06, 1.06)
    ax.set_yticks([])
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)
    title = "Which values came together: a line a job, colored by its result"
    ax.set_title(title, fontsize=style.LABEL)


def _draw_curves(ax: Axes, curves: Sequence[Curve], metric: str) -> None:
    title = f"Learning curves of the best {len(curves)}" if len(curves) > 1 else "Learning curve"
    style.dress(ax, title=title, x="epoch", y=metric, grid="both")
    for color, curve in zip(style.COLORS, curves, strict=False):
        ax.plot(
            curve.epochs, curve.values, ".-", color=color, linewidth=1.3, markersize=5,
            label=curve.label,
        )  # fmt: skip
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if curves:
        ax.legend(fontsize=style.NOTE, framealpha=0.8)
    else:
        ax.text(0.5, 0.5, "no metrics.csv: the jobs logged nothing", ha="center", va="center",
                transform=ax.transAxes, fontsize=style.LABEL)  # fmt: skip


def _places(settings: Sequence[Any]) -> tuple[NDArray[Any], list[tuple[float, str]]]:
    """Where each setting stands on an axis, and the named places where it is not of numbers."""
    if all(isinstance(s, int | float) for s in settings):
        return np.asarray(settings, dtype=float), []
    names = _distinct(settings)
    places = np.array([names.index(s) for s in settings], dtype=float)
    return places, [(float(i), _text(name)) for i, name in enumerate(names)]


def _scale_axis(ax: Axes, places: NDArray[Any], ticks: list[tuple[float, str]]) -> None:
    shown = ticks or [(p, _text(p)) for p in np.unique(places)]
    if _is_logarithmic(places, ticks):
        ax.set_xscale("log")
    if len(shown) <= 6:
        long = sum(len(text) for _, text in shown) > 34
        ax.set_xticks([p for p, _ in shown], [t for _, t in shown], rotation=20 if long else 0,
                      ha="right" if long else "center")  # fmt: skip
        ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.12)


def _is_logarithmic(places: NDArray[Any], ticks: list[tuple[float, str]]) -> bool:
    """Whether the places are numbers that are better told apart by their ratios."""
    distinct = np.unique(places)
    if ticks or distinct[0] <= 0:
        return False
    steps = np.diff(distinct)
    ratio = distinct[-1] / distinct[0]
    return bool(ratio >= 8 or (len(steps) > 1 and ratio >= 3 and steps[-1] > 1.5 * steps[0]))


def _few(places: NDArray[Any], *, logarithmic: bool) -> list[tuple[float, str]]:
    """The numbers to write on an axis: themselves, or five between the first and the last."""
    distinct = np.unique(places[np.isfinite(places)])
    if len(distinct) > 6:
        between = np.geomspace if logarithmic else np.linspace
        distinct = between(distinct[0], distinct[-1], 5)
    return [(float(p), _text(float(p))) for p in distinct]


def _distinct(settings: Sequence[Any]) -> list[Any]:
    distinct = list(dict.fromkeys(settings))
    numbers = all(isinstance(s, int | float) for s in distinct)
    return sorted(distinct) if numbers else distinct


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
