"""One look for all figures: colors, text sizes, numbers, and how an array becomes a picture."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.image import AxesImage
from matplotlib.text import Text
from numpy.typing import ArrayLike, NDArray

TITLE, LABEL, NOTE, SMALL = 9, 8, 6.5, 5.5  # text sizes in points
DPI = 150

# Red is positive, blue is negative, and zero is white as paper: in matplotlib's RdBu it is gray.
_BLUE_TO_RED = (
    *("#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#ffffff"),
    *("#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"),
)
SIGNED = LinearSegmentedColormap.from_list("blue_white_red", _BLUE_TO_RED, N=255)
POSITIVE = "viridis"  # dark is zero
COUNT = LinearSegmentedColormap.from_list("white_red", _BLUE_TO_RED[5:], N=256)  # white is none
DIGIT, PHOTO = "gray_r", "gray"  # of gray images: ink is black on white paper; as they are
# Told apart by color-blind readers (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
WRONG, BETTER = "#b2182b", "#2166ac"  # a wrong answer, a loss of accuracy; a gain
# A mistake that is new, and one that persists: apart in gray too.
NEW, OLD = "#d9600f", "0.8"
FAINT = "0.35"  # text that explains
GRID = "0.9"
PADDING = "#d9c79e"  # a color that no gray image has
ROUND = (1, 2, 2.5, 5, 10)  # what may lie between two numbers at an axis, times a power of ten
FONT = "DejaVu Sans"
FURTHER_FONTS = (  # for names that FONT cannot write, where one is installed
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Hiragino Sans", "PingFang SC"),
    *("Microsoft YaHei", "Yu Gothic", "Noto Sans", "Arial Unicode MS"),
)
# The name, color and line of each stage. The marks tell them apart in gray.
STAGES = {
    "train": ("training", COLORS[0], "o-"),
    "val": ("validation", COLORS[1], "s--"),
    "test": ("test", COLORS[2], "^-."),
}


# A font in another weight is fine.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


@contextmanager
def drawing(*, ink: bool = True) -> Iterator[None]:
    """For figures that are made and drawn inside: names are in fonts that have their letters.

    ink: gray images are drawings, ink on paper; else photographs, shown as they are.
    """
    look: Any = {"font.family": list(fonts()), "image.cmap": DIGIT if ink else PHOTO}
    with matplotlib.rc_context(look), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


@cache
def fonts() -> tuple[str, ...]:
    """The font of all text, and those of `FURTHER_FONTS` that are installed."""
    installed = set(fontManager.get_font_names())
    return (FONT, *(name for name in FURTHER_FONTS if name in installed))


def new_figure(width: float, height: float, *, fitted: bool = True) -> Figure:
    """An empty figure, `width` x `height` inches, outside pyplot's global state.

    Axes are `fitted` into it by matplotlib, which draws twice for that, or stay where they are put.
    """
    layout = "constrained" if fitted else "none"
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def head(figure: Figure, text: str) -> None:
    """The title above all axes, its lines broken where the figure ends.

    The last call on a figure: a $ in the text that it holds by now belongs to a name, and begins no
    formula. matplotlib's own numbers, powers of ten, are written later.
    """
    width = int(72 * figure.get_figwidth() / (0.62 * TITLE))  # a character takes 0.62 of its size
    lines = (fill(line, width) for line in text.split("\n"))
    figure.suptitle("\n".join(lines), fontsize=TITLE)
    for words in figure.findobj(Text):
        if isinstance(words, Text) and "$" in words.get_text():
            words.set_parse_math(False)


def dress(ax: Axes, *, title: str = "", x: str = "", y: str = "", grid: Any = "") -> None:
    """Title, axis labels and ticks in the sizes of all figures, a `grid` (x, y or both), and no
    frame above and to the right."""
    ax.set_title(title, fontsize=LABEL)
    ax.set_xlabel(x, fontsize=NOTE)
    ax.set_ylabel(y, fontsize=NOTE)
    ax.tick_params(labelsize=NOTE)
    ax.spines[["top", "right"]].set_visible(False)
    if grid:
        ax.grid(axis=grid, color=GRID, linewidth=0.6)
        ax.set_axisbelow(True)


def color_bar(
    figure: Figure, axes: Any, colors: str | Colormap, scale: Normalize, label: str, **options: Any
) -> None:
    """The scale of `axes` beside them; options are those of matplotlib's colorbar."""
    bar = figure.colorbar(ScalarMappable(scale, colors), ax=axes, aspect=30, **options)
    bar.set_label(label, fontsize=NOTE)
    bar.ax.tick_params(labelsize=NOTE)


def number(value: float, spec: str = "z.3g") -> str:
    """A number as text with a true minus sign; z in `spec` makes -0.00 a 0.00."""
    return format(float(value), spec).replace("-", "\N{MINUS SIGN}")


def signed_scale(*arrays: ArrayLike) -> Normalize:
    """One scale for signed values: symmetric, so that zero is white."""
    limit = _largest(*map(np.abs, arrays))
    return Normalize(-limit, limit)


def positive_scale(*arrays: ArrayLike) -> Normalize:
    """One scale for values from zero up."""
    return Normalize(0.0, _largest(*arrays))


def image_colors(image: NDArray) -> NDArray:
    """An image (C, H, W) as colors (H, W, 3): three channels in color, another number in gray.

    Images outside of 0 to 1, standardized ones say, are brought there by their extremes. NaN,
    which is padding, becomes ochre.
    """
    missing = np.isnan(image).any(0)
    low, high = np.nanmin(image, initial=0.0), np.nanmax(image, initial=1.0)
    if low < 0 or high > 1:
        low, high = np.nanmin(image), np.nanmax(image)
        image = (image - low) / ((high - low) or 1.0)
    values = np.nan_to_num(image)
    if len(image) == 3 and not (values == values[:1]).all():
        colors = values.transpose(1, 2, 0)
    else:
        gray = values.mean(0) if matplotlib.rcParams["image.cmap"] == PHOTO else 1 - values.mean(0)
        colors = gray[..., None].repeat(3, 2)
    return np.where(missing[..., None], to_rgb(PADDING), colors)


def tile(
    ax: Axes, array: ArrayLike, colors: str | Colormap, scale: Normalize | None = None
) -> AxesImage:
    """Draw one 2-D array (H, W) with hard pixel edges and no ticks."""
    image = ax.imshow(np.asarray(array), cmap=colors, norm=scale, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    return image


def mark_negative(image: AxesImage) -> None:
    """Put a dot on what is below zero in a tile: in gray, the halves of SIGNED look alike.

    What is nearly white has none: below a tenth of the scale.
    """
    values = np.asarray(image.get_array())
    rows, columns = np.nonzero(values < -0.1 * float(np.max(image.get_clim())))
    middles = np.stack([columns, rows], axis=1)
    square = 0.15 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    dots = PolyCollection(list(middles[:, None] + square), facecolors="white")
    assert image.axes is not None
    image.axes.add_collection(dots, autolim=False)


def _largest(*arrays: ArrayLike) -> float:
    """The largest finite value, or 1.0 where all are zero (a scale needs a width)."""
    values = np.concatenate([np.ravel(a) for a in arrays])
    return float(values[np.isfinite(values)].max(initial=0.0)) or 1.0
