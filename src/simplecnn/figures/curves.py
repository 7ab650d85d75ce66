"""Learning curves: loss, accuracy and learning rate over the epochs."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from simplecnn.figures.style import (
    LABEL,
    NOTE,
    ROUND,
    STAGES,
    TITLE,
    new_figure,
    number,
    style_axes,
)

EMPTY = np.zeros(0)


def curves_figure(
    epochs: Mapping[str, NDArray],
    steps: Mapping[str, NDArray],
    *,
    steps_per_epoch: int,
    title: str = "curves",
) -> Figure:
    """Draw loss, accuracy and learning rate against epochs.

    Args:
        epochs: `step` (n,), the global step at the end of each epoch, `epoch` (n,), its number from
            1 (by default, from `steps_per_epoch`), and metrics by name, such as `val/loss` and
            `val/acc`, each (n,); NaN where a metric was not logged.
        steps: `step`, `loss` and `lr`, each (m,), of single training steps.
    """
    figure = new_figure(11.2, 3.4, fitted=False)
    figure.subplots_adjust(left=0.055, right=0.985, top=0.82, bottom=0.14, wspace=0.22)
    figure.text(0.012, 0.955, title, fontsize=TITLE, va="top")
    loss, accuracy, rate = figure.subplots(1, 3)
    time_axes(loss, "loss", "epoch")
    time_axes(accuracy, "accuracy, %", "epoch")
    time_axes(rate, "learning rate", "epoch")
    ends = epochs["step"]
    numbers = epochs.get("epoch", ends / steps_per_epoch)
    if len(steps["step"]):
        when = epochs_at(steps["step"], ends, numbers, steps_per_epoch)
        marker = "." if len(when) == 1 else "None"  # a line needs two points
        loss.plot(when, steps["loss"], marker=marker, color="0.75", linewidth=0.7,
                  label="single batch")  # fmt: skip
        rate.plot(when, steps["lr"], marker=marker, color="black", linewidth=1.2)
    after = epochs_at(ends, ends, numbers, steps_per_epoch)
    for stage, (name, color, line) in STAGES.items():
        for ax, metric, unit, spec in ((loss, "loss", 1, ".4f"), (accuracy, "acc", 100, ".2f")):
            values = unit * epochs.get(f"{stage}/{metric}", EMPTY)
            known = np.isfinite(values)
            if known.any():
                label = f"{name} {values[known][-1]:{spec}}{' %' * (metric == 'acc')}"
                ax.plot(after[known], values[known], line, color=color, linewidth=1.3,
                        markersize=3.5, label=label)  # fmt: skip
    val_accuracy = 100 * epochs.get("val/acc", EMPTY)
    if np.isfinite(val_accuracy).any():
        best = int(np.nanargmax(val_accuracy))
        accuracy.plot(after[best], val_accuracy[best], "o", markersize=9, fillstyle="none",
                      color=STAGES["val"][1], label="best")  # fmt: skip
    for ax in (loss, accuracy, rate):
        ax.set_xlim(left=0)
    rate.set_ylim(bottom=0)
    losses = np.concatenate([EMPTY, *(np.asarray(line.get_ydata()) for line in loss.lines)])
    losses = losses[np.isfinite(losses)]
    if 0 < 10 * losses.min(initial=np.inf) < losses.max(initial=0.0):
        loss.set_yscale("log")
        log_ticks(loss.yaxis)
    for ax in (loss, accuracy):
        if ax.lines:
            ax.legend(fontsize=NOTE, framealpha=0.8)
        else:
            write_centered(ax, "no data")
    return figure


def epochs_at(
    steps: NDArray, ends: NDArray, numbers: NDArray, steps_per_epoch: float
) -> NDArray[np.float64]:
    """Convert steps to epochs: `numbers` (n,) at the steps `ends` (n,).

    A run that continues from a checkpoint may have had epochs of another length before. The last
    epoch may have ended within, at `max_steps`.
    """
    if not len(ends):
        return steps / steps_per_epoch
    start = 0.0 if numbers[0] <= 1 else ends[0] - steps_per_epoch
    known, times = [start, *ends], [max(0.0, numbers[0] - 1), *numbers]
    done = (known[-1] - known[-2]) / steps_per_epoch
    times[-1] = min(times[-1], times[-2] + done)
    return np.interp(steps, known, times)


def time_axes(ax: Axes, title: str, x_label: str) -> None:
    """Set up an axes over steps or epochs, with few ticks at round numbers."""
    style_axes(ax, x=x_label, grid="both")
    ax.set_title(title, fontsize=LABEL, loc="left")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=ROUND))
    ax.yaxis.set_major_locator(MaxNLocator(5, steps=ROUND))


def log_ticks(axis: Axis) -> None:
    """Label a logarithmic axis with plain numbers: powers of ten, and 2 and 5 times them where the
    axis spans few. Call after plotting: the ticks depend on the axis limits."""
    low, high = sorted(axis.get_view_interval())
    multiples = (1.0, 2.0, 5.0) if high < 300 * low else (1.0,)
    axis.set_major_locator(LogLocator(subs=multiples, numticks=7))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value, "g")))


def write_centered(ax: Axes, text: str) -> None:
    """Write `text` in the middle of an axes without data."""
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes,
            fontsize=LABEL, color="0.4")  # fmt: skip
