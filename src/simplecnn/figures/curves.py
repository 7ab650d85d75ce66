"""How a run learned: loss, accuracy and learning rate over the epochs."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import NDArray

from simplecnn.figures.style import LABEL, NOTE, STAGES, TITLE, dress, new_figure, number

ROUND = [1, 2, 2.5, 5, 10]  # what may lie between two numbers at an axis, times a power of ten


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
    figure.text(0.012, 0.955, title, fontsize=TITLE, va="top")
    loss, accuracy, rate = (figure.add_subplot(1, 3, i) for i in (1, 2, 3))
    when = steps["step"] / steps_per_epoch
    if len(when):
        loss.plot(when, steps["loss"], color="0.75", linewidth=0.7, label="a batch")
        rate.plot(when, steps["lr"], color="black", linewidth=1.2)
    after = epochs["step"] / steps_per_epoch if len(epochs["step"]) else np.zeros(0)
    for ax, metric in ((loss, "loss"), (accuracy, "acc")):
        for stage, (name, color, line) in STAGES.items():
            values = epochs.get(f"{stage}/{metric}", np.zeros(0))
            known = np.isfinite(values)
            if not known.any():
                continue
            shown = 100 * values[known] if metric == "acc" else values[known]
            last = f"{shown[-1]:.2f} %" if metric == "acc" else f"{shown[-1]:.4f}"
            ax.plot(after[known], shown, line, color=color, linewidth=1.3, markersize=3.5,
                    label=f"{name} {last}")  # fmt: skip
    best = epochs.get("val/acc", np.zeros(0))
    if np.isfinite(best).any():
        at = int(np.nanargmax(best))
        accuracy.plot(after[at], 100 * best[at], "o", markersize=9, fillstyle="none",
                      color=STAGES["val"][1], label="the best")  # fmt: skip
    for ax, name in ((loss, "loss"), (accuracy, "accuracy, %"), (rate, "learning rate")):
        time_axes(ax, name, "epoch")
        ax.set_xlim(left=0)
    shown = np.concatenate([np.asarray(line.get_ydata()) for line in loss.lines] or [np.ones(1)])
    shown = shown[np.isfinite(shown)]
    if shown.min(initial=1.0) > 0 and shown.max(initial=1.0) > 10 * shown.min(initial=1.0):
        loss.set_yscale("log")
        log_ticks(loss.yaxis)
    rate.set_ylim(bottom=0)
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
    """At least two plain numbers on a logarithmic axis, to be called when everything is drawn.

    matplotlib's own take ten times as long, and leave some axes a single one.
    """
    low, high = sorted(axis.get_view_interval())
    decades = np.log10(high / low)
    marks = (1, 2, 5) if decades < 2.5 else (1,)
    every = max(1, int(decades // 5))
    powers = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1, every)
    ticks = np.array([mark * 10.0**power for power in powers for mark in marks])
    ticks = ticks[(ticks >= low) & (ticks <= high)]
    if len(ticks) < 2:
        ticks = np.asarray(MaxNLocator(4, steps=ROUND).tick_values(low, high))
    axis.set_major_locator(FixedLocator(ticks.tolist()))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, "g")))


def say(ax: Axes, words: str) -> None:
    """Words in the middle of an axes that has nothing to show."""
    ax.text(0.5, 0.5, words, ha="center", va="center", transform=ax.transAxes,
            fontsize=LABEL, color="0.4")  # fmt: skip
