"""How the filters of a convolution were learned: a row a filter, a column a moment."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.convolution.kernels import best_matches
from simplecnn.figures.filters import dots_words
from simplecnn.figures.raster import Mosaic, join
from simplecnn.figures.style import SIGNED, SMALL, number, signed_scale

MAX_ROWS, MAX_MOMENTS, MAX_CHANNELS = 64, 18, 4
MAX_WIDTH, MAX_HEIGHT = 860, 1500  # pixels, of the moments
MAX_TILE = 45  # pixels
GAP, HEADER = 4, 44


def filter_history_figure(
    weights: NDArray, moments: Sequence[str], *, title: str = "filter history"
) -> Figure:
    """Draw the weights (moments, filters, in_channels, K, L) of one convolution over time.

    One scale for the whole run. After the last moment come the change since the first, on the
    same scale and in percent of the filter's norm at first, and the named kernel that is most
    similar to the last, drawn as strong as the filter, with their cosine similarity. `moments` are
    the words above the columns. Of many moments the first, the last and some between are shown; of
    more than 64 filters those that changed most; of more than 4 input channels, for each filter,
    the one that is strongest at last.
    """
    num_moments, num_filters, num_channels, height, width = weights.shape
    columns = np.unique(np.linspace(0, num_moments - 1, min(num_moments, MAX_MOMENTS)).astype(int))
    change = weights[-1] - weights[0]
    changes = np.linalg.norm(change.reshape(num_filters, -1), axis=1)
    norms = np.linalg.norm(weights[0].reshape(num_filters, -1), axis=1)
    rows = np.sort(np.argsort(-changes, kind="stable")[:MAX_ROWS])
    names = [str(row) for row in rows]
    which = f"{num_filters} filters"
    if num_filters > len(rows):
        which = f"the {len(rows)} of {num_filters} filters that changed most"
    weights, change = weights[:, rows], change[rows]
    if num_channels > MAX_CHANNELS:
        strongest = np.linalg.norm(weights[-1], axis=(2, 3)).argmax(1)
        names = [f"{name} from {channel}" for name, channel in zip(names, strongest, strict=True)]
        which += f", of each the strongest of {num_channels} input channels,"
        weights = np.take_along_axis(weights, strongest[None, :, None, None, None], axis=2)
        change = np.take_along_axis(change, strongest[:, None, None, None], axis=1)
    starts, ends = best_matches(weights[0]), best_matches(weights[-1])
    channels = weights.shape[2]
    zoom = min(MAX_TILE, MAX_HEIGHT // len(rows) - GAP) // height
    zoom = min(zoom, (MAX_WIDTH // len(columns) - GAP) // (width * channels))
    zoom = max(zoom, 1)
    tile = channels * (width * zoom + 1) - 1
    step_x, step_y = tile + GAP, max(height * zoom + GAP, 16)
    left = 8 * max(len(name) for name in names) + 8
    at_change = left + len(columns) * step_x + 20
    at_kernel = at_change + tile + 64
    at_words = at_kernel + tile + 8
    bottom = HEADER + len(rows) * step_y - GAP
    scale = signed_scale(weights)
    similarity = ""
    if any(ends):
        now, then = (
            np.mean([abs(m.cosine) if m else 0.0 for m in some]) for some in (ends, starts)
        )
        similarity = (
            f"; mean cosine similarity to a named kernel {now:.2f}, at the start {then:.2f}"
        )
    mosaic = Mosaic(
        at_words + 190,
        bottom,
        title=f"{title}{similarity}\n{which} of {height} x {width} (rows), "
        f"one scale for the whole run: ±{scale.vmax:.3g}{dots_words(zoom)}",
        colors=SIGNED,
        scale=scale,
        bar="weight",
    )

    def put(tiles: NDArray, x: int) -> None:
        """Draw tiles (rows, columns, channels, K, L) on gray, so that white weights are seen."""
        across = tiles.shape[1] * step_x + GAP
        mosaic.box(x - GAP, HEADER - GAP, across, bottom - HEADER + 2 * GAP,
                   facecolor="0.92", zorder=-1)  # fmt: skip
        mosaic.put(_joined(tiles, zoom, step_y - GAP), x, HEADER)

    put(weights[columns].swapaxes(0, 1), left)
    put(change[:, None], at_change)
    widest = max(len(line) for words in moments for line in words.split("\n"))
    every = -(-(8 * widest + 6) // step_x)  # where not all can be named, the last one is
    for place in range(len(columns) - 1, -1, -every):
        x = left + place * step_x + tile / 2
        mosaic.write(x, HEADER - 8, moments[columns[place]], size=SMALL, ha="center")
    mosaic.write(at_change + tile / 2, HEADER - 8, "change", size=SMALL, ha="center")
    if any(ends):
        gap = np.full(change.shape[1:], np.nan)
        put(np.stack([match.kernel if match else gap for match in ends])[:, None], at_kernel)
        mosaic.write(at_kernel + tile / 2, HEADER - 8, "most similar", size=SMALL, ha="center")
    for place, row in enumerate(rows):
        middle = HEADER + place * step_y + height * zoom / 2
        mosaic.write(left - GAP - 5, middle, names[place], size=SMALL, ha="right", va="center")
        percent = f"{100 * changes[row] / norms[row]:.0f} %" if norms[row] > 0 else "from 0"
        mosaic.write(at_change + tile + GAP + 5, middle, percent, size=SMALL, va="center")
        if match := ends[place]:
            words = f"{number(match.cosine, '+.2f')} {match.name}"
            mosaic.write(at_words, middle, words, size=SMALL, va="center")
    return mosaic.figure


def _joined(tiles: NDArray, zoom: int, row_height: int) -> NDArray:
    """Tiles (rows, columns, channels, K, L) as pixels, the channels of a tile side by side."""
    rows, columns, channels, height, width = tiles.shape
    large = join(
        tiles.reshape(rows * columns, channels, height, width), zoom=zoom, gap=1, dots=True
    )  # every tile a row, a pixel between them
    padded = np.full((rows * columns, row_height, large.shape[1]), np.nan, np.float32)
    for i, top in enumerate(range(0, len(large), height * zoom + 1)):
        padded[i, : height * zoom] = large[top : top + height * zoom]
    return join(padded.reshape(rows, columns, row_height, -1), zoom=1, gap=GAP)
