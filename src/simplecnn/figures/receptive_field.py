"""Receptive fields as pictures: boxes on a digit, networks side by side, effective fields."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike

from simplecnn.figures import style
from simplecnn.figures.style import COLORS, LABEL, NOTE

Interval = tuple[int, int]
Box = tuple[Interval, Interval]  # first and last row, first and last column


@dataclass(frozen=True)
class LayerBoxes:
    """The fields of some units of one layer."""

    title: str
    boxes: Mapping[tuple[int, int], Box]  # by unit
    visible: Box  # what the layer can see: the image, or the part that a crop leaves of it


@dataclass(frozen=True)
class Chain:
    """One chain of layers for the comparison."""

    name: str
    sizes: Sequence[int]  # receptive field in pixels after each layer
    costs: Mapping[str, int]  # by what is counted: the same keys for each chain
    profile: ArrayLike  # weight of each input column with uniform kernels; sums to 1
    sigma: float  # of the profile, in pixels


@dataclass(frozen=True)
class FieldMap:
    """One measured field."""

    mass: ArrayLike  # (H, W), not negative
    box: Box  # the theoretical field
    squares: Sequence[int]  # sides in pixels, centered in the box
    note: str


def boxes_figure(image: ArrayLike, layers: Sequence[LayerBoxes]) -> Figure:
    """One panel a layer: the image (H, W), the fields of units on it, what is invisible hatched."""
    image = np.asarray(image)
    boxes = [box for layer in layers for box in layer.boxes.values()]
    (top, bottom), (left, right) = (
        (min([0, *(b[axis][0] for b in boxes)]), max([n - 1, *(b[axis][1] for b in boxes)]))
        for axis, n in enumerate(image.shape)
    )
    num_columns = 2 if len(layers) == 4 else min(3, len(layers))
    num_rows = -(-len(layers) // num_columns)
    figure = style.new_figure(3.4 * num_columns, 3.8 * num_rows + 0.4)
    for index, layer in enumerate(layers):
        ax = figure.add_subplot(num_rows, num_columns, index + 1)
        style.tile(ax, image, style.DIGIT)
        _outline(ax, ((0, image.shape[0] - 1), (0, image.shape[1] - 1)), color="0.6", lw=0.8)
        handles = []
        for (unit, box), color in zip(layer.boxes.items(), cycle(COLORS), strict=False):
            _outline(ax, box, color=color, lw=1.8)
            for piece in _outside(box, layer.visible):
                ax.add_patch(
                    Rectangle(*_corner(piece), fill=False, hatch="////", ec=color, lw=0, alpha=0.6)
                )
            handles.append(Patch(facecolor="none", edgecolor=color, lw=1.8, label=f"unit {unit}"))
        ax.set(xlim=(left - 1.5, right + 1.5), ylim=(bottom + 1.5, top - 1.5))
        ax.set_xticks(range(0, image.shape[1], 4))
        ax.set_yticks(range(0, image.shape[0], 4))
        ax.tick_params(labelsize=NOTE)
        ax.set_title(layer.title, fontsize=LABEL)
        ax.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.08),
            ncols=len(handles),
            fontsize=NOTE,
            frameon=False,
            handlelength=1.0,
            columnspacing=1.0,
        )
    title = "Receptive fields, in pixels; hatched: padding, or what a crop cut off"
    style.head(figure, title)
    return figure


def chains_figure(chains: Sequence[Chain]) -> Figure:
    """Growth by layer, costs, and the effective field of uniform weights, chain by chain."""
    figure = style.new_figure(10.4, 8.6)
    parts: Any = figure.subfigures(3, 1, height_ratios=(1.0, 0.8, 1.15))
    growth, costs, maps = parts
    style.head(figure, "The same size is neither the same cost nor the same field")
    _draw_growth(growth.subplots(), chains)
    keys = list(chains[0].costs)
    for index, ax in enumerate(np.atleast_1d(costs.subplots(1, len(keys)))):
        _draw_costs(ax, chains, keys[index], named=index == 0)
    _draw_profiles(maps, chains)
    return figure


def effective_fields_figure(rows: Mapping[str, Mapping[str, FieldMap]]) -> Figure:
    """Measured fields: one row a state of the network, one column a layer with a scale of its own.

    Each map is drawn in percent of its mass, so that rows can be compared.
    """
    layers = list(next(iter(rows.values())))
    figure = style.new_figure(max(1.7 * len(layers) + 0.4, 5.2), 2.45 * len(rows) + 1.1)
    grid = figure.subplots(len(rows), len(layers), squeeze=False)
    for column, layer in enumerate(layers):
        masses = [np.asarray(fields[layer].mass, dtype=float) for fields in rows.values()]
        shares = [100 * mass / (mass.sum() or 1.0) for mass in masses]
        scale = style.positive_scale(*shares)
        for ax, (state, fields), share in zip(grid[:, column], rows.items(), shares, strict=True):
            field = fields[layer]
            style.tile(ax, share, style.POSITIVE, scale)
            _outline(ax, _clipped(field.box, share.shape), color="white", lw=1.2)
            for side, dashes in zip(field.squares, ("--", ":"), strict=False):
                ax.add_patch(_square(field.box, side, dashes))
            ax.set_xlabel(field.note, fontsize=NOTE)
            ax.set_ylabel(state if column == 0 else "", fontsize=LABEL)
        grid[0][column].set_title(layer, fontsize=LABEL)
        bar = figure.colorbar(
            ScalarMappable(scale, style.POSITIVE),
            ax=grid[:, column],
            location="bottom",
            shrink=0.75,
            aspect=14,
            ticks=[0.0, scale.vmax],
        )
        bar.ax.set_xticklabels(["0", f"{scale.vmax:.2g} %"], fontsize=NOTE)
    style.head(
        figure,
        "Mean |gradient| of the central unit, in % of each map's sum, one scale a layer\n"
        "frame: receptive field; dashed, dotted: 95 %, 50 % of sum",
    )
    return figure


def _draw_growth(ax: Axes, chains: Sequence[Chain]) -> None:
    for i, (chain, color) in enumerate(zip(chains, cycle(COLORS), strict=False)):
        sizes = [1, *chain.sizes]
        width = max(1.5, 5 - 1.2 * i)  # later ones thinner, so that what they cover still shows
        ax.plot(range(len(sizes)), sizes, marker="o", ms=width + 3, color=color, lw=width)
        ax.annotate(
            f"{chain.name}: {sizes[-1]} px",
            (len(sizes) - 1, sizes[-1]),
            xytext=(4, 8),
            textcoords="offset points",
            ha="right",
            color=color,
            fontsize=LABEL,
        )
    longest = max(len(chain.sizes) for chain in chains)
    ax.set(xlim=(-0.2, longest + 0.2), ylim=(0, 1.12 * max(max(c.sizes) for c in chains)))
    ax.set_xticks(range(longest + 1))
    ax.set_xlabel("layers", fontsize=LABEL)
    ax.set_ylabel("receptive field (px)", fontsize=LABEL)
    ax.tick_params(labelsize=NOTE)
    ax.spines[["top", "right"]].set_visible(False)


def _draw_costs(ax: Axes, chains: Sequence[Chain], key: str, *, named: bool) -> None:
    values = [chain.costs[key] for chain in chains]
    places = range(len(chains))
    ax.barh(places, values, color=[c for c, _ in zip(cycle(COLORS), chains, strict=False)])
    for place, value in zip(places, values, strict=True):
        ax.text(value, place, f" {value:,}", va="center", fontsize=NOTE)
    ax.set_yticks(places, [chain.name if named else "" for chain in chains], fontsize=NOTE)
    ax.set(xlim=(0, 1.3 * max(values)), xticks=[])
    ax.tick_params(length=0)
    ax.invert_yaxis()
    ax.set_title(key, fontsize=LABEL)
    ax.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_profiles(figure: Figure, chains: Sequence[Chain]) -> None:
    profiles = [np.asarray(chain.profile, dtype=float) for chain in chains]
    width = max(len(p) for p in profiles) + 2
    starts = [(width - len(p)) // 2 for p in profiles]
    padded = [
        np.pad(p, (start, width - len(p) - start))
        for p, start in zip(profiles, starts, strict=True)
    ]
    shares = [100 * np.outer(p, p) for p in padded]
    scale = style.positive_scale(*shares)
    axes = np.atleast_1d(figure.subplots(1, len(chains)))
    for i, (ax, chain) in enumerate(zip(axes, chains, strict=True)):
        style.tile(ax, shares[i], style.POSITIVE, scale)
        size = len(profiles[i])
        _outline(ax, ((starts[i], starts[i] + size - 1),) * 2, color="white", lw=1.2)
        ax.set_title(chain.name, fontsize=LABEL)
        ax.set_xlabel(f"{size} px, σ = {chain.sigma:.2f} px", fontsize=LABEL)
    bar = figure.colorbar(
        ScalarMappable(scale, style.POSITIVE), ax=list(axes), shrink=0.7, aspect=16, pad=0.01
    )
    bar.set_label("% of the weight of all pixels", fontsize=NOTE)
    bar.ax.tick_params(labelsize=NOTE)
    figure.suptitle(
        "Effective field with uniform weights, one scale; white frame: receptive field",
        fontsize=LABEL,
    )


def _corner(box: Box) -> tuple[tuple[float, float], float, float]:
    """A box as matplotlib wants it: pixel i reaches from i - 1/2 to i + 1/2."""
    (top, bottom), (left, right) = box
    return (left - 0.5, top - 0.5), right - left + 1, bottom - top + 1


def _outline(ax: Axes, box: Box, *, color: str, lw: float) -> None:
    if all(first <= last for first, last in box):
        ax.add_patch(Rectangle(*_corner(box), fill=False, ec=color, lw=lw))


def _clipped(box: Box, shape: tuple[int, ...]) -> Box:
    (top, bottom), (left, right) = box
    return (max(top, 0), min(bottom, shape[0] - 1)), (max(left, 0), min(right, shape[1] - 1))


def _square(box: Box, side: int, dashes: str) -> Rectangle:
    (top, bottom), (left, right) = box
    corner = (left + right - side) / 2, (top + bottom - side) / 2
    return Rectangle(corner, side, side, fill=False, ec="white", lw=1.0, ls=dashes)


def _outside(box: Box, visible: Box) -> list[Box]:
    """The parts of a box that lie outside another: above, below, and at both sides between."""
    (top, bottom), (left, right) = box
    (first_row, last_row), (first_column, last_column) = visible
    middle = (max(top, first_row), min(bottom, last_row))
    pieces = [
        ((top, min(bottom, first_row - 1)), (left, right)),
        ((max(top, last_row + 1), bottom), (left, right)),
        (middle, (left, min(right, first_column - 1))),
        (middle, (max(left, last_column + 1), right)),
    ]
    return [p for p in pieces if p[0][0] <= p[0][1] and p[1][0] <= p[1][1]]
