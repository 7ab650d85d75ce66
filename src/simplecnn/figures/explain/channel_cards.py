"""A card for each channel, and an index that ranks channels by the accuracy lost without them."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures import style
from simplecnn.figures.filters import dots_note, filter_colors
from simplecnn.figures.raster import Mosaic, format_axis_number, join, short_name, text_width
from simplecnn.figures.style import BETTER, FAINT, NOTE, SIGNED, SMALL, WRONG, number

# Pixels on a card.
WIDTH, HEIGHT = 1230, 462  # of a card below its title, without the class names below its charts
TOP = 40  # top edge of the weights, the images and the first chart
IMAGES = 340  # left edge of the images
STEP = 150  # between the left edges of two images
LEFT, SPAN, CHART = 850, 350, 104  # charts: left edge, width, height
MAX_NAMED, MAX_NAME = 20, 150  # number of class names below a chart; length of a rotated name
BAR = "0.45"


@dataclass(frozen=True)
class Patch:
    """The receptive field of one position of a channel in one image."""

    pixels: NDArray  # (C, h, w), NaN in the padding
    label: str  # the image's true class
    value: float  # activation at the position


@dataclass(eq=False)
class Channel:
    """Activation statistics of one channel of a convolution, and the effect of removing it.

    Activations are taken after the non-linearity. The peak of an image is the largest activation
    over all positions. Changes are NaN until the channel has been removed.
    """

    layer: str
    index: int
    weights: NDArray  # (C, K, L)
    best: NDArray  # (9,) indices of the images with the highest peaks, in descending order
    peaks: NDArray  # (9,) peaks of these images
    places: NDArray  # (9, 2) row and column of the peaks in the feature map
    class_means: NDArray  # (classes,) mean activation over a class's images, NaN without
    edges: NDArray  # (bins + 1,) histogram edges, from the lowest to the highest activation
    counts: NDArray  # (bins,) histogram of the activations at all positions
    acc_change: float = np.nan  # fraction of images, negative if accuracy is lost
    loss_change: float = np.nan  # cross-entropy, positive if the loss increases
    acc_change_per_class: NDArray = field(init=False)  # (classes,) fraction of a class's images

    def __post_init__(self) -> None:
        self.acc_change_per_class = np.full(len(self.class_means), np.nan)

    @property
    def card(self) -> str:
        """The name of the channel's figure."""
        return f"{self.layer.replace('.', '_')}_{self.index:03d}"

    @property
    def dead(self) -> bool:
        """Whether the activation is zero at all positions of all images."""
        return bool(self.edges[0] == 0 and self.edges[-1] == 0)

    @property
    def preferred(self) -> int:
        """The class with the highest mean activation."""
        return int(np.nanargmax(self.class_means))

    @property
    def selectivity(self) -> float:
        """From 0, equally active for all classes, to 1, active for one class only; NaN if inactive.

        (a - b) / (a + b) with the mean activation a of the preferred class and b of all others.
        Morcos et al., "On the importance of single directions for generalization", ICLR 2018.
        """
        means = np.maximum(self.class_means[np.isfinite(self.class_means)], 0)
        a = means.max()
        b = (means.sum() - a) / max(1, len(means) - 1)
        return float((a - b) / (a + b)) if a > 0 else np.nan


def card_figure(
    channel: Channel,
    patches: Sequence[Patch],
    class_names: Sequence[str],
    *,
    field_size: tuple[int, int],
    limit: float,
    title: str,
    in_color: bool = False,
) -> Figure:
    """Draw a channel's weights, the images that activate it most, and charts by class.

    `patches` are the receptive fields (`field_size` pixels) of its peaks, `limit` is the largest
    absolute weight of the layer; `in_color`, its three inputs are red, green and blue. Everything
    is drawn into a single Axes in units of pixels: a network has a hundred cards, and one Axes per
    tile would take four times as long.
    """
    names = [short_name(name, MAX_NAME, SMALL) for name in class_names]
    widest = max(text_width(name, SMALL) for name in names)
    rotated = widest + 4 > SPAN / min(len(names), MAX_NAMED)
    names_height = max(44, widest + 12) if rotated else 44
    size, scale = (WIDTH, HEIGHT + 2 * names_height), Normalize(-limit, limit)
    mosaic = Mosaic(*size, title=title, colors=SIGNED, scale=scale)
    _draw_weights(mosaic, channel.weights, scale, in_color=in_color)
    if channel.dead:
        mosaic.write(IMAGES, TOP - 14, "dead: its activation is zero on all test images",
                     color=WRONG)  # fmt: skip
    else:
        _draw_patches(mosaic, patches, field_size)
    _draw_histogram(mosaic, channel)
    selectivity = "always zero" if channel.dead else f"selectivity {channel.selectivity:.2f}"
    _draw_classes(
        mosaic, TOP + 178, names, channel.class_means,
        f"mean activation by class, {selectivity}", [BAR] * len(names), rotated,
    )  # fmt: skip
    lost = -100 * channel.acc_change_per_class
    _draw_classes(
        mosaic, TOP + 178 + CHART + 30 + names_height, names, lost,
        f"accuracy lost without it: {number(-100 * channel.acc_change, 'z.2f')} points, "
        f"loss {number(channel.loss_change, '+.3f')}",
        [WRONG if value > 0 else BETTER for value in lost], rotated,
    )  # fmt: skip
    return mosaic.figure


