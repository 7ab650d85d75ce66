"""How predictions and feature maps change when the image is shifted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.style import COLORS, NOTE, SMALL

FLOOR = 1e-8  # of the error axis: below the rounding of float32


@dataclass(frozen=True)
class ShiftMap:
    """Accuracy and remaining ink by shift, (2 reach + 1, 2 reach + 1): rows dy, columns dx."""

    title: str
    accuracy: NDArray  # percent
    ink: NDArray | None  # fraction of the total brightness still inside; None for photographs
    consistency: float  # percent


@dataclass(frozen=True)
class LayerError:
    """Relative errors (reach + 1,) of a layer's maps for images shifted by 0 to reach pixels.

    Each is the norm of the difference divided by the norm of the reference, over all images and
    both directions.
    """

    jump: int | Fraction  # the layer's total stride: input pixels between neighboring positions
    all_units: NDArray  # reference: the original map, shifted along with the image
    interior: NDArray  # the same at positions that never see the border; NaN if there are none
    unmoved: NDArray  # reference: the original map in place; 0 means invariant
    num_interior: NDArray | None = None  # number of positions behind `interior`

    @property
    def whole_steps(self) -> list[int]:
        """The shifts above 0 that are multiples of the layer's total stride."""
        return [shift for shift in range(1, len(self.unmoved)) if shift % self.jump == 0]


def shift_maps_figure(maps: Sequence[ShiftMap], *, near: int, setting: str) -> Figure:
    """Draw the accuracy by shift, one map per network, with a contour where 1 % of ink is lost.

    `near`: the largest shift in pixels that consistency counts.
    """
    reach = len(maps[0].accuracy) // 2
    columns = min(4, len(maps))
    rows = -(-len(maps) // columns)
    single = len(maps) == 1
    size = (5.6, 5.0) if single else (2.7 * columns + 0.7, 3.0 * rows + 0.8)
    figure = style.new_figure(*size)
    scale = Normalize(0, 100)
    steps = np.arange(-reach, reach + 1)
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(len(maps))]
    for index, (ax, shift_map) in enumerate(zip(axes, maps, strict=True)):
        ax.imshow(
            shift_map.accuracy, cmap=style.POSITIVE, norm=scale, interpolation="nearest",
            extent=(-reach - 0.5, reach + 0.5, reach + 0.5, -reach - 0.5),
        )  # fmt: skip
        if shift_map.ink is not None and shift_map.ink.min() < 0.99 <= shift_map.ink.max():
            ax.contour(steps, steps, shift_map.ink, [0.99], colors="white", linewidths=1.2)
        style.style_axes(
            ax,
            title=f"{shift_map.title}\nunshifted {shift_map.accuracy[reach, reach]:.2f} %, "
            f"consistency {shift_map.consistency:.2f} %".lstrip(),
            x="shift to the right in pixels" if index >= len(maps) - columns else "",
            y="shift down in pixels" if index % columns == 0 else "",
        )
        ticks = sorted({-reach, -(reach // 2), 0, reach // 2, reach})
        ax.set_xticks(ticks)
        ax.set_yticks(ticks)
        for dy, dx in ((-reach, -reach), (0, reach), (reach, 0), (near, near)) if single else ():
            if max(abs(dy), abs(dx)) <= reach:
                value = shift_map.accuracy[dy + reach, dx + reach]
                ax.text(dx, dy, f"{value:.0f}", ha="center", va="center", fontsize=SMALL,
                        color="black" if value > 55 else "white")  # fmt: skip
    style.color_bar(figure, axes, style.POSITIVE, scale, "accuracy in %", shrink=0.8)
    contour = "outside the white line: more than 1 % of the ink is outside the image\n"
    if any(m.ink is None for m in maps):
        contour = ""
    style.add_title(
        figure,
        f"Accuracy when the image is shifted; {setting}\n{contour}"
        f"consistency: same prediction for two shifts by up to {near} pixels",
    )
    return figure


def layers_figure(errors: Mapping[str, LayerError], *, title: str, num_networks: int) -> Figure:
    """Draw one panel per layer: relative error, logarithmic, against the shift of the image."""
    columns = 3 if len(errors) in (3, 5, 6) else min(4, len(errors))
    rows = -(-len(errors) // columns)
    figure = style.new_figure(2.45 * columns + 0.4, 2.25 * rows + 1.05)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for ax in grid.flat[len(errors) :]:
        ax.set_axis_off()
    for index, (ax, (name, error)) in enumerate(zip(grid.flat, errors.items(), strict=False)):
        shifts = np.arange(len(error.all_units))
        for values, color, marker, label in (
            (error.unmoved, COLORS[1], "^", "original map (0: invariant)"),
            (error.all_units, COLORS[5], "s", "original map, shifted too (0: equivariant)"),
            (error.interior, COLORS[0], "o", "the same, away from the border"),
        ):
            ax.plot(
                shifts, np.maximum(values, FLOOR), marker, ls="-", color=color, lw=1.1, ms=4,
                markevery=[0, *error.whole_steps], label=label if index == 0 else None,
            )  # fmt: skip
        ax.set_yscale("log")
        ax.set(ylim=(FLOOR / 2, 5))
        ax.set_xticks(shifts[:: max(1, len(shifts) // 4)])
        style.style_axes(
            ax, title=f"{name}: total stride {float(error.jump):g}", grid="y",
            x="shift in pixels" if index >= len(errors) - columns else "",
            y="relative difference" if index % columns == 0 else "",
        )  # fmt: skip
        if np.isnan(error.interior[error.whole_steps or [1]]).all():
            ax.text(0.5, 0.3, "every position\nsees the border", fontsize=NOTE, color="0.4",
                    ha="center", transform=ax.transAxes)  # fmt: skip
    figure.legend(
        loc="outside lower center", ncols=3, fontsize=NOTE, frameon=False,
        title="difference between the map of the shifted image and the …", title_fontsize=NOTE,
    )  # fmt: skip
    mean = f"mean over {num_networks} networks" if num_networks > 1 else ""
    subtitle = ", ".join(filter(None, (title, mean)))
    style.add_title(
        figure,
        f"Do feature maps shift with the image? {subtitle}".rstrip() + "\n"
        "markers: shifts by multiples of the stride, where theory predicts 0 away from the border\n"
        "0 is drawn at 1e−8",
    )
    return figure
