"""Text in a picture of pixels, drawn by Pillow in a tenth of the time that matplotlib takes."""

from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LINE = 1.3  # from one base line to the next, in sizes of the font


class Label(Text):
    """A matplotlib Text of one or more upright lines, placed to the pixel and drawn by Pillow.

    Only raster pictures: PDF and SVG get matplotlib's own text. `va="baseline"` is that of the
    last line.
    """

    def draw(self, renderer: RendererBase) -> None:
        if not isinstance(renderer, RendererAgg):
            super().draw(renderer)
        elif self.get_visible() and self.get_text():
            ink, x, y = self._placed(renderer)
            colour = [round(255 * part) for part in to_rgb(self.get_color())]
            pixels = np.empty((*ink.shape, 4), np.uint8)
            pixels[..., :3], pixels[..., 3] = colour, ink
            renderer.draw_image(renderer.new_gc(), x, y, pixels[::-1])
        self.stale = False

    def get_window_extent(self, renderer: Any = None, dpi: float | None = None) -> Bbox:
        if not isinstance(renderer, RendererAgg):
            return super().get_window_extent(renderer, dpi)
        ink, x, y = self._placed(renderer)
        return Bbox.from_bounds(x, y, ink.shape[1], ink.shape[0])

    def _placed(self, renderer: RendererAgg) -> tuple[NDArray[np.uint8], int, int]:
        """The ink (H, W), 0 to 255, and the pixel where its lower left corner lies."""
        size = renderer.points_to_pixels(self.get_fontsize())
        across, up = self.get_horizontalalignment(), self.get_verticalalignment()
        ink, below = _ink(self.get_text(), str(self.get_fontweight()), size, across)
        height, width = ink.shape
        x, y = self.get_transform().transform(self.get_position())
        left = {"left": 0.0, "center": width / 2, "right": width}[across]
        down = {"top": height, "center": height / 2, "baseline": below, "bottom": 0.0}[up]
        return ink, round(x - left), round(y - down)


@lru_cache(maxsize=4096)
def _ink(text: str, weight: str, size: float, align: str) -> tuple[NDArray[np.uint8], int]:
    """Text as a tight picture of its ink, and how much of it is below the last base line."""
    font = _font(weight, size)
    lines = text.split("\n")
    boxes = [font.getbbox(line, anchor="ls") for line in lines]  # about the base line's left end
    width = max(1, round(max(box[2] for box in boxes)))
    bases = [round(i * LINE * size) for i in range(len(lines))]
    above = max(1, round(max(-box[1] - base for box, base in zip(boxes, bases, strict=True))))
    below = max(0, round(boxes[-1][3]))
    picture = Image.new("L", (width, above + bases[-1] + below))
    draw = ImageDraw.Draw(picture)
    for line, box, base in zip(lines, boxes, bases, strict=True):
        spare = width - box[2]
        x = {"left": 0.0, "center": spare / 2, "right": spare}[align]
        draw.text((round(x), above + base), line, fill=255, font=font, anchor="ls")
    return np.asarray(picture), below


@lru_cache(maxsize=64)
def _font(weight: str, size: float) -> ImageFont.FreeTypeFont:
    path = fontManager.findfont(FontProperties(family="DejaVu Sans", weight=weight))
    return ImageFont.truetype(str(path), size)