def index_figure(channels: Sequence[Channel], class_names: Sequence[str], title: str) -> Figure:
    """Draw the accuracy lost, in points: one row per removed channel, one column per class."""
    table = -100 * np.array([[c.acc_change, *c.acc_change_per_class] for c in channels])
    names = [short_name(name) for name in class_names]
    widest, columns = max(map(text_width, names)) / style.DPI, len(names) + 1  # inches
    rotated = widest + 0.05 > 5.5 / columns
    height = max(0.19 * len(channels), 2.4) + 1.3 + widest * rotated
    figure = style.new_figure(8.3 + widest + max(0, 0.11 * columns - 5.5), height)
    ax = figure.add_subplot()
    scale = style.signed_scale(np.nan_to_num(table))
    style.tile(ax, table, SIGNED, scale)
    ax.set_aspect("auto")
    ax.set_xticks(range(columns), ["all", *names], fontsize=NOTE, rotation=90 * rotated)
    rows = range(len(channels))
    ax.set_yticks(rows, [f"{c.layer} {c.index}" for c in channels], fontsize=NOTE)
    ax.axvline(0.5, color="black", lw=1)
    for (row, column), value in np.ndenumerate(table):
        if len(class_names) <= 12 and np.isfinite(value) and round(value, 2):
            ax.text(
                column, row, number(value, ".1f" if abs(value) >= 10 else ".2f"), fontsize=SMALL,
                ha="center", va="center",
                color="white" if abs(scale(value) - 0.5) > 0.33 else "black",
            )  # fmt: skip
    right = ax.secondary_yaxis("right")
    notes = [
        "none" if np.isnan(c.selectivity) else f"{c.selectivity:.2f}  {names[c.preferred]}"
        for c in channels
    ]
    right.set_yticks(rows, notes, fontsize=NOTE)
    label = "selectivity (0: all classes equally,\n1: one class only), preferred class"
    right.set_ylabel(label, fontsize=NOTE, labelpad=8)
    right.tick_params(length=0)
    ax.tick_params(length=0)
    style.color_bar(
        figure, ax, SIGNED, scale, "accuracy lost in percentage points", shrink=0.5, pad=0.02
    )
    style.add_title(figure, title)
    return figure


