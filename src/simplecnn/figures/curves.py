"""How a run learned: loss, accuracy and learning rate over the epochs."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from simplecnn.figures.style import LABEL, NOTE, ROUND, STAGES, TITLE, dress, new_figure, number

NOTHING = np.zeros(0)


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
    figure = new_figure(11.2, 3.4, fitted=False)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.82, bottom=0.14, wspace=0.22)
    figure.text(0.012, 0.955, title, fontsize=TITLE, va="top")
    loss, accuracy, rate = figure.subplots(1, 3)
    time_axes(loss, "loss", "epoch")
    time_axes(accuracy, "accuracy, %", "epoch")
    time_axes(rate, "learning rate", "epoch")
    if len(steps["step"]):
        when = steps["step"] / steps_per_epoch
        loss.plot(when, steps["loss"], color="0.75", linewidth=0.7, label="a batch")
        rate.plot(when, steps["lr"], color="black", linewidth=1.2)
    after = epochs["step"] / steps_per_epoch
    for stage, (name, color, line) in STAGES.items():
        for ax, metric, unit, spec in ((loss, "loss", 1, ".4f"), (accuracy, "acc", 100, ".2f")):
            values = unit * epochs.get(f"{stage}/{metric}", NOTHING)
            known = np.isfinite(values)
            if known.any():
                label = f"{name} {values[known][-1]:{spec}}{' %' * (metric == 'acc')}"
                ax.plot(after[known], values[known], line, color=color, linewidth=1.3,
                        markersize=3.5, label=label)  # fmt: skip
    best = 100 * epochs.get("val/acc", NOTHING)
    if np.isfinite(best).any():
        at = int(np.nanargmax(best))
        accuracy.plot(after[at], best[at], "o", markersize=9, fillstyle="none",
                      color=STAGES["val"][1], label="the best")  # fmt: skip
    for ax in (loss, accuracy, rate):
        ax.set_xlim(left=0)
    rate.set_ylim(bottom=0)
    shown = np.concatenate([NOTHING, *(np.asarray(line.get_ydata()) for line in loss.lines)])
    shown = shown[np.isfinite(shown)]
    if 0 < 10 * shown.min(initial=np.inf) < shown.max(initial=0.0):
        loss.set_yscale("log")
        log_ticks(loss.yaxis)
    for ax in (loss, accuracy):
        if ax.lines:
            ax.legend(fontsize=NOTE, framealpha=0.8)
        else:
            say(ax, "nothing was measured")
    return figure


def time_axes(ax: Axes, title: str, across: str) -> None:
    """An axes over steps or epochs, with few and round numbers."""
    dress(ax, x=across, grid="both")
    ax.set_title(title, fontsize=LABEL, loc="left")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=ROUND))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))


def log_ticks(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis; 1, 2 and 5 of each power of ten where there are few.

    To be called when everything is drawn.
    """
    low, high = sorted(axis.get_view_interval())
    marks = (1.0, 2.0, 5.0) if high < 300 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=marks, numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, "g")))


def say(ax: Axes, words: str) -> None:
    """Words in the middle of an axes that has nothing to show."""
    ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes,
            fontsize=LABEL, color="0.4")  # fmt: skip
