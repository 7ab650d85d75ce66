"""Health of the layers during training: outputs, gradients and weight updates."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from simplecnn.figures.curves import log_ticks, time_axes, write_centered
from simplecnn.figures.raster import short_name
from simplecnn.figures.style import NOTE, POSITIVE, ROUND, TITLE, new_figure

FLOOR = 1e-7  # smaller gradients and updates are not drawn: a schedule may end at a rate of 0
MAX_NAMES = 10  # in the legend


def health_figure(
    layers: Sequence[str],
    gradients: Mapping[str, NDArray],
    activity: Mapping[str, NDArray],
    *,
    title: str = "health",
) -> Figure:
    """Draw one line per layer, from dark (the first) to light (the last).

    Args:
        layers: names.
        gradients: `step` (n,); `norm` (n, layers), the gradient norms; `update` (n, layers), the
            norm of one step's weight change divided by the norm of the weights.
        activity: `step` (m,); `dead`, `always_on` and `zeros` (m, layers), fractions of a layer's
            outputs; `mean` and `std` (m, layers) of its outputs. NaN is not drawn.
    """
    figure = new_figure(11.2, 5.8, fitted=False)
    figure.subplots_adjust(left=0.06, right=0.87, top=0.89, bottom=0.08, wspace=0.27, hspace=0.36)
    figure.text(0.012, 0.975, title, fontsize=TITLE, va="top")
    colors = matplotlib.colormaps[POSITIVE](np.linspace(0, 0.88, len(layers)))
    panels = [
        ("dead: outputs that are zero for every image, %", "dead", 100),
        ("outputs that are positive for every image, %", "always_on", 100),
        ("zeros among all outputs, %", "zeros", 100),
        ("mean output; dashed: standard deviation", "mean", 1),
        ("gradient norm", "norm", 1),
        ("relative weight change per step", "update", 1),
    ]
    for ax, (name, key, unit) in zip(figure.subplots(2, 3).flat, panels, strict=True):
        is_activity = key not in ("norm", "update")
        table = activity if is_activity else gradients
        time_axes(ax, name, "step" if is_activity else "step, log scale")
        if key not in table:
            write_centered(ax, "no validation data" if is_activity else "no training step yet")
            continue
        values = unit * table[key]
        if not is_activity:
            values = np.where(values > FLOOR, values, np.nan)
            if not np.isfinite(values).any():  # nothing to put on logarithmic axes
                write_centered(ax, f"no finite value above {FLOOR:g}")
                continue
        for i, color in enumerate(colors):
            options: Any = {"color": color, "markersize": 4, "clip_on": False}
            ax.plot(table["step"], values[:, i], ".-", linewidth=1.2, **options)
            if key == "mean":
                ax.plot(table["step"], table["std"][:, i], ".--", linewidth=1.0, **options)
        if key == "update":
            ax.axhline(1e-3, color="0.5", linewidth=0.8, linestyle="--")
            ax.text(1.02, 1e-3, "about 0.001\nis healthy\n(CS231n)", fontsize=NOTE, color="0.4",
                    transform=ax.get_yaxis_transform(), va="center")  # fmt: skip
        if is_activity:
            ax.set_xlim(left=0)
            ax.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=ROUND))
            if key != "mean":
                ax.set_ylim(0, max(1.0, ax.get_ylim()[1]))
        else:
            ax.set_xscale("log")
            log_ticks(ax.xaxis)
            ax.set_yscale("log")
            log_ticks(ax.yaxis)
    named = np.unique(np.linspace(0, len(layers) - 1, min(len(layers), MAX_NAMES)).astype(int))
    handles = [Line2D([], [], color=colors[i], linewidth=2) for i in named]
    names = [short_name(layers[i], 160) for i in named]
    note = f"{len(named)} of {len(layers)} layers" if len(named) < len(layers) else None
    figure.legend(handles, names, loc="upper left", frameon=False, handlelength=1.2, title=note,
                  bbox_to_anchor=(0.875, 0.9), fontsize=NOTE, title_fontsize=NOTE,
                  alignment="left")  # fmt: skip
    return figure
