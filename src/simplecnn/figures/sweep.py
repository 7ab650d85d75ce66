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

PANEL_WIDTH, PANEL_HEIGHT = 3.6, 3.0
TITLE_SIZE, LABEL_SIZE, NOTE_SIZE = 10, 9, 7.5
MOST_LINES = 6  # of one panel: more values of the other parameter are dots alone
COLOURS = ("#1b6ca8", "#c8553d", "#3f8f4f", "#7d5ba6", "#b8860b", "#4d4d4d")
FAILED = "#b2182b"


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
    names = list(parameters)
    beside = len(names) == 1  # one parameter: its panel and the curves share a row
    num_in_a_row = 2 if beside else (3 if len(names) in (3, 5, 6) or len(names) > 8 else 2)
    num_rows = 0 if beside else math.ceil(len(names) / num_in_a_row)
    many = len(names) >= 3
    heights = [PANEL_HEIGHT] * num_rows + ([PANEL_HEIGHT + 0.3] if many else []) + [PANEL_HEIGHT]
    width = PANEL_WIDTH * num_in_a_row + (1.2 if len(names) < 3 else 0)
    figure = style.new_figure(width, sum(heights) + 0.5)
    grid = figure.add_gridspec(len(heights), num_in_a_row, height_ratios=heights)
    num_failed = int(np.isnan(values).sum())
    failed = f", {num_failed} without a result (crosses)" if num_failed else ""
    figure.suptitle(f"{len(values)} jobs{failed}", fontsize=TITLE_SIZE + 1)
    for i, name in enumerate(names):
        ax = figure.add_subplot(grid[i // num_in_a_row, i % num_in_a_row])
        other = names[1 - i] if len(names) == 2 else None
        _against(ax, name, parameters[name], values, (other, parameters[other]) if other else None)
        ax.set_ylabel(metric, fontsize=LABEL_SIZE)
    if many:
        _parallel(
            figure.add_subplot(grid[num_rows, :]), parameters, values, metric, larger_is_better
        )
    _curves(
        figure.add_subplot(grid[len(heights) - 1, 1 if beside else slice(None)]),
        curves,
        curve_metric,
    )
    return figure


def _against(
    ax: Axes,
    name: str,
    settings: Sequence[Any],
    values: NDArray[Any],
    other: tuple[str, Sequence[Any]] | None,
) -> None:
    """One parameter: a dot a job, a line along each value of the other parameter or the mean."""
    places, ticks = _places(settings)
    _scale_axis(ax, places, ticks)
    good = np.isfinite(values)
    lines = _distinct(other[1]) if other else []
    if other and 1 < len(lines) <= MOST_LINES:
        for colour, setting in zip(COLOURS, lines, strict=False):
            here = good & np.array([s == setting for s in other[1]])
            if not here.any():
                continue
            _mean_line(ax, places[here], values[here], colour, f"{other[0]} {_text(setting)}")
            ax.plot(places[here], values[here], "o", color=colour, markersize=4)
        ax.legend(fontsize=NOTE_SIZE, framealpha=0.8)
    else:
        ax.plot(places[good], values[good], "o", color=COLOURS[0], markersize=4, alpha=0.75)
        few = len(np.unique(places[good])) <= len(places[good]) / 2 or len(places) <= 8
        if few and name != "seed":  # seeds have no order
            _mean_line(ax, places[good], values[good], COLOURS[0], "mean")
    if not good.all() and good.any():
        low, high = ax.get_ylim()
        ax.set_ylim(low - 0.08 * (high - low), high)
        floor = np.full((~good).sum(), ax.get_ylim()[0] + 0.03 * (high - low))
        ax.plot(places[~good], floor, "x", color=FAILED, markersize=6, clip_on=False)
    ax.set_xlabel(name, fontsize=LABEL_SIZE)
    ax.tick_params(labelsize=NOTE_SIZE + 0.5)
    ax.grid(axis="y", color="#e0e0e0", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _mean_line(
    ax: Axes, places: NDArray[Any], values: NDArray[Any], colour: str, label: str
) -> None:
    where = np.unique(places)
    means = [values[places == place].mean() for place in where]
    ax.plot(where, means, "-", color=colour, linewidth=1.2, alpha=0.8, label=label)


def _parallel(
    ax: Axes,
    parameters: Mapping[str, Sequence[Any]],
    values: NDArray[Any],
    metric: str,
    larger_is_better: bool,
) -> None:
    """Each job a line over an axis a parameter, in the colour of its result."""
    good = np.flatnonzero(np.isfinite(values))
    columns = []
    for x, settings in enumerate(parameters.values()):
        places, ticks = _places(settings)
        logarithmic = _is_logarithmic(places, ticks)
        scaled, scale = _to_unit(places, logarithmic=logarithmic)
        columns.append(scaled)
        shown = ticks or [(p, _text(p)) for p in _few(np.unique(places), logarithmic=logarithmic)]
        ax.axvline(x, color="#808080", linewidth=0.8)
        for place, text in shown:
            ax.annotate(
                text, (x, float(scale(place))), (-4, 0), textcoords="offset points", ha="right",
                va="center", fontsize=NOTE_SIZE,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.8},
            )  # fmt: skip
    results, scale = _to_unit(np.where(np.isfinite(values), values, np.nan), logarithmic=False)
    columns.append(results)
    table = np.stack(columns, axis=1)
    last = len(columns) - 1
    found = values[good]
    norm = Normalize(found.min(), found.max() if found.max() > found.min() else found.min() + 1)
    colours = matplotlib.colormaps[style.POSITIVE]
    order = good[np.argsort(values[good] if larger_is_better else -values[good])]
    for i in order:  # the best on top
        ax.plot(range(last + 1), table[i], color=colours(norm(values[i])), linewidth=1.4, alpha=0.8)
    ax.axvline(last, color="#808080", linewidth=0.8)
    for value in _few(np.unique(found)):
        ax.annotate(
            f"{value:.4g}", (last, float(scale(value))), (5, 0), textcoords="offset points",
            va="center", fontsize=NOTE_SIZE,
        )  # fmt: skip
    ax.set_xticks(range(last + 1), [*parameters, metric], fontsize=LABEL_SIZE)
    ax.set_xlim(-0.35, last + 0.2)
    ax.set_ylim(-0.06, 1.06)
    ax.set_yticks([])
    ax.spines[["top", "right", "left", "bottom"]].set_visible(False)
    ax.tick_params(length=0)
    ax.set_title("Which values came together: a line a job, coloured by its result",
                 fontsize=TITLE_SIZE)  # fmt: skip


def _curves(ax: Axes, curves: Sequence[Curve], metric: str) -> None:
    ax.set_title(f"Learning curves of the best {len(curves)}" if len(curves) > 1
                 else "Learning curve", fontsize=TITLE_SIZE)  # fmt: skip
    for colour, curve in zip(COLOURS, curves, strict=False):
        ax.plot(
            curve.epochs, curve.values, ".-", color=colour, linewidth=1.3, markersize=5,
            label=curve.label,
        )  # fmt: skip
    ax.set_xlabel("epoch", fontsize=LABEL_SIZE)
    ax.set_ylabel(metric, fontsize=LABEL_SIZE)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.tick_params(labelsize=NOTE_SIZE + 0.5)
    ax.grid(color="#e0e0e0", linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    if curves:
        ax.legend(fontsize=NOTE_SIZE, framealpha=0.8)
    else:
        ax.text(0.5, 0.5, "no metrics.csv: the jobs logged nothing", ha="center", va="center",
                transform=ax.transAxes, fontsize=LABEL_SIZE)  # fmt: skip


def _places(settings: Sequence[Any]) -> tuple[NDArray[Any], list[tuple[float, str]]]:
    """Where each setting stands on an axis, and the named places where it is not of numbers."""
    if all(isinstance(s, int | float) and not isinstance(s, bool) for s in settings):
        return np.asarray(settings, dtype=float), []
    names = _distinct(settings)
    return (
        np.array([names.index(s) for s in settings], dtype=float),
        [(float(i), _text(name)) for i, name in enumerate(names)],
    )


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
    """Whether numbers are better told apart by their ratios."""
    if ticks or places.min() <= 0:
        return False
    distinct = np.unique(places)
    steps = np.diff(distinct)
    return distinct[-1] / distinct[0] >= 8 or (
        len(distinct) > 2 and distinct[-1] / distinct[0] >= 3 and steps[-1] > 1.5 * steps[0]
    )


def _to_unit(places: NDArray[Any], *, logarithmic: bool) -> tuple[NDArray[Any], Any]:
    """Places from 0 to 1, and the function that brings others there."""
    change = np.log if logarithmic else np.asarray
    low, high = np.nanmin(change(places)), np.nanmax(change(places))

    def scale(place: Any) -> Any:
        return (change(place) - low) / (high - low) if high > low else 0.5 + 0 * change(place)

    return scale(places), scale


def _few(values: NDArray[Any], most: int = 6, *, logarithmic: bool = False) -> list[float]:
    """Sorted values to write on an axis: themselves, or a few between the first and the last."""
    if len(values) > most:
        between = np.geomspace if logarithmic else np.linspace
        values = between(values[0], values[-1], 5)
    return [float(v) for v in values]


def _distinct(settings: Sequence[Any]) -> list[Any]:
    found = list(dict.fromkeys(settings))
    numbers = all(isinstance(s, int | float) for s in found)
    return sorted(found) if numbers else found


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
