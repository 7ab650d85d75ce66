"""One channel on one card, and the index that ranks the channels by what they are worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.mosaic import LEAST_FOR_DOTS, join

TITLE, LABEL, NOTE, SMALL = 10, 8, 6.5, 5.5  # font sizes in points
WIDTH, HEIGHT = 1260, 620  # pixels of a card
LEFT, SPAN, CHART = 880, 340, 104  # its charts: left edge, width, height
LOSS, GAIN, BAR = "#b2182b", "#2166ac", "0.45"
PADDING = "#d9c79e"  # a colour that no grey digit has


@dataclass(frozen=True)
class Patch:
    """What a unit sees of one image: (C, h, w), NaN in the padding."""

    pixels: NDArray
    label: str
    value: float


@dataclass(frozen=True)
class Card:
    """All that one card shows; what the fields hold is said in `unit_cards.LayerRecord`."""

    title: str
    note: str
    weights: NDArray  # (C, K, L)
    limit: float  # end of the layer's colour scale
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
    """1260 x 620 pixels: weights, best patches, and charts of activations and classes.

    All is drawn into one Axes whose units are pixels: a card costs a quarter of what it would
    cost with an Axes a tile, and a network has a hundred of them.
    """
    figure = style.new_figure(WIDTH / style.DPI, HEIGHT / style.DPI)
    figure.set_layout_engine("none")
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set_axis_off()
    ax.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0))
    name = ax.text(30, 26, card.title, fontsize=TITLE, weight="bold", va="center")
    after = name.get_window_extent().x1 + 14
    ax.text(after, 27, card.note, fontsize=NOTE, va="center")
    _draw_weights(ax, card)
    _draw_patches(ax, card)
    share = card.counts / (card.counts.sum() or 1.0)
    near_zero = f", {100 * share[0]:.0f} % near zero" if card.edges[0] == 0 else ""
    _draw_histogram(ax, 100, share, card.edges, f"activations at all positions{near_zero}")
    selective = f"selectivity {card.selectivity:.2f}" if not card.dead else "all of them zero"
    _draw_classes(
        ax, 278, card.class_names, card.class_means, f"mean activation by class, {selective}"
    )
    lost = f"{-100 * card.acc + 0.0:.2f}".replace("-", "−")
    _draw_classes(
        ax, 456, card.class_names, -100 * card.acc_per_class,
        f"points lost without it: {lost} in all, loss {_signed(card.loss, 3)}", coloured=True,
    )  # fmt: skip
    return figure


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
    height = 0.19 * len(names) + 1.7
    figure = style.new_figure(8.4, height)
    ax = figure.add_subplot()
    table = -100 * np.column_stack([acc, acc_per_class])
    scale = style.signed_scale(np.nan_to_num(table))
    style.tile(ax, table, style.SIGNED, scale)
    ax.set_aspect("auto")
    ax.set_xticks(range(len(class_names) + 1), ["all", *class_names], fontsize=NOTE)
    ax.set_yticks(range(len(names)), names, fontsize=NOTE)
    if max(map(len, class_names)) > 3:
        ax.tick_params(axis="x", rotation=45)
    ax.axvline(0.5, color="black", lw=1)
    limit = float(scale.vmax or 1)
    for (row, column), value in np.ndenumerate(table):
        if len(class_names) <= 12 and np.isfinite(value) and round(value, 2):
            ax.text(
                column, row, f"{value:.{1 if abs(value) >= 10 else 2}f}".replace("-", "−"),
                ha="center", va="center", fontsize=5,
                color="white" if abs(value) > 0.65 * limit else "black",
            )  # fmt: skip
    right = ax.secondary_yaxis("right")
    right.set_yticks(
        range(len(names)),
        [f"{s:.2f}  {c}" for s, c in zip(selectivity, preferred, strict=True)],
        fontsize=NOTE,
    )
    right.set_ylabel("selectivity, preferred class", fontsize=LABEL)
    right.tick_params(length=0)
    ax.tick_params(length=0)
    bar = figure.colorbar(
        ScalarMappable(scale, style.SIGNED), ax=ax, shrink=0.5, aspect=30, pad=0.02
    )
    bar.set_label("points of accuracy lost, one scale", fontsize=NOTE)
    bar.ax.tick_params(labelsize=NOTE)
    style.head(figure, title, LABEL + 1)
    return figure


def _draw_weights(ax: Axes, card: Card) -> None:
    num_inputs, height, width = card.weights.shape
    columns = int(np.ceil(np.sqrt(num_inputs)))
    rows = -(-num_inputs // columns)
    tiles = np.full((rows * columns, height, width), np.nan, np.float32)
    tiles[:num_inputs] = card.weights
    side = max(rows * height, columns * width)
    zoom = max(1, 240 // side)
    gap = 0 if num_inputs == 1 else zoom // 2 if 3 * side * zoom // 2 < 380 else 1
    numbered = num_inputs == 1 and height * width <= 25
    dots = not numbered and zoom >= LEAST_FOR_DOTS
    tiles = tiles.reshape(rows, columns, height, width)
    picture = join(tiles, zoom=zoom, gap=gap, dots=dots)
    scale = Normalize(-card.limit, card.limit)
    bottom = 100 + picture.shape[0]
    _put(ax, picture, 30, 100, style.SIGNED, scale)
    norm = float(np.linalg.norm(card.weights.astype(np.float64)))
    what = f"{num_inputs} x {height} x {width}" if num_inputs > 1 else f"{height} x {width}"
    ax.text(30, 84, f"weights {what}, norm {norm:.2f}", fontsize=NOTE)
    if numbered:
        for (i, j), value in np.ndenumerate(card.weights[0]):
            ax.text(
                30 + (j + 0.5) * zoom, 100 + (i + 0.5) * zoom, f"{value:.2f}".replace("-", "−"),
                ha="center", va="center", fontsize=NOTE,
                color="white" if abs(value) > 0.7 * card.limit else "black",
            )  # fmt: skip
    right = 30 + picture.shape[1]
    _put(ax, np.linspace(-1, 1, right - 30)[None].repeat(9, 0), 30, bottom + 16,
         style.SIGNED, Normalize(-1, 1))  # fmt: skip
    ends = (
        (30, "left", -card.limit),
        ((30 + right) / 2, "center", 0.0),
        (right, "right", card.limit),
    )
    for x, side_of, value in ends:
        ax.text(x, bottom + 44, f"{value:.2g}".replace("-", "−"), fontsize=NOTE, ha=side_of)
    words = f"one scale for the layer{', a dot: below zero' if dots else ''}"
    ax.text(30, bottom + 68, words, fontsize=NOTE, color="0.35")


def _draw_patches(ax: Axes, card: Card) -> None:
    if card.dead:
        ax.text(370, 84, "dead: zero on all test images", fontsize=NOTE, color="tab:red")
        return
    size = " x ".join(map(str, card.field_size))
    ax.text(
        370, 84, f"the {len(card.patches)} test images that excite it most,\neach cut to the "
        f"{size} pixels it sees", fontsize=NOTE, linespacing=1.3,
    )  # fmt: skip
    if any(np.isnan(patch.pixels).any() for patch in card.patches):
        ax.text(790, 84, "ochre: padding", fontsize=NOTE, color="0.35", ha="right")
    for i, patch in enumerate(card.patches):
        row, column = divmod(i, 3)
        x, y = 370 + 145 * column, 100 + 168 * row
        _, height, width = patch.pixels.shape
        zoom = 130 / max(height, width)
        pixels = colours(patch.pixels)
        extent = (x, x + zoom * width, y + zoom * height, y)
        ax.imshow(pixels, extent=extent, interpolation="nearest", aspect="auto")
        ax.add_patch(Rectangle((x, y), zoom * width, zoom * height, fill=False, ec="0.6", lw=0.5))
        ax.text(x, y + zoom * height + 17, f"{patch.label}: {patch.value:.2f}", fontsize=NOTE)


def _put(
    ax: Axes, picture: NDArray, x: float, y: float, colour_map: Colormap, scale: Normalize
) -> None:
    height, width = picture.shape
    # Grey behind the gaps between kernels: white is a weight of zero.
    ax.add_patch(Rectangle((x, y), width, height, facecolor="0.88", zorder=-1))
    ax.imshow(
        picture, cmap=colour_map, norm=scale, interpolation="nearest", aspect="auto",
        extent=(x, x + width, y + height, y),
    )  # fmt: skip
    ax.add_patch(Rectangle((x, y), width, height, fill=False, ec="0.6", lw=0.5))


def colours(image: NDArray) -> NDArray:
    """An image (C, H, W) from 0 to 1 as (H, W, 3): ink on paper, or in its three colours.

    NaN, which is padding, becomes ochre.
    """
    missing = np.isnan(image).any(0)
    ink = np.clip(np.nan_to_num(image), 0, 1)
    shown = ink.transpose(1, 2, 0) if len(image) == 3 else 1 - ink.mean(0)[..., None].repeat(3, 2)
    return np.where(missing[..., None], to_rgb(PADDING), shown)


def _draw_histogram(ax: Axes, top: float, share: NDArray, edges: NDArray, title: str) -> None:
    ax.text(LEFT, top - 16, title, fontsize=NOTE)
    lowest = 1e-4  # of all activations; the axis is logarithmic from here to 1
    heights = CHART * np.clip(np.log10(np.maximum(share, 1e-12) / lowest) / 4, 0, 1)
    _bars(ax, top, np.zeros(len(share)), heights, [BAR] * len(share), gap=0.0)
    for power in (0, 2, 4):
        y = top + CHART * power / 4
        label = ("100 %", "1 %", "0.01 %")[power // 2]
        ax.text(LEFT - 6, y, label, fontsize=SMALL, ha="right", va="center")
    ends = [(0.0, "left", edges[0]), (1.0, "right", edges[-1])]
    for place, side, value in ends if edges[0] < edges[-1] else ends[:1]:
        text = f"{value:.3g}".replace("-", "−")
        ax.text(LEFT + place * SPAN, top + CHART + 16, text, fontsize=SMALL, ha=side)


def _draw_classes(
    ax: Axes, top: float, names: Sequence[str], values: NDArray, title: str, *,
    coloured: bool = False,
) -> None:  # fmt: skip
    """A bar a class; `coloured`: red above zero, blue below."""
    ax.text(LEFT, top - 16, title, fontsize=NOTE)
    values = np.nan_to_num(values)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    unit = CHART / ((high - low) or 1.0)
    paint = [(LOSS if v > 0 else GAIN) if coloured else BAR for v in values]
    _bars(ax, top, np.full(len(values), -low * unit), values * unit, paint, gap=0.2)
    zero = top + CHART + low * unit
    for value in dict.fromkeys((low, 0.0, high)):
        y = top + CHART - (value - low) * unit
        if value == 0.0 or abs(y - zero) > 12:
            text = f"{value:.2g}".replace("-", "−")
            ax.text(LEFT - 6, y, text, fontsize=SMALL, ha="right", va="center")
    step = max(1, -(-len(names) // 20))  # only as many names as there is room for
    long = max(map(len, names)) > 2
    for i in range(0, len(names), step):
        ax.text(
            LEFT + SPAN * (i + 0.5) / len(names), top + CHART + 8, names[i][:12],
            fontsize=SMALL - 1 if long else SMALL, ha="center", va="top", rotation=30 * long,
        )  # fmt: skip


def _bars(
    ax: Axes, top: float, feet: NDArray, heights: NDArray, paint: Sequence[str], *, gap: float
) -> None:
    """Bars in pixels above the foot of a chart, and the line at zero."""
    width = SPAN / len(heights)
    left = LEFT + width * (np.arange(len(heights)) + gap / 2)
    right = left + width * (1 - gap)
    low, high = top + CHART - feet, top + CHART - feet - heights
    corners = np.stack(
        [np.stack([left, low], 1), np.stack([left, high], 1),
         np.stack([right, high], 1), np.stack([right, low], 1)], 1
    )  # fmt: skip
    ax.add_collection(PolyCollection(list(corners), facecolors=paint, linewidths=0), autolim=False)
    ax.plot([LEFT, LEFT + SPAN], [low[0]] * 2, color="black", lw=0.5)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")
