"""Pictures of pixels: many small arrays, each value a whole number of screen pixels, and words."""

from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.colors import Colormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, fontManager, get_font
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from simplecnn.figures.style import (
    DPI,
    FAINT,
    LABEL,
    NOTE,
    SMALL,
    fonts,
    image_colors,
    new_figure,
    number,
)

MARGIN, BAR = 14, 92  # pixels around the picture; to the right, for the color bar
HEADER = 62  # pixels for the title of two lines
MIN_FOR_DOTS = 9  # pixels of a value


class Mosaic:
    """A blank picture `width` x `height` pixels (title and color bar come on top) to put tiles in.

    Its one Axes has screen pixels as units and the origin in the upper left corner: words are
    placed exactly and nothing is resampled. `colors` and `scale` are those of all tiles put with
    `put`. `bar` is what they show, in one word, below the color bar; without it there is none.
    """

    def __init__(
        self,
        width: int,
        height: int,
        *,
        title: str,
        colors: str | Colormap,
        scale: Normalize,
        bar: str = "",
    ) -> None:
        self.colors, self.scale = colors, scale
        widest = max(len(line) for line in title.split("\n"))
        total_width = max(MARGIN + width + (BAR if bar else MARGIN), MARGIN + 10 * widest)
        total_height = HEADER + height + MARGIN
        self.figure: Figure = new_figure(total_width / DPI, total_height / DPI, fitted=False)
        self.ax: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.ax.set_axis_off()
        self.ax.set(xlim=(-MARGIN, total_width - MARGIN), ylim=(total_height - HEADER, -HEADER))
        self.write(0, -HEADER + 10, title, size=LABEL, va="top")
        if bar:
            self._color_bar(width + 20, max(20, min(height - 20, 360)), bar)

    def put(
        self,
        array: NDArray,
        x: float,
        y: float,
        zoom: int = 1,
        *,
        colors: str | Colormap | None = None,
        scale: Normalize | None = None,
    ) -> None:
        """Draw `array` (H, W) with its upper left corner at (x, y), `zoom` pixels a value.

        Other `colors` than those of the mosaic need a `scale` of their own. An array (H, W, 3) of
        colors, 0 to 1, is drawn as it is. NaN is left out.
        """
        assert (colors is None) == (scale is None)
        height, width = array.shape[0] * zoom, array.shape[1] * zoom
        self.ax.imshow(
            array, cmap=colors or self.colors, norm=scale or self.scale, interpolation="nearest",
            extent=(x, x + width, y + height, y), aspect="auto",
        )  # fmt: skip

    def put_image(self, image: NDArray, x: float, y: float, zoom: int) -> None:
        """Draw an image (C, H, W): three channels in color, one (or three equal) in gray."""
        self.put(image_colors(image), x, y, zoom)

    def box(self, x: float, y: float, width: float, height: float, **options: Any) -> None:
        """A rectangle; options are those of matplotlib's."""
        self.ax.add_patch(Rectangle((x, y), width, height, **options))

    def write(self, x: float, y: float, text: str, *, size: float = NOTE, **options: Any) -> None:
        """Write `text` at (x, y), `size` in points; options are those of matplotlib's Text."""
        # No formulas: a class may be called $x$.
        self.ax.add_artist(Label(x, y, text, fontsize=size, parse_math=False, **options))

    def _color_bar(self, x: float, height: int, name: str) -> None:
        """The scale from its end down to its start, `name` below it."""
        low, high = float(self.scale.vmin or 0.0), float(self.scale.vmax or 1.0)
        ramp = np.linspace(high, low, height)[:, None].repeat(12, axis=1)
        self.put(ramp, x, 0)
        self.box(x, 0, 12, height, fill=False, linewidth=0.4)
        for value in sorted({low, 0.0, high}):
            y = height * (high - value) / (high - low)
            words = f"{value:,.0f}" if abs(value) >= 100 else number(value)
            self.write(x + 17, y, words, va="center")
        self.write(x, height + 10, name, size=SMALL, va="top", color=FAINT)


