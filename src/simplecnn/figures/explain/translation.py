"""What becomes of answers and of layers when the image moves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.style import COLORS, NOTE, SMALL

FLOOR = 1e-8  # of the axis of errors: below the rounding of float32


@dataclass(frozen=True)
class ShiftMap:
    """Accuracy in percent and the share of ink left, by shift: rows dy, columns dx.

    `ink` is None where images are no drawings.
    """

    title: str
    accuracy: NDArray
    ink: NDArray | None
    consistency: float  # percent


@dataclass(frozen=True)
class LayerError:
    """By how much a layer's map differs from the unmoved one, for horizontal and vertical shifts
    of 0 to reach pixels: norm of the difference to norm of the map, over all images."""

    jump: int | Fraction  # pixels between units
    all_units: NDArray  # (reach + 1,) against the map moved along, borders included
    interior: NDArray  # the same for units that see no border before or after; NaN without any
    unmoved: NDArray  # against the map left where it was: 0 would be invariance
    num_interior: NDArray | None = None  # (reach + 1,) positions

    @property
    def whole_steps(self) -> list[int]:
        """The shifts by whole units, from the first one on."""
        return [shift for shift in range(1, len(self.unmoved)) if shift % self.jump == 0]


def shift_maps_figure(maps: Sequence[ShiftMap], *, near: int, setting: str) -> Figure:
    """One map a network on one scale from 0; beyond the white line more than 1 % of ink is lost."""
    reach = len(maps[0].accuracy) // 2
    columns = min(4, len(maps))
    rows = -(-len(maps) // columns)
    single = len(maps) == 1
    size = (5.6, 5.0) if single else (2.7 * columns + 0.7, 3.0 * rows + 0.8)
    figure = style.new_figure(*size)
    scale = Normalize(0, 100)
    steps = np.arange(-reach, reach + 1)
    axes = []
    for index, shift_map in enumerate(maps):
        ax = figure.add_subplot(rows, columns, index + 1)
        axes.append(ax)
        ax.imshow(
            shift_map.accuracy, cmap=style.POSITIVE, norm=scale, interpolation="nearest",
            extent=(-reach - 0.5, reach + 0.5, reach + 0.5, -reach - 0.5),
        )  # fmt: skip
        if shift_map.ink is not None and shift_map.ink.min() < 0.99 <= shift_map.ink.max():
            ax.contour(steps, steps, shift_map.ink, [0.99], colors="white", linewidths=1.2)
        style.dress(
            ax,
            title=f"{shift_map.title}\nunmoved {shift_map.accuracy[reach, reach]:.2f} %, "
            f"consistency {shift_map.consistency:.2f} %".lstrip(),
            x="pixels to the right" if index >= len(maps) - columns else "",
            y="pixels down" if index % columns == 0 else "",
        )
        ticks = sorted({-reach, -(reach // 2), 0, reach // 2, reach})
        ax.set_xticks(ticks)
        ax.set_yticks(ticks)
        for dy, dx in ((-reach, -reach), (0, reach), (reach, 0), (4, 4)) if single else ():
            if max(abs(dy), abs(dx)) <= reach:
                value = shift_map.accuracy[dy + reach, dx + reach]
                ax.text(dx, dy, f"{value:.0f}", ha="center", va="center", fontsize=SMALL,
                        color="black" if value > 55 else "white")  # fmt: skip
    style.color_bar(figure, axes, style.POSITIVE, scale, "accuracy in %, one scale", shrink=0.8)
    line = "outside the white line more than 1 % of the ink has left; "
    line = "" if any(m.ink is None for m in maps) else line
    style.head(
        figure,
        f"Accuracy when the image moves; {setting}\n{line}"
        f"consistency: pairs of shifts to ±{near} with one answer",
    )
    return figure


def layers_figure(errors: Mapping[str, LayerError], *, title: str, num_networks: int) -> Figure:
    """A panel a layer: error against shift, logarithmic."""
    columns = 3 if len(errors) in (3, 5, 6) else min(4, len(errors))
    rows = -(-len(errors) // columns)
    figure = style.new_figure(2.45 * columns + 0.4, 2.25 * rows + 1.05)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for ax in grid.flat[len(errors) :]:
        ax.set_axis_off()
    for index, (ax, (name, error)) in enumerate(zip(grid.flat, errors.items(), strict=False)):
        shifts = np.arange(len(error.all_units))
        for values, color, marker, label in (
            (error.unmoved, COLORS[1], "^", "map as it was (0: invariant)"),
            (error.all_units, COLORS[5], "s", "map moved along, with borders (0: equivariant)"),
            (error.interior, COLORS[0], "o", "map moved along, interior only"),
        ):
            ax.plot(
                shifts, np.maximum(values, FLOOR), marker, ls="-", color=color, lw=1.1, ms=4,
                markevery=[0, *error.whole_steps], label=label if index == 0 else None,
            )  # fmt: skip
        ax.set_yscale("log")
        ax.set(ylim=(FLOOR / 2, 5))
        ax.set_xticks(shifts[:: max(1, len(shifts) // 4)])
        step = f"{float(error.jump):g} pixel{'s' if error.jump > 1 else ''} a unit"
        style.dress(
            ax, title=f"{name}: {step}", grid="y",
            x="shift in pixels" if index >= len(errors) - columns else "",
            y="relative error" if index % columns == 0 else "",
        )  # fmt: skip
        if np.isnan(error.interior[1:]).all():
            ax.text(0.5, 0.3, "no unit is clear\nof the border", fontsize=NOTE, color="0.4",
                    ha="center", transform=ax.transAxes)  # fmt: skip
    figure.legend(loc="outside lower center", ncols=3, fontsize=NOTE, frameon=False)
    mean = f"mean over {num_networks} networks" if num_networks > 1 else ""
    of = ", ".join(filter(None, (title, mean)))
    style.head(
        figure,
        f"Does a map move with the image? {of}".rstrip() + "\n"
        "marked: shifts by whole units, where theory says 0 inside (drawn at 1e−8)",
    )
    return figure
