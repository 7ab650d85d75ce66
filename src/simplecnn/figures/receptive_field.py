"""Receptive fields: boxes on an image, a comparison of layer chains, and effective fields."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from simplecnn.figures import style
from simplecnn.figures.style import COLORS, LABEL, NOTE

HATCHES = ("////", r"\\\\", "----")  # of the units of a layer, so that they also differ in gray

Interval = tuple[float, float]
Box = tuple[Interval, Interval]  # first and last row, first and last column


@dataclass(frozen=True)
class LayerBoxes:
    """Receptive fields of some units of one layer."""

    title: str
    boxes: Mapping[tuple[int, int], Box]  # by unit (row, column)
    visible: tuple[tuple[int, int], tuple[int, int]]  # rows and columns that crops leave


@dataclass(frozen=True)
class Chain:
    """One chain of layers in a comparison."""

    name: str
    sizes: Sequence[int]  # receptive field in pixels after each layer
    costs: Mapping[str, int]  # by label, such as "parameters"; the same keys for each chain
    profile: Sequence[float]  # weight of each input column with uniform kernels; sums to 1
    sigma: float  # of the profile, in pixels


@dataclass(frozen=True)
class FieldMap:
    """One effective receptive field."""

    mass: ArrayLike  # mean absolute gradient (H, W)
    box: Box  # the theoretical receptive field
    squares: Sequence[int]  # sides in pixels of squares centered in the box
    note: str


def boxes_figure(image: ArrayLike, layers: Sequence[LayerBoxes]) -> Figure:
    """Draw a panel per layer: the image (H, W) with the receptive fields of some units.

    The parts of a field that are not visible, in the padding or cropped, are hatched. The panels
    extend to the widest field, but not further than one image size on each side of the image, which
    would be a dot beside the fields of a deep network.
    """
    image = np.asarray(image)
    scale = Normalize(image.min(), image.max())
    frame = tuple((0, n - 1) for n in image.shape)
    sides = zip(*(frame, *(box for layer in layers for box in layer.boxes.values())), strict=True)
    ends = [(min(a for a, _ in side), max(b for _, b in side)) for side in sides]
    (top, bottom), (left, right) = limits = [
        (max(first, -n), min(last, 2 * n - 1))
        for (first, last), n in zip(ends, image.shape, strict=True)
    ]
    widest = max(bottom - top, right - left)
    num_doublings = math.ceil(math.log2(max(1, widest) / 40))
    tick_step = 4 * 2 ** max(0, num_doublings)  # about ten ticks at most
    num_columns = 2 if len(layers) == 4 else min(3, len(layers))
    num_rows = -(-len(layers) // num_columns)
    figure = style.new_figure(3.4 * num_columns, 3.8 * num_rows + 0.4)
    for index, layer in enumerate(layers):
        ax = figure.add_subplot(num_rows, num_columns, index + 1)
        style.tile(ax, image, style.DIGIT, scale)
        _outline(ax, frame, color="0.6", lw=0.8, zorder=3)
        styles = zip(cycle(COLORS), cycle(HATCHES), strict=False)
        for (unit, box), (color, hatch) in zip(layer.boxes.items(), styles, strict=False):
            _outline(ax, box, color=color, lw=0, hatch=hatch, alpha=0.6)
            _outline(ax, box, color=color, lw=1.8, zorder=3, label=f"unit {unit}")
        # Draw the visible part again, over the hatching.
        (first_row, last_row), (first_column, last_column) = layer.visible
        inside = (slice(first_row, last_row + 1), slice(first_column, last_column + 1))
        visible = np.full(image.shape, np.nan)
        visible[inside] = image[inside]
        style.tile(ax, visible, style.DIGIT, scale).set_zorder(2)
        ax.set(xlim=(left - 1.5, right + 1.5), ylim=(bottom + 1.5, top - 1.5))
        ax.set_xticks(np.arange(math.ceil(left / tick_step) * tick_step, right + 1, tick_step))
        ax.set_yticks(np.arange(math.ceil(top / tick_step) * tick_step, bottom + 1, tick_step))
        ax.tick_params(labelsize=NOTE)
        ax.set_title(layer.title, fontsize=LABEL)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, fontsize=NOTE,
                  frameon=False, handlelength=1, columnspacing=1)  # fmt: skip
    is_cropped = any(layer.visible != frame for layer in layers)
    hidden = "padding or cropped" if is_cropped else "padding"
    cut = "; fields beyond the edge of a panel are cut off" if ends != limits else ""
    style.add_title(figure, f"Receptive fields in pixels; hatched: {hidden}{cut}")
    return figure


def chains_figure(chains: Sequence[Chain]) -> Figure:
    """Compare chains: field size by layer, costs, and the effective field of uniform weights."""
    figure = style.new_figure(10.4, 8.6)
    subfigures: Any = figure.subfigures(3, 1, height_ratios=(1.0, 0.8, 1.15))
    growth, costs, maps = subfigures
    style.add_title(figure, "Equal receptive fields can differ in cost and in effective field")
    _draw_growth(growth.subplots(), chains)
    keys = list(chains[0].costs)
    for index, ax in enumerate(np.atleast_1d(costs.subplots(1, len(keys)))):
        _draw_costs(ax, chains, keys[index], has_names=index == 0)
    _draw_profiles(maps, chains)
    return figure


def effective_fields_figure(rows: Mapping[str, Mapping[str, FieldMap]]) -> Figure:
    """Draw effective fields: a row per state of the network, a column per layer.

    Maps are in percent of their sum, and each layer has one color scale, so that the states can be
    compared.

    Args:
        rows: maps by layer, by state of the network ("initial", "trained").
    """
    layers = list(next(iter(rows.values())))
    figure = style.new_figure(max(1.7 * len(layers) + 0.4, 4.7), 2.3 * len(rows) + 1.0)
    grid = figure.subplots(len(rows), len(layers), squeeze=False)
    for column, layer in enumerate(layers):
        masses = [np.asarray(fields[layer].mass, dtype=float) for fields in rows.values()]
        shares = [100 * mass / (mass.sum() or 1.0) for mass in masses]
        scale = style.positive_scale(*shares)
        for ax, (state, fields), share in zip(grid[:, column], rows.items(), shares, strict=True):
            field = fields[layer]
            style.tile(ax, share, style.POSITIVE, scale)
            _outline(ax, _clip(field.box, share.shape), color="white", lw=1.2)
            for side, dashes in zip(field.squares, ("--", ":"), strict=False):
                square = [((a + b - side + 1) / 2, (a + b + side - 1) / 2) for a, b in field.box]
                _outline(ax, _clip(square, share.shape), color="white", lw=1.0, ls=dashes)
            ax.set_xlabel(field.note, fontsize=NOTE)
            ax.set_ylabel(state if column == 0 else "", fontsize=LABEL)
        grid[0][column].set_title(layer, fontsize=LABEL)
        style.color_bar(
            figure, grid[:, column], style.POSITIVE, scale, "", ticks=[0, scale.vmax],
            location="bottom", shrink=0.75, aspect=14, format="{x:.2g} %",
        )  # fmt: skip
    style.add_title(
        figure,
        "Mean |gradient| of the central unit, in % of each map's sum\n"
        "one scale per layer; frame: receptive field\n"
        "dashed, dotted: square with 95 %, 50 % of the sum",
    )
    return figure


def _draw_growth(ax: Axes, chains: Sequence[Chain]) -> None:
    for i, (chain, color) in enumerate(zip(chains, cycle(COLORS), strict=False)):
        sizes = [1, *chain.sizes]
        width = max(1.5, 5 - 1.2 * i)  # thinner and thinner, so that overlapping lines stay visible
        ax.plot(range(len(sizes)), sizes, marker="o", ms=width + 3, color=color, lw=width)
        end = len(sizes) - 1, sizes[-1]
        ax.annotate(f"{chain.name}: {sizes[-1]} px", end, (4, 8), textcoords="offset points",
                    ha="right", color=color, fontsize=LABEL)  # fmt: skip
    longest = max(len(chain.sizes) for chain in chains)
    ax.set(xlim=(-0.2, longest + 0.2), ylim=(0, 1.12 * max(max(c.sizes) for c in chains)))
    ax.set_xticks(range(longest + 1))
    style.style_axes(ax, x="layers", y="receptive field (px)")


def _draw_costs(ax: Axes, chains: Sequence[Chain], key: str, *, has_names: bool) -> None:
    values = [chain.costs[key] for chain in chains]
    positions = range(len(chains))
    ax.barh(positions, values, color=[c for c, _ in zip(cycle(COLORS), chains, strict=False)])
    for y, value in enumerate(values):
        ax.text(value, y, f" {value:,}", va="center", fontsize=NOTE)
    ax.set_yticks(positions, [chain.name if has_names else "" for chain in chains])
    ax.set(xlim=(0, 1.3 * max(values)), xticks=[])
    ax.invert_yaxis()
    style.style_axes(ax, title=key)
    ax.tick_params(length=0)
    ax.spines["bottom"].set_visible(False)


def _draw_profiles(figure: Figure, chains: Sequence[Chain]) -> None:
    shares = [100 * np.outer(chain.profile, chain.profile) for chain in chains]
    scale = style.positive_scale(*shares)
    axes = np.atleast_1d(figure.subplots(1, len(chains)))
    limit = max(map(len, shares)) / 2 + 1  # pixels from the center; all maps have the same size
    for ax, chain, share in zip(axes, chains, shares, strict=True):
        size = len(share)
        style.tile(ax, share, style.POSITIVE, scale)
        center = (size - 1) / 2
        ax.set(xlim=(center - limit, center + limit), ylim=(center + limit, center - limit))
        ax.set_facecolor(matplotlib.colormaps[style.POSITIVE](0.0))
        _outline(ax, [(0, size - 1)] * 2, color="white", lw=1.2)
        ax.set_title(chain.name, fontsize=LABEL)
        ax.set_xlabel(f"{size} px, σ = {chain.sigma:.2f} px", fontsize=LABEL)
    label = "% of the sum over all pixels"
    style.color_bar(figure, axes, style.POSITIVE, scale, label, shrink=0.7, pad=0.01)
    title = "Effective field of uniform weights, one scale; white frame: receptive field"
    figure.suptitle(title, fontsize=LABEL)


def _clip(box: Sequence[Interval], shape: Sequence[int]) -> list[Interval]:
    """The part of a box that lies within an image of this shape."""
    return [(max(a, 0), min(b, n - 1)) for (a, b), n in zip(box, shape, strict=True)]


def _outline(ax: Axes, box: Sequence[Interval], *, color: str, **options: Any) -> None:
    """Draw the frame of a box unless it is empty; pixel i extends from i - 1/2 to i + 1/2."""
    (top, bottom), (left, right) = box
    if top <= bottom and left <= right:
        corner, width, height = (left - 0.5, top - 0.5), right - left + 1, bottom - top + 1
        ax.add_patch(Rectangle(corner, width, height, fill=False, ec=color, **options))
