"""Many small arrays in one picture, each value a whole number of screen pixels, one colour scale.

Axes are in screen pixels, the origin in the upper left corner, so that labels can be placed
exactly and nothing is resampled.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from simplecnn.figures.label import Label
from simplecnn.figures.style import DIGIT, DPI, new_figure

MARGIN, BAR = 14, 92  # pixels around the picture; to the right, for the colour bar
TITLE = 62
LEAST_FOR_DOTS = 9  # pixels of a value


class Mosaic:
    """A blank picture `width` x `height` pixels (title and colour bar come on top) to put tiles in.

    `scale` and `colours` are one for all tiles put with `put`. `bar` is what they show, in one
    word, below the colour bar; without it there is no colour bar.
    """

    def __init__(
        self,
        width: int,
        height: int,
        *,
        title: str,
        colours: str | Colormap,
        scale: Normalize,
        bar: str = "",
    ) -> None:
        self.scale, self.colours = scale, colours
        widest = max(len(line) for line in title.split("\n"))
        total_width = max(MARGIN + width + (BAR if bar else MARGIN), MARGIN + 9 * widest)
        total_height = TITLE + height + MARGIN
        self.figure: Figure = new_figure(total_width / DPI, total_height / DPI, fitted=False)
        self.ax: Axes = self.figure.add_axes((0, 0, 1, 1))
        self.ax.set_axis_off()
        self.ax.set(xlim=(-MARGIN, total_width - MARGIN), ylim=(total_height - TITLE, -TITLE))
        self.write(0, -TITLE + 12, title, size=7.5, va="top")
        if bar:
            self._colour_bar(width + 20, max(20, min(height - 20, 360)), bar)

    def put(
        self,
        array: NDArray,
        x: float,
        y: float,
        zoom: int,
        *,
        colours: str | Colormap | None = None,
        scale: Normalize | None = None,
    ) -> None:
        """Draw `array` (H, W) with its upper left corner at (x, y), `zoom` pixels a value.

        Other `colours` than those of the mosaic need a `scale` of their own.
        An array (H, W, 3) of colours, 0 to 1, is drawn as it is. Equal zooms line up: a whole grid
        may be joined by `join` and put at once.
        """
        assert (colours is None) == (scale is None)
        height, width = array.shape[0] * zoom, array.shape[1] * zoom
        pixels = _Pixels(
            self.ax,
            cmap=colours or self.colours,
            norm=scale if colours else self.scale,
            interpolation="nearest",
            extent=(x, x + width, y + height, y),
        )
        pixels.set_data(array)
        self.ax.add_image(pixels)

    def put_image(self, image: NDArray, x: float, y: float, zoom: int) -> None:
        """Draw an image (C, H, W), 0 to 1: three channels in color, one (or three equal) as ink.

        Images on another scale, standardized ones say, are brought to 0 to 1 by their extremes.
        """
        low, high = float(image.min()), float(image.max())
        if low < 0 or high > 1:
            image = (image - low) / ((high - low) or 1.0)
        if len(image) == 3 and not (image == image[:1]).all():
            self.put(image.transpose(1, 2, 0), x, y, zoom)
        else:
            self.put(image.mean(axis=0), x, y, zoom, colours=DIGIT, scale=Normalize(0.0, 1.0))

    def write(self, x: float, y: float, text: str, *, size: float = 6, **options: object) -> None:
        """Write `text` at (x, y), `size` in points; options are those of matplotlib's Text."""
        self.ax.add_artist(Label(x, y, text, fontsize=size, **options))  # type: ignore[arg-type]

    def _colour_bar(self, x: float, height: int, name: str) -> None:
        """The scale from its end down to its start, `name` below it."""
        low, high = float(self.scale.vmin or 0.0), float(self.scale.vmax or 1.0)
        ramp = np.linspace(high, low, height)[:, None].repeat(12, axis=1)
        self.put(ramp, x, 0, 1)
        self.ax.add_patch(Rectangle((x, 0), 12, height, fill=False, linewidth=0.4))
        for value in sorted({low, 0.0, high}):
            y = height * (high - value) / (high - low)
            words = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
            self.ax.add_patch(Rectangle((x + 12, y), 3, 0, linewidth=0.4))
            self.write(x + 19, y, words.replace("-", "−"), va="center")
        self.write(x, height + 10, name, size=5.5, va="top", color="0.35")


class _Pixels(AxesImage):
    """An image whose values are whole screen pixels already: nothing is resampled."""

    def draw(self, renderer: RendererBase) -> None:
        if not isinstance(renderer, RendererAgg):
            super().draw(renderer)
            return
        left, right, bottom, top = self.get_extent()
        array = np.asarray(np.ma.getdata(self.get_array()))  # type: ignore[arg-type]
        colours = self._coloured(array) if array.ndim == 2 else self.to_rgba(array, bytes=True)
        for axis, extent in enumerate((bottom - top, right - left)):
            zoom = round(extent) // colours.shape[axis]
            colours = colours.repeat(zoom, axis=axis) if zoom > 1 else colours
        x, y = self.axes.transData.transform((left, bottom))
        renderer.draw_image(renderer.new_gc(), round(x), round(y), colours[::-1])
        self.stale = False

    def _coloured(self, array: NDArray) -> NDArray[np.uint8]:
        """What `to_rgba` gives for a linear scale, in a third of the time; NaN is transparent."""
        number, table = self.cmap.N, _table(self.cmap)
        ends = np.array([self.norm.vmin, self.norm.vmax], np.float32)
        places = (array.astype(np.float32) - ends[0]) * (number / (ends[1] - ends[0]))
        np.clip(places, 0, number - 1, out=places)
        np.nan_to_num(places, copy=False, nan=number)
        return table.take(places.astype(np.int32), axis=0)


_TABLES: dict[str, NDArray[np.uint8]] = {}


def _table(colours: Colormap) -> NDArray[np.uint8]:
    """The colours of a map (N + 1, 4), the last one transparent."""
    if colours.name not in _TABLES:
        table = np.zeros((colours.N + 1, 4), np.uint8)
        table[:-1] = colours(np.arange(colours.N), bytes=True)
        _TABLES[colours.name] = table
    return _TABLES[colours.name]


def join(tiles: NDArray, *, zoom: int, gap: int, dots: bool = False) -> NDArray:
    """Tiles (rows, columns, H, W) in one array of screen pixels, NaN in the gaps between them.

    With `dots`, what is below zero has a dot of zero in its middle, where there is room: in grey,
    the two halves of a diverging scale look alike.
    """
    large = tiles.repeat(zoom, axis=2).repeat(zoom, axis=3).astype(np.float32)
    rows, columns, height, width = large.shape
    if dots and zoom >= LEAST_FOR_DOTS:
        middle = slice(zoom // 2 - zoom // 9, zoom // 2 + zoom // 9 + 1)
        cells = large.reshape(rows, columns, tiles.shape[2], zoom, tiles.shape[3], zoom)
        below = (tiles < 0)[:, :, :, None, :, None]
        np.copyto(cells[:, :, :, middle, :, middle], 0, where=below)
    padded = np.full((rows, columns, height + gap, width + gap), np.nan, np.float32)
    padded[:, :, :height, :width] = large
    joined = padded.transpose(0, 2, 1, 3).reshape(rows * (height + gap), columns * (width + gap))
    return joined[: joined.shape[0] - gap, : joined.shape[1] - gap]
