"""Filters of a convolution during training: a row per filter, a column per snapshot."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.convolution.kernels import best_matches
from simplecnn.figures.filters import dots_note, filter_colors
from simplecnn.figures.raster import Mosaic, join, text_width
from simplecnn.figures.style import SIGNED, SMALL, number, signed_scale

MAX_ROWS, MAX_SNAPSHOTS, MAX_CHANNELS = 64, 18, 4
MAX_WIDTH, MAX_HEIGHT = 860, 1500  # pixels, of all snapshots together
MAX_TILE = 45  # pixels
BACKGROUND = 0.92  # light gray, on which weights of zero stand out
GAP, HEADER = 4, 44


def filter_history_figure(
    weights: NDArray,
    snapshots: Sequence[str],
    *,
    title: str = "filter history",
    in_color: bool = False,
) -> Figure:
    """Draw the weights (snapshots, filters, in_channels, K, L) of one convolution over time.

    All weights share one color scale. To the right of the last snapshot are the change since the
    first one, also in percent of the filter's initial norm, and the named kernel that is most
    similar to the last snapshot, scaled to the filter's norm, with their cosine similarity.

    At most 18 snapshots are drawn, evenly spaced; of more than 64 filters, those that changed most;
    of more than 4 input channels, the one with the largest final norm, for each filter.

    Args:
        snapshots: column headings, such as "start" and "epoch 1".
        in_color: the three input channels are red, green and blue; each filter is drawn as a color
            image, in which gray is zero.
    """
    num_snapshots, num_filters, num_channels, height, width = weights.shape
    num_columns = min(num_snapshots, MAX_SNAPSHOTS)
    columns = np.unique(np.linspace(0, num_snapshots - 1, num_columns).astype(int))
    change = weights[-1] - weights[0]
    changes = np.linalg.norm(change.reshape(num_filters, -1), axis=1)
    norms = np.linalg.norm(weights[0].reshape(num_filters, -1), axis=1)
    rows = np.sort(np.argsort(-changes, kind="stable")[:MAX_ROWS])
    names = [str(row) for row in rows]
    selection = f"{num_filters} filters"
    if num_filters > len(rows):
        selection = f"the {len(rows)} of {num_filters} filters that changed most"
    weights, change = weights[:, rows], change[rows]
    if num_channels > MAX_CHANNELS:
        strongest = np.linalg.norm(weights[-1], axis=(2, 3)).argmax(1)
        names = [f"{name} from {channel}" for name, channel in zip(names, strongest, strict=True)]
        selection += f", for each the strongest of {num_channels} input channels,"
        weights = np.take_along_axis(weights, strongest[None, :, None, None, None], axis=2)
        change = np.take_along_axis(change, strongest[:, None, None, None], axis=1)
    matches = best_matches(weights[-1])
    if any(matches):
        start, end = (
            np.mean([abs(match.cosine) if match else 0.0 for match in of_snapshot])
            for of_snapshot in (best_matches(weights[0]), matches)
        )
        title += f"; mean |cosine similarity| to a named kernel {end:.2f}, at the start {start:.2f}"
    channels = 1 if in_color else weights.shape[2]  # drawn side by side
    zoom = min(
        min(MAX_TILE, MAX_HEIGHT // len(rows) - GAP) // height,
        (MAX_WIDTH // len(columns) - GAP) // (width * channels),
    )
    zoom = max(zoom, 1)
    tile = channels * (width * zoom + 1) - 1
    step_x, step_y = tile + GAP, max(height * zoom + GAP, 16)
    left = max(text_width(name, SMALL) for name in names) + GAP + 12
    change_left = left + len(columns) * step_x + 20
    kernel_left = change_left + tile + 64
    match_left = kernel_left + tile + 8
    bottom = HEADER + len(rows) * step_y - GAP
    scale = signed_scale(weights)
    beside = f", {channels} input channels side by side" * (channels > 1)
    tiles, dots, bar = f"(rows{beside})", dots_note(zoom), "weight"
    if in_color:
        tiles, dots, bar = "in color (rows; gray is zero)", "", ""
    title += f"\n{selection} of {height} x {width} {tiles}, one scale for the whole run: "
    title += f"±{scale.vmax:.3g}{dots}"
    mosaic = Mosaic(match_left + 160, bottom, title=title, colors=SIGNED, scale=scale, bar=bar)

    def put(tiles: NDArray, x: int) -> None:
        """Draw tiles (rows, columns, channels, K, L)."""
        total_width = tiles.shape[1] * step_x + GAP
        mosaic.box(x - GAP, HEADER - GAP, total_width, bottom - HEADER + 2 * GAP,
                   facecolor=str(BACKGROUND), zorder=-1)  # fmt: skip
        gaps = (step_y - height * zoom, step_x - width * zoom)
        pixels = [
            join(of_channel, zoom=zoom, gap=gaps, dots=not in_color)
            for of_channel in tiles.transpose(2, 0, 1, 3, 4)
        ]
        if in_color:
            colors = filter_colors(np.stack(pixels), scale)
            pixels = [np.nan_to_num(colors, nan=BACKGROUND)]
        for channel, plane in enumerate(pixels):  # side by side in a tile, one pixel apart
            mosaic.put(plane, x + channel * (width * zoom + 1), HEADER)

    put(weights[columns].swapaxes(0, 1), left)
    put(change[:, None], change_left)
    # Label every nth column if the headings are too wide for all, counting from the last one.
    every = -(-(max(text_width(name, SMALL) for name in snapshots) + 6) // step_x)
    for i in range(len(columns) - 1, -1, -every):
        x = left + i * step_x + tile / 2
        mosaic.write(x, HEADER - 8, snapshots[columns[i]], size=SMALL, ha="center")
    mosaic.write(change_left + tile / 2, HEADER - 8, "change", size=SMALL, ha="center")
    if any(matches):
        gap = np.full(change.shape[1:], np.nan)
        put(np.stack([match.kernel if match else gap for match in matches])[:, None], kernel_left)
        mosaic.write(kernel_left + tile / 2, HEADER - 8, "most similar", size=SMALL, ha="center")
    for i, (row, match) in enumerate(zip(rows, matches, strict=True)):
        middle = HEADER + i * step_y + height * zoom / 2
        mosaic.write(left - GAP - 5, middle, names[i], size=SMALL, ha="right", va="center")
        percent = f"{100 * changes[row] / norms[row]:.0f} %" if norms[row] > 0 else "from 0"
        mosaic.write(change_left + tile + GAP + 5, middle, percent, size=SMALL, va="center")
        if match:
            text = f"{number(match.cosine, '+.2f')} {match.name}"
            mosaic.write(match_left, middle, text, size=SMALL, va="center")
    return mosaic.figure
