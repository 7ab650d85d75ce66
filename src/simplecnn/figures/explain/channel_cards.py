"""One channel on one card, and the index that ranks the channels by what they are worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.filters import dots_words
from simplecnn.figures.raster import Mosaic, join
from simplecnn.figures.style import BETTER, FAINT, NOTE, SIGNED, SMALL, WRONG, number

WIDTH, HEIGHT = 1230, 550  # pixels of a card below its title
TOP = 40  # of weights, images and the first chart
IMAGES = 340  # left edge of the images
LEFT, SPAN, CHART = 850, 350, 104  # charts: left edge, width, height
BAR = "0.45"


@dataclass(frozen=True)
class Patch:
    """What one position sees of one image: (C, h, w), NaN in the padding."""

    pixels: NDArray
    label: str
    value: float  # of the channel there


@dataclass(frozen=True)
class Card:
    """All that one card shows; what the fields hold is said in `explain.channel_cards`."""

    title: str
    weights: NDArray  # (C, K, L)
    limit: float  # end of the layer's color scale
    patches: Sequence[Patch]
    field_size: tuple[int, int]
    edges: NDArray
    counts: NDArray
    class_names: Sequence[str]
    class_means: NDArray
    selectivity: float
    acc_per_class: NDArray
    acc: float
    loss: float
    dead: bool


def card_figure(card: Card) -> Figure:
    """Weights, the images that excite the channel most, charts of activations and classes.

    All is drawn into one Axes whose units are pixels: a network has a hundred cards, and an Axes
    a tile would take four times as long.
    """
    scale = Normalize(-card.limit, card.limit)
    mosaic = Mosaic(WIDTH, HEIGHT, title=card.title, colors=SIGNED, scale=scale)
    _draw_weights(mosaic, card)
    _draw_patches(mosaic, card)
    _draw_histogram(mosaic, card)
    selective = f"selectivity {card.selectivity:.2f}"
    _draw_classes(
        mosaic, TOP + 178, card.class_names, card.class_means,
        f"mean activation by class, {'zero for all' if card.dead else selective}",
        [BAR] * len(card.class_names),
    )  # fmt: skip
    lost = -100 * card.acc_per_class
    _draw_classes(
        mosaic, TOP + 356, card.class_names, lost,
        f"points lost without it: {number(-100 * card.acc, 'z.2f')} in all, "
        f"loss {number(card.loss, '+.3f')}",
        [WRONG if value > 0 else BETTER for value in lost],
    )  # fmt: skip
    return mosaic.figure


def index_figure(
    names: Sequence[str],
    acc_per_class: NDArray,
    acc: NDArray,
    selectivity: NDArray,
    preferred: Sequence[str],
    *,
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """A row a channel, a column a class: the accuracy lost, in points, when it is removed."""
    figure = style.new_figure(8.4, 0.19 * len(names) + 1.7)
    ax = figure.add_subplot()
    table = -100 * np.column_stack([acc, acc_per_class])
    scale = style.signed_scale(np.nan_to_num(table))
    style.tile(ax, table, SIGNED, scale)
    ax.set_aspect("auto")
    ax.set_xticks(range(len(class_names) + 1), ["all", *class_names], fontsize=NOTE)
    ax.set_yticks(range(len(names)), names, fontsize=NOTE)
    if max(map(len, class_names)) > 3:
        ax.tick_params(axis="x", rotation=45)
    ax.axvline(0.5, color="black", lw=1)
    for (row, column), value in np.ndenumerate(table):
        if len(class_names) <= 12 and np.isfinite(value) and round(value, 2):
            ax.text(
                column, row, number(value, ".1f" if abs(value) >= 10 else ".2f"), fontsize=SMALL,
                ha="center", va="center",
                color="white" if abs(scale(value) - 0.5) > 0.33 else "black",
            )  # fmt: skip
    right = ax.secondary_yaxis("right")
    notes = [f"{s:.2f}  {c}" for s, c in zip(selectivity, preferred, strict=True)]
    right.set_yticks(range(len(names)), notes, fontsize=NOTE)
    right.set_ylabel("selectivity (0: all classes alike, 1: one class) and its class",
                     fontsize=NOTE)  # fmt: skip
    right.tick_params(length=0)
    ax.tick_params(length=0)
    style.color_bar(
        figure, ax, SIGNED, scale, "points of accuracy lost, one scale", shrink=0.5, pad=0.02
    )
    style.head(figure, title)
    return figure


def _draw_weights(mosaic: Mosaic, card: Card) -> None:
    num_inputs, height, width = card.weights.shape
    columns = int(np.ceil(np.sqrt(num_inputs)))
    rows = -(-num_inputs // columns)
    tiles = np.full((rows * columns, height, width), np.nan, np.float32)
    tiles[:num_inputs] = card.weights
    zoom = max(1, 240 // max(rows * height, columns * width))
    numbered = num_inputs == 1 and height * width <= 25
    tiles = tiles.reshape(rows, columns, height, width)
    picture = join(tiles, zoom=zoom, gap=max(1, zoom // 4), dots=not numbered)
    bottom, right = TOP + picture.shape[0], picture.shape[1]
    # Gray behind the gaps between kernels: white is a weight of zero.
    mosaic.box(0, TOP, right, picture.shape[0], fc="0.88", ec="0.6", lw=0.5, zorder=-1)
    mosaic.put(picture, 0, TOP)
    norm = float(np.linalg.norm(card.weights.astype(np.float64)))
    what = f"{num_inputs} x {height} x {width}" if num_inputs > 1 else f"{height} x {width}"
    mosaic.write(0, TOP - 14, f"weights {what}, norm {norm:.2f}")
    for (i, j), value in np.ndenumerate(card.weights[0]) if numbered else ():
        mosaic.write(
            (j + 0.5) * zoom, TOP + (i + 0.5) * zoom, number(value, "z.2f"), ha="center",
            va="center", color="white" if abs(value) > 0.7 * card.limit else "black",
        )  # fmt: skip
    ramp = np.linspace(-card.limit, card.limit, right)[None].repeat(9, 0)
    mosaic.put(ramp, 0, bottom + 16)
    mosaic.box(0, bottom + 16, right, 9, fill=False, ec="0.6", lw=0.5)
    for x, side, value in ((0, "left", -card.limit), (right / 2, "center", 0.0),
                           (right, "right", card.limit)):  # fmt: skip
        mosaic.write(x, bottom + 44, number(value, ".2g"), ha=side)
    dots = "" if numbered else dots_words(zoom)
    mosaic.write(0, bottom + 68, f"one scale for the layer{dots}", color=FAINT)


def _draw_patches(mosaic: Mosaic, card: Card) -> None:
    if card.dead:
        mosaic.write(IMAGES, TOP - 14, "dead: zero on all test images", color=WRONG)
        return
    size = " x ".join(map(str, card.field_size))
    padded = any(np.isnan(patch.pixels).any() for patch in card.patches)
    mosaic.write(
        IMAGES, TOP - 14, f"the {len(card.patches)} test images that excite it most,\neach cut to "
        f"the {size} pixels it sees{'; ochre: padding' if padded else ''}",
    )  # fmt: skip
    for i, patch in enumerate(card.patches):
        row, column = divmod(i, 3)
        x, y = IMAGES + 150 * column, TOP + 168 * row
        _, height, width = patch.pixels.shape
        zoom = max(1, 130 // max(height, width))
        mosaic.put_image(patch.pixels, x, y, zoom)
        mosaic.box(x, y, zoom * width, zoom * height, fill=False, ec="0.6", lw=0.5)
        mosaic.write(x, y + zoom * height + 17, f"{patch.label}: {number(patch.value, '.2f')}")


def _draw_histogram(mosaic: Mosaic, card: Card) -> None:
    share = card.counts / (card.counts.sum() or 1.0)
    near_zero = f", {100 * share[0]:.0f} % near zero" if card.edges[0] == 0 else ""
    mosaic.write(LEFT, TOP - 14, f"activations at all positions{near_zero}")
    lowest = 1e-4  # of all activations; the axis is logarithmic from here to 1
    heights = CHART * np.clip(np.log10(np.maximum(share, 1e-12) / lowest) / 4, 0, 1)
    _bars(mosaic, TOP + CHART, heights, [BAR] * len(share), gap=0.0)
    for power, label in ((0, "100 %"), (2, "1 %"), (4, "0.01 %")):
        mosaic.write(LEFT - 6, TOP + CHART * power / 4, label, size=SMALL, ha="right", va="center")
    ends = [(0.0, "left", card.edges[0]), (1.0, "right", card.edges[-1])]
    for place, side, value in ends[: 1 if card.dead else 2]:
        mosaic.write(LEFT + place * SPAN, TOP + CHART + 18, number(value), size=SMALL, ha=side)


def _draw_classes(
    mosaic: Mosaic,
    top: float,
    names: Sequence[str],
    values: NDArray,
    title: str,
    colors: Sequence[str],
) -> None:
    """A bar a class."""
    mosaic.write(LEFT, top - 14, title)
    values = np.nan_to_num(values)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    unit = CHART / ((high - low) or 1.0)
    zero = top + CHART + low * unit
    _bars(mosaic, zero, values * unit, colors, gap=0.2)
    for value in dict.fromkeys((low, 0.0, high)):
        y = zero - value * unit
        if value == 0.0 or abs(y - zero) > 12:
            mosaic.write(LEFT - 6, y, number(value, ".2g"), size=SMALL, ha="right", va="center")
    long = max(map(len, names)) > 2
    for i in range(0, len(names), max(1, -(-len(names) // 20))):  # only as many names as fit
        x = LEFT + SPAN * (i + 0.5) / len(names)
        mosaic.write(x, top + CHART + 6, names[i][:12], size=SMALL, ha="center", va="top",
                     rotation=30 * long)  # fmt: skip


def _bars(
    mosaic: Mosaic, foot: float, heights: NDArray, colors: Sequence[str], *, gap: float
) -> None:
    """Bars of `heights` pixels over the whole chart, and the line at their foot."""
    width = SPAN / len(heights)
    left = LEFT + width * (np.arange(len(heights)) + gap / 2)
    mosaic.ax.bar(left, -heights, width * (1 - gap), bottom=foot, align="edge", color=colors)
    mosaic.ax.plot([LEFT, LEFT + SPAN], [foot] * 2, color="black", lw=0.5)