def join(tiles: NDArray, *, zoom: int, gap: int, dots: bool = False) -> NDArray:
    """Tiles (rows, columns, H, W) in one array of screen pixels, NaN in the gaps between them.

    With `dots`, what is below zero has a dot of zero in its middle, where it fits: in gray, the
    two halves of a diverging scale look alike.
    """
    large = tiles.repeat(zoom, axis=2).repeat(zoom, axis=3).astype(np.float32)
    rows, columns, height, width = large.shape
    if dots and zoom >= MIN_FOR_DOTS:
        middle = slice(zoom // 2 - zoom // 9, zoom // 2 + zoom // 9 + 1)
        cells = large.reshape(rows, columns, tiles.shape[2], zoom, tiles.shape[3], zoom)
        below = (tiles < 0)[:, :, :, None, :, None]
        np.copyto(cells[:, :, :, middle, :, middle], 0, where=below)
    padded = np.full((rows, columns, height + gap, width + gap), np.nan, np.float32)
    padded[:, :, :height, :width] = large
    joined = padded.transpose(0, 2, 1, 3).reshape(rows * (height + gap), columns * (width + gap))
    return joined[: joined.shape[0] - gap, : joined.shape[1] - gap]


class Label(Text):
    """Upright text drawn by Pillow: a picture may have hundreds, and matplotlib takes five times
    as long. Turned text, and PDF and SVG, get matplotlib's own."""

    def draw(self, renderer: RendererBase) -> None:
        if not isinstance(renderer, RendererAgg) or self.get_rotation():
            super().draw(renderer)
            return
        ink, x, y = self._place(renderer)
        pixels = np.empty((*ink.shape, 4), np.uint8)
        pixels[..., :3] = [round(255 * part) for part in to_rgb(self.get_color())]
        pixels[..., 3] = ink
        renderer.draw_image(renderer.new_gc(), x, y, pixels[::-1])

    def get_window_extent(self, renderer: Any = None, dpi: float | None = None) -> Bbox:
        if not isinstance(renderer, RendererAgg) or self.get_rotation():
            return super().get_window_extent(renderer, dpi)
        ink, x, y = self._place(renderer)
        return Bbox.from_bounds(x, y, ink.shape[1], ink.shape[0])

    def _place(self, renderer: RendererAgg) -> tuple[NDArray[np.uint8], int, int]:
        """The ink (H, W), 0 to 255, and the pixel of its lower left corner."""
        size, align = renderer.points_to_pixels(self.get_fontsize()), self.get_horizontalalignment()
        ink, below = _ink(self.get_text(), str(self.get_fontweight()), size, align)
        height, width = ink.shape
        x, y = self.get_transform().transform(self.get_position())
        left = {"left": 0.0, "center": width / 2, "right": width}[align]
        down = {"top": height, "center": height / 2, "baseline": below, "bottom": 0.0}
        return ink, round(x - left), round(y - down[self.get_verticalalignment()])


@lru_cache(maxsize=4096)
def _ink(text: str, weight: str, size: float, align: Any) -> tuple[NDArray[np.uint8], int]:
    """Text as a tight picture of its ink, and how much of it is below the last baseline."""
    font = _font(_font_file(text, weight), size)
    options: dict[str, Any] = {"font": font, "anchor": "ls", "align": align, "spacing": size / 5}
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    left, top, right, bottom = map(round, draw.multiline_textbbox((0, 0), text, **options))
    image = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(image).multiline_text((-left, -top), text, fill=255, **options)
    last = text.rpartition("\n")[2]
    return np.asarray(image), max(0, round(font.getbbox(last, anchor="ls")[3]))


@lru_cache(maxsize=64)
def _font(path: str, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


def _font_file(text: str, weight: str) -> str:
    """The first font that has every character of a text."""
    files = (fontManager.findfont(FontProperties(family=f, weight=weight)) for f in fonts())
    first = str(next(files))
    letters = [ord(c) for c in text if not c.isascii()]
    if all(get_font(first).get_char_index(c) for c in letters):
        return first
    others = (str(f) for f in files if all(get_font(f).get_char_index(c) for c in letters))
    return next(others, first)


def encode_png(figure: Figure) -> tuple[bytes, int, int]:
    """A figure as the bytes of a PNG file, and its width and height in pixels.

    Draws once, where `savefig` draws twice, and packs lightly: half the time, a fifth more bytes.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = BytesIO()
    image.save(buffer, format="png", compress_level=1)
    return buffer.getvalue(), image.width, image.height
