"""Mosaics of many small arrays and text, in which each value covers whole screen pixels."""

import math
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from simplecnn.figures.style import (
    DPI,
    FAINT,
    LABEL,
    NOTE,
    SMALL,
    drawable,
    fonts,
    new_figure,
    number,
)

MARGIN, BAR = 14, 92  # pixels: margin on all sides, width of the color bar with its labels
MIN_BAR = 40  # pixels; the smallest height of a color bar, for three labels
HEADER = 62  # pixels; the height of a two-line title
MIN_FOR_DOTS = 9  # smallest zoom, in pixels per value, at which dots fit
MAX_NAME = 24  # characters of a class name
BOX = "—'"  # as wide as the box that matplotlib draws for a missing glyph


class Mosaic:
    """A blank figure to put tiles on, `width` x `height` pixels plus title and color bar.

    Its single Axes has screen pixels as units and the origin in the upper left corner, so text is
    placed exactly and tiles are not resampled.

    Args:
        colors, scale: colormap and normalization of all tiles.
        bar: label of the color bar; empty for none.
    """

    def __init__(
        self,
        width: int,
        height: int,
        *,
        title: str,
        colors: str | Colormap | None = None,
        scale: Normalize | None = None,
        bar: str = "",
    ) -> None:
        self.colors, self.scale = colors, scale
        right = BAR if bar else MARGIN
        total_width = MARGIN + max(width + right, text_width(title, LABEL) + MARGIN)
        bar_height = max(MIN_BAR, min(height - 20, 360))  # its name is below it
        total_height = HEADER + (max(height, bar_height + 20) if bar else height) + MARGIN
        self.figure: Figure = new_figure(total_width / DPI, total_height / DPI, fitted=False)
        self.ax: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.ax.set_axis_off()
        self.ax.set(xlim=(-MARGIN, total_width - MARGIN), ylim=(total_height - HEADER, -HEADER))
        self.write(0, -HEADER + 10, title, size=LABEL, va="top")
        if bar and scale:
            self._color_bar(width + 20, bar_height, scale, bar)

    def put(self, array: NDArray, x: float, y: float, zoom: int = 1) -> None:
        """Draw `array` (H, W) with its upper left corner at (x, y), `zoom` pixels per value.

        An array (H, W, 3) is drawn as RGB colors from 0 to 1. NaN is transparent.
        """
        height, width = array.shape[0] * zoom, array.shape[1] * zoom
        self.ax.imshow(
            array, cmap=self.colors, norm=self.scale, interpolation="nearest",
            interpolation_stage="data",  # three times as fast as the default for a zoom of 1
            extent=(x, x + width, y + height, y), aspect="auto",
        )  # fmt: skip

    def box(self, x: float, y: float, width: float, height: float, **options: Any) -> None:
        """Draw a rectangle; `options` are those of matplotlib's Rectangle."""
        self.ax.add_patch(Rectangle((x, y), width, height, **options))

    def write(self, x: float, y: float, text: str, *, size: float = NOTE, **options: Any) -> None:
        """Write `text` at (x, y), `size` in points; `options` are those of matplotlib's Text."""
        # No math text: a class may be named $x$.
        self.ax.add_artist(PillowText(x, y, text, fontsize=size, parse_math=False, **options))

    def _color_bar(self, x: float, height: int, scale: Normalize, name: str) -> None:
        """Draw the color bar, the largest value on top, and `name` below it."""
        low, high = float(scale.vmin or 0.0), float(scale.vmax or 1.0)
        self.put(np.linspace(high, low, height)[:, None].repeat(12, axis=1), x, 0)
        self.box(x, 0, 12, height, fill=False, linewidth=0.4)
        for value in sorted({low, 0.0, high}):
            y = height * (high - value) / (high - low)
            self.write(x + 17, y, format_axis_number(value), va="center")
        self.write(x, height + 10, name, size=SMALL, va="top", color=FAINT)


def format_axis_number(value: float) -> str:
    """Format a number for an axis: three digits, without an exponent for 100 and more."""
    return number(value, ",.0f" if abs(value) >= 100 else "z.3g")


def short_name(name: str, width: float = math.inf, size: float = NOTE) -> str:
    """Shorten a class name in the middle to MAX_NAME characters and `width` pixels.

    `size` is the text size in points. At least three characters are kept.
    """
    name = drawable(name)
    for max_length in range(MAX_NAME, 2, -1):
        end = 3 * max_length // 8
        short = name if len(name) <= max_length else f"{name[: max_length - 1 - end]}…{name[-end:]}"
        if text_width(short, size) <= width:
            break
    return short


