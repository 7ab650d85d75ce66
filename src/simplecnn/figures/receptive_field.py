"""Receptive fields as pictures: boxes on a digit, networks side by side, and where the mass is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike, NDArray

from simplecnn.figures import style

Interval = tuple[int, int]
Box = tuple[Interval, Interval]  # first and last row, first and last column

# Told apart by colour-blind readers (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
TITLE, LABEL, NOTE = 11, 9, 7.5  # font sizes in points


@dataclass(frozen=True)
class LayerBoxes:
    """The fields of some units of one layer."""

    title: str
    boxes: Mapping[tuple[int, int], Box]  # by unit


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
    squares: Sequence[int]  # sides in pixels, centred in the box
    note: str


def boxes_figure(image: ArrayLike, layers: Sequence[LayerBoxes]) -> Figure:
    """One panel a layer: the image (H, W), the fields of units on it, what is padding hatched."""
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
        for (unit, box), colour in zip(layer.boxes.items(), _colours(), strict=False):
            _outline(ax, box, color=colour, lw=1.8)
            for piece in _outside(box, image.shape):
                ax.add_patch(
                    Rectangle(*_corner(piece), fill=False, hatch="////", ec=colour, lw=0, alpha=0.6)
                )
            handles.append(Patch(facecolor="none", edgecolor=colour, lw=1.8, label=f"unit {unit}"))
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
    figure.suptitle(
        "What a unit sees: frame = receptive field, hatched = padding, ticks in pixels",
        fontsize=TITLE,
    )
    return figure


def chains_figure(chains: Sequence[Chain]) -> Figure:
    """Growth by layer, costs, and the effective field of uniform weights, chain by chain."""
    figure = style.new_figure(10.4, 9.0)
    parts: Any = figure.subfigures(3, 1, height_ratios=(1.0, 0.85, 1.2))
    growth, costs, maps = parts
    figure.suptitle("The same size is neither the same cost nor the same field", fontsize=TITLE)
    _draw_growth(growth.subplots(), chains)
    keys = list(chains[0].costs)
    for index, (ax, key) in enumerate(
        zip(np.atleast_1d(costs.subplots(1, len(keys))), keys, strict=True)
    ):
        _draw_costs(ax, chains, key, named=index == 0)
    costs.supxlabel(
        "per pair: one channel in, one out; →: channels into the first convolution, out of all",
        fontsize=NOTE,
    )
    _draw_profiles(maps, chains)
    return figure


def effective_fields_figure(rows: Mapping[str, Mapping[str, FieldMap]]) -> Figure:
    """Measured fields: one row a state of the network, one column a layer with a scale of its own.

    Each map is drawn in percent of its mass, so that rows can be compared.
    """
    layers = list(next(iter(rows.values())))
    figure = style.new_figure(1.7 * len(layers) + 0.4, 2.45 * len(rows) + 1.1)
    grid = figure.subplots(len(rows), len(layers), squeeze=False)
    for column, layer in enumerate(layers):
        shares = [_percent(fields[layer].mass) for fields in rows.values()]
        scale = style.positive_scale(*shares)
        for row, (state, share) in enumerate(zip(rows, shares, strict=True)):
            ax, field = grid[row][column], rows[state][layer]
            style.tile(ax, share, style.POSITIVE, scale)
            _outline(ax, _clipped(field.box, share.shape), color="white", lw=1.2)
            for side, dashes in zip(field.squares, ("--", ":"), strict=False):
                ax.add_patch(_square(field.box, side, dashes))
            ax.set_xlabel(field.note, fontsize=NOTE)
            if row == 0:
                ax.set_title(layer, fontsize=LABEL)
            if column == 0:
                ax.set_ylabel(state, fontsize=LABEL)
        bar = figure.colorbar(
            ScalarMappable(scale, style.POSITIVE),
            ax=grid[:, column],
            location="bottom",
            shrink=0.85,
            aspect=14,
            ticks=[0.0, scale.vmax],
        )
        bar.ax.set_xticklabels(["0", f"{scale.vmax:.2g} %"], fontsize=NOTE)
    figure.suptitle(
        "Mean |gradient| of the central unit, each map in % of its sum\n"
        "white frame: what the unit can see; dashed, dotted: square with 95 %, 50 % of the sum",
        fontsize=LABEL + 1,
    )
    return figure


def _draw_growth(ax: Axes, chains: Sequence[Chain]) -> None:
    for i, (chain, colour) in enumerate(zip(chains, _colours(), strict=False)):
        sizes = [1, *chain.sizes]
        width = max(1.5, 5 - 1.2 * i)  # later ones thinner, so that what they cover still shows
        ax.plot(range(len(sizes)), sizes, marker="o", ms=width + 3, color=colour, lw=width)
        ax.annotate(
            f"{chain.name}: {sizes[-1]} px",
            (len(sizes) - 1, sizes[-1]),
            xytext=(4, 8),
            textcoords="offset points",
            ha="right",
            color=colour,
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
    ax.barh(places, values, color=[c for c, _ in zip(_colours(), chains, strict=False)])
    for place, value in zip(places, values, strict=True):
        ax.text(value, place, f" {value:,}", va="center", fontsize=NOTE)
    ax.set_yticks(places, [chain.name if named else "" for chain in chains], fontsize=NOTE)
    ax.set(xlim=(0, 1.45 * max(values)), xticks=[])
    ax.invert_yaxis()
    ax.set_title(key, fontsize=LABEL)
    ax.spines[["top", "right", "bottom"]].set_visible(False)


def _draw_profiles(figure: Figure, chains: Sequence[Chain]) -> None:
    profiles = [np.asarray(chain.profile, dtype=float) for chain in chains]
    width = max(len(p) for p in profiles) + 2
    shares = []
    for profile in profiles:
        before = (width - len(profile)) // 2
        padded = np.pad(profile, (before, width - len(profile) - before))
        shares.append(100 * np.outer(padded, padded))
    scale = style.positive_scale(*shares)
    axes = np.atleast_1d(figure.subplots(1, len(chains)))
    for ax, chain, share in zip(axes, chains, shares, strict=True):
        style.tile(ax, share, style.POSITIVE, scale)
        size = len(np.asarray(chain.profile))
        first = (width - size) // 2
        box = ((first, first + size - 1),) * 2
        _outline(ax, box, color="white", lw=1.2)
        ax.set_title(chain.name, fontsize=LABEL)
        ax.set_xlabel(f"{size} px, σ = {chain.sigma:.2f} px", fontsize=LABEL)
    bar = figure.colorbar(ScalarMappable(scale, style.POSITIVE), ax=axes, shrink=0.7, aspect=16)
    bar.set_label("% of the weight of all pixels", fontsize=NOTE)
    bar.ax.tick_params(labelsize=NOTE)
    figure.suptitle(
        "Effective field with uniform weights; white frame: receptive field", fontsize=LABEL
    )


def _colours() -> Iterator[str]:
    while True:
        yield from COLOURS


def _percent(mass: ArrayLike) -> NDArray:
    array = np.asarray(mass, dtype=float)
    return 100 * array / (array.sum() or 1.0)


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


def _outside(box: Box, shape: tuple[int, ...]) -> list[Box]:
    """The parts of a box that lie outside an image: above, below, and at both sides between."""
    (top, bottom), (left, right) = box
    height, width = shape
    middle = (max(top, 0), min(bottom, height - 1))
    pieces = [
        ((top, min(bottom, -1)), (left, right)),
        ((max(top, height), bottom), (left, right)),
        (middle, (left, min(right, -1))),
        (middle, (max(left, width), right)),
    ]
    return [p for p in pieces if p[0][0] <= p[0][1] and p[1][0] <= p[1][1]]