def _draw_weights(mosaic: Mosaic, weights: NDArray, scale: Normalize, *, in_color: bool) -> None:
    """Draw the kernel of each input channel; `in_color`, also all three as a color image."""
    num_inputs, height, width = weights.shape
    limit = float(scale.vmax or 1.0)
    names = ("color", "red", "green", "blue") if in_color else ()
    num_tiles = len(names) or num_inputs
    columns = int(np.ceil(np.sqrt(num_tiles)))
    rows = -(-num_tiles // columns)
    tiles = np.full((rows * columns, height, width), np.nan, np.float32)
    tiles[num_tiles - num_inputs : num_tiles] = weights
    zoom = max(1, 240 // max(rows * height, columns * width))
    numbered = num_inputs == 1 and height * width <= 25
    tiles = tiles.reshape(rows, columns, height, width)
    gap, header = max(1, zoom // 4), 20 if in_color else 0
    pixels = join(tiles, zoom=zoom, gap=(gap + header, gap), dots=not numbered)
    bottom, right = TOP + header + pixels.shape[0], pixels.shape[1]
    # Gray gaps between kernels, because white is a weight of zero.
    mosaic.box(0, TOP, right, bottom - TOP, fc="0.88", ec="0.6", lw=0.5, zorder=-1)
    mosaic.put(pixels, 0, TOP + header)
    for i, name in enumerate(names):
        row, column = divmod(i, columns)
        x = column * (width * zoom + gap)
        y = TOP + header + row * (height * zoom + gap + header)
        if name == "color":
            mosaic.put(filter_colors(weights, scale), x, y, zoom)
        mosaic.write(x + width * zoom / 2, y - 5, name, size=SMALL, ha="center")
    norm = float(np.linalg.norm(weights.astype(np.float64)))
    shape = f"{num_inputs} x {height} x {width}" if num_inputs > 1 else f"{height} x {width}"
    mosaic.write(0, TOP - 14, f"weights {shape}, norm {norm:.2f}")
    for (i, j), value in np.ndenumerate(weights[0]) if numbered else ():
        mosaic.write(
            (j + 0.5) * zoom, TOP + (i + 0.5) * zoom, number(value, "z.2f"), ha="center",
            va="center", color="white" if abs(value) > 0.7 * limit else "black",
        )  # fmt: skip
    ramp = np.linspace(-limit, limit, right)[None].repeat(9, 0)
    mosaic.put(ramp, 0, bottom + 16)
    mosaic.box(0, bottom + 16, right, 9, fill=False, ec="0.6", lw=0.5)
    for x, side, value in ((0, "left", -limit), (right / 2, "center", 0.0),
                           (right, "right", limit)):  # fmt: skip
        mosaic.write(x, bottom + 44, number(value, ".2g"), ha=side)
    dots = "" if numbered else dots_note(zoom)
    mosaic.write(0, bottom + 68, f"same scale for the layer{dots}", color=FAINT)
    if in_color:
        mosaic.write(0, bottom + 88, "in color, gray is zero", color=FAINT)


def _draw_patches(mosaic: Mosaic, patches: Sequence[Patch], field_size: tuple[int, int]) -> None:
    size_text = " x ".join(map(str, field_size))
    padded = any(np.isnan(patch.pixels).any() for patch in patches)
    mosaic.write(
        IMAGES, TOP - 14,
        f"the {len(patches)} test images that activate it most (class: activation),\n"
        f"cropped to its receptive field of {size_text}{'; ochre: padding' * padded}",
    )  # fmt: skip
    captions = [(short_name(p.label, STEP - 8, SMALL), number(p.value, ".2f")) for p in patches]
    two_lines = any(text_width(": ".join(caption)) > STEP - 8 for caption in captions)
    between, size = ("\n", SMALL) if two_lines else (": ", NOTE)
    for i, (patch, caption) in enumerate(zip(patches, captions, strict=True)):
        row, column = divmod(i, 3)
        x, y = IMAGES + STEP * column, TOP + 168 * row
        _, height, width = patch.pixels.shape
        zoom = max(1, 130 // max(height, width))
        mosaic.put(style.image_colors(patch.pixels), x, y, zoom)
        mosaic.box(x, y, zoom * width, zoom * height, fill=False, ec="0.6", lw=0.5)
        mosaic.write(x, y + zoom * height + 5, between.join(caption), size=size, va="top")


def _draw_histogram(mosaic: Mosaic, channel: Channel) -> None:
    share = channel.counts / (channel.counts.sum() or 1.0)
    near_zero = f", {100 * share[0]:.0f} % near zero" if channel.edges[0] == 0 else ""
    mosaic.write(LEFT, TOP - 14, f"histogram of activations{near_zero}")
    lowest = 1e-4  # fraction of all activations: start of the logarithmic axis, which ends at 1
    heights = CHART * np.clip(np.log10(np.maximum(share, 1e-12) / lowest) / 4, 0, 1)
    _bars(mosaic, TOP + CHART, heights, [BAR] * len(share), gap=0.0)
    for power, label in ((0, "100 %"), (2, "1 %"), (4, "0.01 %")):
        mosaic.write(LEFT - 6, TOP + CHART * power / 4, label, size=SMALL, ha="right", va="center")
    ends = [(0.0, "left", channel.edges[0]), (1.0, "right", channel.edges[-1])]
    for position, side, value in ends[: 1 if channel.dead else 2]:
        mosaic.write(
            LEFT + position * SPAN, TOP + CHART + 18, format_axis_number(value), size=SMALL, ha=side
        )


def _draw_classes(
    mosaic: Mosaic,
    top: float,
    names: Sequence[str],
    values: NDArray,
    title: str,
    colors: Sequence[str],
    rotated: bool,
) -> None:
    """Draw one bar per class with its name below it, `rotated` if names are long."""
    mosaic.write(LEFT, top - 14, title)
    values = np.nan_to_num(values)
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    unit = CHART / ((high - low) or 1.0)
    zero = top + CHART + low * unit
    _bars(mosaic, zero, values * unit, colors, gap=0.2)
    for value in dict.fromkeys((low, 0.0, high)):
        y = zero - value * unit
        if value == 0.0 or abs(y - zero) > 12:
            mosaic.write(
                LEFT - 6, y, format_axis_number(value), size=SMALL, ha="right", va="center"
            )
    for i in range(0, len(names), -(-len(names) // MAX_NAMED)):  # only as many names as fit
        x = LEFT + SPAN * (i + 0.5) / len(names)
        mosaic.write(x, top + CHART + 6, names[i], size=SMALL, ha="center", va="top",
                     rotation=90 * rotated)  # fmt: skip


def _bars(
    mosaic: Mosaic, zero: float, heights: NDArray, colors: Sequence[str], *, gap: float
) -> None:
    """Draw bars of `heights` pixels across the chart, and the axis line at y = `zero`."""
    width = SPAN / len(heights)
    left = LEFT + width * (np.arange(len(heights)) + gap / 2)
    mosaic.ax.bar(left, -heights, width * (1 - gap), bottom=zero, align="edge", color=colors)
    mosaic.ax.plot([LEFT, LEFT + SPAN], [zero] * 2, color="black", lw=0.5)