def text_width(text: str, size: float = NOTE) -> int:
    """Return the width of `text` in pixels, at `size` points."""
    font = _font(text, size, "normal")
    glyph_index = get_font(str(font.path)).get_char_index  # 0 for a missing glyph
    letters = (c if c.isascii() or glyph_index(ord(c)) else BOX for c in text)
    return math.ceil(max(font.getlength(line) for line in "".join(letters).split("\n")))


def join(tiles: NDArray, *, zoom: int, gap: int | tuple[int, int], dots: bool = False) -> NDArray:
    """Join tiles (rows, columns, H, W) into one array of screen pixels, with NaN between them.

    Args:
        zoom: screen pixels per value.
        gap: pixels between tiles, or (between rows, between columns).
        dots: mark negative values with a dot of zeros in the middle, from a zoom of MIN_FOR_DOTS:
            printed in gray, the two halves of a diverging colormap look alike.
    """
    large = tiles.repeat(zoom, axis=2).repeat(zoom, axis=3).astype(np.float32)
    rows, columns, height, width = large.shape
    if dots and zoom >= MIN_FOR_DOTS:
        middle = slice(zoom // 2 - zoom // 9, zoom // 2 + zoom // 9 + 1)
        cells = large.reshape(rows, columns, tiles.shape[2], zoom, tiles.shape[3], zoom)
        negative = (tiles < 0)[:, :, :, None, :, None]
        np.copyto(cells[:, :, :, middle, :, middle], 0, where=negative)
    below, beside = gap if isinstance(gap, tuple) else (gap, gap)
    joined = np.full((rows, height + below, columns, width + beside), np.nan, np.float32)
    joined[:, :height, :, :width] = large.swapaxes(1, 2)
    joined = joined.reshape(rows * (height + below), columns * (width + beside))
    return joined[: len(joined) - below, : joined.shape[1] - beside]


class PillowText(Text):
    """Text that `encode_png` renders with Pillow, which writes hundreds five times faster."""

    def set_clip_path(self, path: Any, transform: Any = None) -> None:
        """Do nothing: text is never clipped, and for hundreds it takes a tenth of a second."""


def encode_png(figure: Figure) -> tuple[bytes, int, int]:
    """Encode a figure as PNG. Returns the bytes, and the width and height in pixels.

    Draws once, where `savefig` draws twice, and compresses little: half the time, 20 % more bytes.
    """
    canvas = FigureCanvasAgg(figure)
    # Not by findobj, which makes the ticks of all axes, hidden ones included: 0.4 s per run.
    texts = [
        text
        for axes in figure.axes
        for text in axes.texts
        if isinstance(text, PillowText) and not text.get_rotation()
    ]
    for text in texts:
        text.set_visible(False)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    for text in texts:
        text.set_visible(True)
        _write(image, text)
    buffer = BytesIO()
    image.save(buffer, format="png", compress_level=1)
    return buffer.getvalue(), image.width, image.height


def _write(image: Image.Image, artist: Text) -> None:
    text, align = artist.get_text(), artist.get_horizontalalignment()
    font = _font(text, float(artist.get_fontsize()), str(artist.get_fontweight()))
    x, y = artist.get_transform().transform(artist.get_position())
    y = image.height - y
    spacing = font.size / 5
    vertical = {"top": "a", "center": "m"}.get(artist.get_verticalalignment(), "s")
    if vertical == "s":  # baseline: of the last line in matplotlib, of the first in Pillow
        y -= text.count("\n") * (font.getbbox("A")[3] + spacing)
    anchor = {"left": "l", "center": "m", "right": "r"}[align] + vertical
    color = tuple(round(255 * channel) for channel in to_rgb(artist.get_color()))
    ImageDraw.Draw(image).multiline_text(
        (round(x), round(y)), text, color, font, anchor, spacing, align
    )


def _font(text: str, size: float, weight: str) -> ImageFont.FreeTypeFont:
    """Return the first font that has a glyph for every character of `text`, else the first font."""
    files = [str(fontManager.findfont(FontProperties(family=f, weight=weight))) for f in fonts()]
    letters = [ord(c) for c in text if not c.isascii()]
    complete = (f for f in files if all(get_font(f).get_char_index(c) for c in letters))
    return _font_of_file(next(complete, files[0]), size * DPI / 72)


_font_of_file = lru_cache(ImageFont.truetype)
