"""Shared style of all figures: colors, text sizes, number formats, color scales and image tiles."""

import logging
import re
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

# Red is positive, blue is negative, zero is pure white; the middle of matplotlib's RdBu is gray.
_BLUE_TO_RED = (
    *("#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#ffffff"),
    *("#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"),
)
SIGNED = LinearSegmentedColormap.from_list("blue_white_red", _BLUE_TO_RED, N=255)
POSITIVE = "viridis"  # dark is zero
COUNT = LinearSegmentedColormap.from_list("white_red", _BLUE_TO_RED[5:], N=256)  # white is none
DIGIT, PHOTO = "gray_r", "gray"  # colormaps of gray images: ink on white paper; photographs
# Distinguishable for color-blind readers (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
WRONG, BETTER = "#b2182b", "#2166ac"  # a wrong prediction or lower accuracy; higher accuracy
NEW, OLD = "#d9600f", "0.8"  # a new mistake, a persisting one; distinguishable in gray
FAINT = "0.35"  # explanatory text
GRID = "0.9"
PADDING = "#d9c79e"  # ochre, which no gray image contains
ROUND = (1, 2, 2.5, 5, 10)  # allowed tick steps, times a power of ten
FONT = "DejaVu Sans"
FURTHER_FONTS = (  # fallbacks for glyphs that FONT lacks, used if installed
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Zen Hei", "Hiragino Sans", "PingFang SC"),
    *("Microsoft YaHei", "Yu Gothic", "Noto Sans", "Arial Unicode MS"),
)
# Name, color and line style of each stage; the markers distinguish them in gray.
STAGES = {
    "train": ("training", COLORS[0], "o-"),
    "val": ("validation", COLORS[1], "s--"),
    "test": ("test", COLORS[2], "^-."),
}


# Silences warnings that a fallback font lacks the requested weight.
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)


@contextmanager
def drawing(*, ink: bool = True) -> Iterator[None]:
    """Set matplotlib's options for the figures that are created and drawn inside.

    Enables the fallback fonts, and draws gray images as ink on white paper if `ink`, else as
    photographs.
    """
    options: Any = {"font.family": list(fonts()), "image.cmap": DIGIT if ink else PHOTO}
    with matplotlib.rc_context(options), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


@cache
def fonts() -> tuple[str, ...]:
    """Return `FONT` and the installed ones of `FURTHER_FONTS`."""
    installed = set(fontManager.get_font_names())
    return (FONT, *(name for name in FURTHER_FONTS if name in installed))


def new_figure(width: float, height: float, *, fitted: bool = True) -> Figure:
    """Create an empty figure, `width` x `height` inches, outside pyplot's global state.

    Args:
        fitted: use constrained layout, which draws the figure twice.
    """
    layout = "constrained" if fitted else "none"
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def drawable(text: str) -> str:
    """`text`, with a question mark for each byte of a file name that is not UTF-8."""
    return text.encode(errors="replace").decode()


def wrap(text: str, width: int) -> str:
    """Break `text` between words into lines of at most `width` characters.

    A number stays together with its unit or the word after it, and so does a size such as 3 x 3.
    """
    joined = re.sub(r"(?<=\d) |(?<=\d x) ", "\N{NO-BREAK SPACE}", text)
    if max(map(len, joined.split(" "))) > width:  # a series of numbers, or a long name
        joined = text
    lines = fill(joined, width, break_on_hyphens=False)
    return lines.replace("\N{NO-BREAK SPACE}", " ")


def add_title(figure: Figure, text: str) -> None:
    """Add a title above all axes, wrapped to the width of the figure.

    Call last: disables math text for all text with a $ that the figure holds so far, because it
    comes from names. Tick labels such as powers of ten are created later, when drawing.
    """
    width = int(72 * figure.get_figwidth() / (0.62 * TITLE))  # a character is 0.62 of its size wide
    lines = (wrap(line, width) for line in drawable(text).split("\n"))
    figure.suptitle("\n".join(lines), fontsize=TITLE)
    for artist in figure.findobj(Text):
        if isinstance(artist, Text) and "$" in artist.get_text():
            artist.set_parse_math(False)


def style_axes(ax: Axes, *, title: str = "", x: str = "", y: str = "", grid: Any = "") -> None:
    """Set title, axis labels and tick sizes, hide the top and right spines, and draw a `grid`
    ("x", "y" or "both")."""
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
    """Add a color bar to `axes`; `options` are those of `Figure.colorbar`."""
    bar = figure.colorbar(ScalarMappable(scale, colors), ax=axes, **{"aspect": 30, **options})
    bar.set_label(label, fontsize=NOTE)
    bar.ax.tick_params(labelsize=NOTE)


def number(value: float, spec: str = "z.3g") -> str:
    """Format a number with a true minus sign; z in `spec` turns -0.00 into 0.00."""
    return format(float(value), spec).replace("-", "\N{MINUS SIGN}")


def signed_scale(*arrays: ArrayLike) -> Normalize:
    """Return one scale for all arrays of signed values: symmetric, so that zero is white."""
    limit = _largest(*map(np.abs, arrays))
    return Normalize(-limit, limit)


def positive_scale(*arrays: ArrayLike) -> Normalize:
    """Return one scale, from zero up, for all arrays of nonnegative values."""
    return Normalize(0.0, _largest(*arrays))


def image_colors(image: NDArray) -> NDArray:
    """Convert an image (C, H, W) to RGB colors (H, W, 3) from 0 to 1.

    Three different channels are red, green and blue. Otherwise the mean of the channels is drawn in
    gray, as ink on white paper or as a photograph (see `drawing`). An image with values outside of
    0 to 1, for example a standardized one, is rescaled by its minimum and maximum. NaN marks
    padding and becomes PADDING.
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
    """Draw an array (H, W) without interpolation and without ticks."""
    image = ax.imshow(np.asarray(array), cmap=colors, norm=scale, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    return image


def mark_negative(image: AxesImage) -> None:
    """Draw a dot on each negative value of a tile: in gray, the halves of SIGNED look alike.

    Nearly white values, above -10 % of the scale, get none.
    """
    values = np.asarray(image.get_array())
    rows, columns = np.nonzero(values < -0.1 * float(np.max(image.get_clim())))
    centers = np.stack([columns, rows], axis=1)
    square = 0.15 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    dots = PolyCollection(list(centers[:, None] + square), facecolors="white")
    assert image.axes is not None
    image.axes.add_collection(dots, autolim=False)


def _largest(*arrays: ArrayLike) -> float:
    """Return the largest finite value, or 1.0 if all are zero: a scale must not be empty."""
    values = np.concatenate([np.ravel(a) for a in arrays])
    return float(values[np.isfinite(values)].max(initial=0.0)) or 1.0
