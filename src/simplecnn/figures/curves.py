"""How a run learned: loss, accuracy and learning rate over the epochs; how its layers fared."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from simplecnn.figures.style import POSITIVE, STAGES, new_figure

TITLE_SIZE, LABEL_SIZE, NOTE_SIZE = 9, 8, 7
GRID = "#e0e0e0"
FLOOR = (
    1e-7  # gradients and changes below are not drawn: the last step of a schedule that ends at 0
)
ROUND = [1, 2, 2.5, 5, 10]  # what may lie between two numbers at an axis, times a power of ten
MOST_NAMES = 10  # in the legend of layers


def curves_figure(
    epochs: Mapping[str, NDArray],
    steps: Mapping[str, NDArray],
    *,
    steps_per_epoch: int,
    title: str = "curves",
) -> Figure:
    """Draw loss, accuracy and learning rate against epochs.

    epochs: `step` (n,) and metrics by name such as `val/loss` and `val/acc`, each (n,), NaN where
    they were not measured. steps: `step`, `loss` and `lr` (m,) of single steps in between.
    """
    figure = new_figure(11.2, 3.5, fitted=False)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.8, bottom=0.14, wspace=0.22)
    figure.text(0.012, 0.955, title, fontsize=TITLE_SIZE, va="top")
    loss, accuracy, rate = (figure.add_subplot(1, 3, i) for i in (1, 2, 3))
    when = steps["step"] / steps_per_epoch
    if len(when):
        loss.plot(when, steps["loss"], color="0.75", linewidth=0.7, label="a batch")
        rate.plot(when, steps["lr"], color="black", linewidth=1.2)
    after = epochs["step"] / steps_per_epoch if len(epochs["step"]) else np.zeros(0)
    for ax, metric in ((loss, "loss"), (accuracy, "acc")):
        for stage, (name, colour, line) in STAGES.items():
            values = epochs.get(f"{stage}/{metric}")
            if values is None:
                continue
            known = np.isfinite(values)
            shown = 100 * values[known] if metric == "acc" else values[known]
            last = "" if not known.any() else _last(shown[-1], metric)
            ax.plot(after[known], shown, line, color=colour, linewidth=1.3, markersize=3.5,
                    label=f"{name} {last}")  # fmt: skip
    best = epochs.get("val/acc", np.zeros(0))
    if np.isfinite(best).any():
        at = int(np.nanargmax(best))
        accuracy.plot(after[at], 100 * best[at], "o", markersize=9, fillstyle="none",
                      color=STAGES["val"][1], label="the best")  # fmt: skip
    for ax, name in ((loss, "loss"), (accuracy, "accuracy, %"), (rate, "learning rate")):
        _dress(ax, name, "epoch")
        ax.set_xlim(left=0)
    shown = np.concatenate([np.asarray(line.get_ydata()) for line in loss.lines] or [np.ones(1)])
    shown = shown[np.isfinite(shown)]
    if shown.min(initial=1.0) > 0 and shown.max(initial=1.0) > 10 * shown.min(initial=1.0):
        _logarithmic(loss.yaxis, loss.set_yscale)
    rate.set_ylim(bottom=0)
    for ax in (loss, accuracy):
        if ax.lines:
            ax.legend(fontsize=NOTE_SIZE, framealpha=0.8)
        else:
            _nothing(ax, "nothing was measured")
    return figure


def health_figure(
    layers: Sequence[str],
    gradients: Mapping[str, NDArray],
    activity: Mapping[str, NDArray],
    *,
    title: str = "health",
) -> Figure:
    """Draw what became of the layers: a line a layer, from dark (the first) to light (the last).

    gradients: `step` (n,), and `norm` and `update` (n, layers): gradient norms, and norms of a
    step's change over those of the weights. activity: `step` (m,), and `dead`, `always_on` and
    `zeros` (shares), `mean` and `std` (m, layers) of the layers' outputs over many images; NaN is
    not drawn.
    """
    figure = new_figure(11.2, 6.0, fitted=False)
    figure.subplots_adjust(left=0.06, right=0.87, top=0.86, bottom=0.085, wspace=0.27, hspace=0.42)
    figure.text(0.012, 0.975, title, fontsize=TITLE_SIZE, va="top")
    colours = matplotlib.colormaps[POSITIVE](np.linspace(0, 0.88, len(layers)))
    panels = [
        ("dead units, %", activity, "dead", 100),
        ("units that are always on, %", activity, "always_on", 100),
        ("zeros among the outputs, %", activity, "zeros", 100),
        ("mean output; dashed: standard deviation", activity, "mean", 1),
        ("norm of the gradient", gradients, "norm", 1),
        ("change of the weights in a step, relative", gradients, "update", 1),
    ]
    for place, (name, table, key, unit) in enumerate(panels, start=1):
        ax = figure.add_subplot(2, 3, place)
        _dress(ax, name, "step")
        if key not in table:
            _nothing(ax, "no validation images were seen" if table is activity else "no step yet")
            continue
        for i, colour in enumerate(colours):
            values = unit * table[key][:, i]
            if table is gradients:
                values = np.where(values > FLOOR, values, np.nan)
            ax.plot(table["step"], values, ".-", color=colour, linewidth=1.2, markersize=5)
            if key == "mean":
                ax.plot(table["step"], table["std"][:, i], ".--", color=colour, linewidth=1.0,
                        markersize=4)  # fmt: skip
        if table is gradients:
            _logarithmic(ax.xaxis, ax.set_xscale)
            if (table[key] > FLOOR).any():
                _logarithmic(ax.yaxis, ax.set_yscale)
        elif key != "mean":
            ax.set_ylim(0, max(1.0, ax.get_ylim()[1]))
        if table is activity:
            ax.set_xlim(left=0)
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=ROUND))
        if key == "update":  # the rule of thumb of many courses, CS231n's among them
            ax.axhline(1e-3, color="0.5", linewidth=0.8, linestyle="--")
            ax.text(0.02, 1e-3, "rule of thumb", transform=ax.get_yaxis_transform(),
                    fontsize=NOTE_SIZE - 1, color="0.4", va="bottom")  # fmt: skip
    named = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), MOST_NAMES)).astype(int))
    handles = [matplotlib.lines.Line2D([], [], color=colours[i], linewidth=2) for i in named]
    figure.legend(handles, [layers[i] for i in named], loc="upper left", frameon=False,
                  bbox_to_anchor=(0.875, 0.87), fontsize=LABEL_SIZE)  # fmt: skip
    return figure


def _dress(ax: Axes, title: str, across: str) -> None:
    ax.set_title(title, fontsize=LABEL_SIZE + 0.5, loc="left")
    ax.set_xlabel(across, fontsize=NOTE_SIZE, labelpad=1)
    ax.tick_params(labelsize=NOTE_SIZE)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=ROUND))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))
    ax.grid(color=GRID, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _logarithmic(axis: Axis, set_scale: Callable[[str], None]) -> None:
    """A logarithmic axis with plain numbers: matplotlib's powers of ten take ten times as long."""
    set_scale("log")
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _last(value: float, metric: str) -> str:
    return f"{value:.2f} %" if metric == "acc" else f"{value:.4f}"


def _nothing(ax: Axes, words: str) -> None:
    ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes,
            fontsize=LABEL_SIZE, color="0.4")  # fmt: skip
