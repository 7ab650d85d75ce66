"""One look for every picture: which colours mean what, and how one array becomes one tile."""

from collections.abc import Iterable
from textwrap import fill

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray

# Red is positive, blue is negative, and zero is white as paper: in matplotlib's RdBu it is grey.
_BLUE_TO_RED = (
    *("#053061", "#2166ac", "#4393c3", "#92c5de", "#d1e5f0", "#ffffff"),
    *("#fddbc7", "#f4a582", "#d6604d", "#b2182b", "#67001f"),
)
SIGNED = LinearSegmentedColormap.from_list("blue_white_red", _BLUE_TO_RED, N=255)
POSITIVE = "viridis"  # dark is zero
COUNT = LinearSegmentedColormap.from_list("white_red", _BLUE_TO_RED[5:], N=256)  # white is none
DIGIT = "gray_r"  # ink is black on white paper
# A mistake that was none the last time, and one that persists: apart in grey too.
NEW, OLD = "#d9600f", "0.8"
# The name, colour and line of each stage. The marks tell them apart in grey.
STAGES = {
    "train": ("training", "#1b6ca8", "o-"),
    "val": ("validation", "#c8553d", "s--"),
    "test": ("test", "#3f8f4f", "^-."),
}
DPI = 150


def new_figure(width: float, height: float, *, fitted: bool = True) -> Figure:
    """An empty figure, `width` x `height` inches, outside pyplot's global state.

    Axes are `fitted` into it by matplotlib, which draws twice for that, or stay where they are put.
    """
    layout = "constrained" if fitted else "none"
    figure = Figure(figsize=(width, height), dpi=DPI, layout=layout)  # type: ignore[arg-type]
    FigureCanvasAgg(figure)
    return figure


def head(figure: Figure, text: str, size: float) -> None:
    """The title above all axes, `size` in points, its lines broken where the figure ends."""
    width = int(72 * figure.get_figwidth() / (0.62 * size))  # a character takes 0.62 of its size
    lines = (fill(line, width) for line in text.split("\n"))
    figure.suptitle("\n".join(lines), fontsize=size)


def signed_scale(*arrays: ArrayLike) -> Normalize:
    """One scale for signed values: symmetric, so that zero is white."""
    limit = _largest(np.abs(np.asarray(a)) for a in arrays)
    return Normalize(-limit, limit)


def positive_scale(*arrays: ArrayLike) -> Normalize:
    """One scale for values from zero up."""
    return Normalize(0.0, _largest(np.asarray(a) for a in arrays))


def tile(
    ax: Axes, array: ArrayLike, colours: str | Colormap, scale: Normalize | None = None
) -> AxesImage:
    """Draw one 2-D array (H, W) with hard pixel edges and no ticks."""
    image = ax.imshow(np.asarray(array), cmap=colours, norm=scale, interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    return image


def mark_negative(image: AxesImage) -> None:
    """Put a dot on what is below zero in a tile: in grey, the halves of SIGNED look alike.

    What is nearly white has none: below a tenth of the scale.
    """
    values = np.asarray(image.get_array())
    rows, columns = np.nonzero(values < -0.1 * float(np.max(image.get_clim())))
    middles = np.stack([columns, rows], axis=1)
    square = 0.15 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    dots = PolyCollection(list(middles[:, None] + square), facecolors="white")
    assert image.axes is not None
    image.axes.add_collection(dots, autolim=False)


def _largest(arrays: Iterable[NDArray]) -> float:
    """The largest finite value, or 1.0 where all are zero (a scale needs a width)."""
    peaks = [float(a[np.isfinite(a)].max()) for a in arrays if np.isfinite(a).any()]
    return max(peaks, default=0.0) or 1.0
