"""The answers by shift as maps, the layers' errors as lines, and networks side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from simplecnn.explain.intervals import Interval
from simplecnn.figures import style
from simplecnn.figures.receptive_field import COLOURS

TITLE, LABEL, NOTE = 10, 8, 6.5  # font sizes in points
FLOOR = 1e-8  # of the axis of errors: below the rounding of float32


@dataclass(frozen=True)
class ShiftMap:
    """Accuracy in percent and the share of ink left, by shift: rows dy, columns dx."""

    title: str
    accuracy: NDArray
    ink: NDArray
    note: str


@dataclass(frozen=True)
class LayerLine:
    """The errors of one layer by shift; see `translation.LayerError`."""

    name: str
    jump: float
    all_units: NDArray
    interior: NDArray
    unmoved: NDArray


def shift_maps_figure(maps: Sequence[ShiftMap], *, reach: int, near: int, setting: str) -> Figure:
    """One map a network on one scale from 0; beyond the white line more than 1 % of ink is lost."""
    columns = min(4, len(maps))
    rows = -(-len(maps) // columns)
    alone = len(maps) == 1
    figure = style.new_figure(
        5.6 if alone else 2.7 * columns + 0.7, (5.0 if alone else 3.0 * rows + 0.8)
    )
    scale = Normalize(0, 100)
    ends = (-reach - 0.5, reach + 0.5)
    axes = []
    for index, shift_map in enumerate(maps):
        ax = figure.add_subplot(rows, columns, index + 1)
        axes.append(ax)
        ax.imshow(
            shift_map.accuracy, cmap=style.POSITIVE, norm=scale, interpolation="nearest",
            extent=(*ends, *ends[::-1]),
        )  # fmt: skip
        steps = np.arange(-reach, reach + 1)
        if (shift_map.ink < 0.99).any() and (shift_map.ink >= 0.99).any():
            ax.contour(steps, steps, shift_map.ink, [0.99], colors="white", linewidths=1.2)
        ticks = sorted({-reach, -reach // 2, 0, reach // 2, reach})
        ax.set_xticks(ticks)
        ax.set_yticks(ticks)
        ax.tick_params(labelsize=NOTE)
        centre = shift_map.accuracy[reach, reach]
        ax.set_title(f"{shift_map.title}\nunmoved {centre:.2f} %, {shift_map.note}", fontsize=LABEL)
        if index % columns == 0:
            ax.set_ylabel("pixels down", fontsize=LABEL)
        if index >= len(maps) - columns:
            ax.set_xlabel("pixels to the right", fontsize=LABEL)
        if alone:
            for place in ((-reach, -reach), (0, reach), (reach, 0), (4, 4), (0, 0)):
                row, column = place[0] + reach, place[1] + reach
                if max(map(abs, place)) <= reach:
                    value = shift_map.accuracy[row, column]
                    ax.text(
                        place[1], place[0], f"{value:.0f}", ha="center", va="center",
                        fontsize=5.5, color="black" if value > 55 else "white",
                    )  # fmt: skip
    bar = figure.colorbar(ScalarMappable(scale, style.POSITIVE), ax=axes, shrink=0.8, aspect=24)
    bar.set_label("accuracy in %, one scale", fontsize=NOTE)
    bar.ax.tick_params(labelsize=NOTE)
    style.head(
        figure,
        f"Accuracy when the digit moves; {setting}\noutside the white line more than 1 % of the "
        f"ink has left; consistency: pairs of shifts to ±{near} with one answer",
        LABEL + 1 if alone else TITLE,
    )
    return figure


def layers_figure(lines: Sequence[LayerLine], *, title: str, num_networks: int) -> Figure:
    """A panel a layer: error against shift, logarithmic."""
    columns = 3 if len(lines) in (3, 5, 6) else min(4, len(lines))
    rows = -(-len(lines) // columns)
    figure = style.new_figure(2.45 * columns + 0.4, 2.25 * rows + 1.05)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for ax in grid.flat[len(lines) :]:
        ax.set_axis_off()
    for index, (ax, line) in enumerate(zip(grid.flat, lines, strict=False)):
        shifts = np.arange(len(line.all_units))
        whole = shifts[shifts % line.jump == 0] if line.jump else shifts
        for values, colour, marker in (
            (line.unmoved, COLOURS[1], "^"),
            (line.all_units, COLOURS[5], "s"),
            (line.interior, COLOURS[0], "o"),
        ):
            shown = np.maximum(values, FLOOR)
            ax.plot(shifts, shown, color=colour, lw=1.1, alpha=0.8)
            ax.plot(whole, shown[whole], marker, color=colour, ms=4, ls="")
        ax.set_yscale("log")
        ax.set(ylim=(FLOOR / 2, 5))
        ax.set_xticks(shifts[:: max(1, len(shifts) // 4)])
        ax.tick_params(labelsize=NOTE)
        step = f"{line.jump:g} pixel{'s' if line.jump > 1 else ''} a unit"
        ax.set_title(f"{line.name}: {step}", fontsize=LABEL)
        if np.isnan(line.interior[1:]).all():
            ax.text(0.5, 0.3, "no unit is clear\nof the border", fontsize=NOTE, color="0.4",
                    ha="center", transform=ax.transAxes)  # fmt: skip
        ax.grid(axis="y", color="0.9", lw=0.5)
        ax.spines[["top", "right"]].set_visible(False)
        if index % columns == 0:
            ax.set_ylabel("relative error", fontsize=LABEL)
        if index >= len(lines) - columns:
            ax.set_xlabel("shift in pixels", fontsize=LABEL)
    handles = [
        Line2D([], [], color=COLOURS[1], marker="^", ms=4, label="map as it was (0: invariant)"),
        Line2D([], [], color=COLOURS[5], marker="s", ms=4,
               label="map moved along, with borders (0: equivariant)"),
        Line2D([], [], color=COLOURS[0], marker="o", ms=4, label="map moved along, interior only"),
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside lower center", ncols=3, fontsize=NOTE, frameon=False
    )
    mean = f"mean over {num_networks} networks" if num_networks > 1 else ""
    of = ", ".join(filter(None, (title, mean)))
    style.head(
        figure,
        f"Does a map move with the image? {of}".rstrip() + "\n"
        "marked: shifts by whole units, where theory says 0 inside (drawn at 1e-8)",
        LABEL + 1,
    )
    return figure


def ledger_figure(rows: Mapping[str, Mapping[str, Interval]], *, near: int, setting: str) -> Figure:
    """Networks side by side: a dot the mean over seeds, a line its 95 % interval."""
    titles = {
        "accuracy": "accuracy unmoved, %",
        "near_accuracy": f"accuracy, shifts to ±{near}, %",
        "consistency": f"consistency, shifts to ±{near}, %",
    }
    figure = style.new_figure(9.2, 0.34 * len(rows) + 1.5)
    axes = figure.subplots(1, len(titles), sharey=True)
    for ax, (key, title) in zip(axes, titles.items(), strict=True):
        for place, numbers in enumerate(rows.values()):
            interval = numbers[key]
            if not np.isnan(interval.low):
                ax.plot([100 * interval.low, 100 * interval.high], [place] * 2, color="0.55", lw=2)
            ax.plot(100 * interval.mean, place, "o", color="black", ms=4)
            ax.annotate(
                f"{100 * interval.mean:.2f}", (100 * interval.mean, place), xytext=(0, 4),
                textcoords="offset points", fontsize=NOTE, ha="center",
            )  # fmt: skip
        ax.set_title(title, fontsize=LABEL)
        ax.tick_params(labelsize=NOTE)
        ax.margins(x=0.15)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="x", color="0.9", lw=0.5)
    axes[0].set_yticks(range(len(rows)), list(rows), fontsize=LABEL)
    axes[0].set_ylim(len(rows) - 0.4, -0.7)
    style.head(figure, f"What moving costs each network; line: 95 % interval\n{setting}", LABEL + 1)
    return figure
