"""The most confident mistakes of a network, each with its true and its predicted class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from simplecnn.figures.raster import Mosaic
from simplecnn.figures.style import DIGIT, NEW, OLD, positive_scale

TILE = 112  # pixels
COLUMNS = 8
LINE = 20  # pixels of a line of text


def mistakes_figure(
    images: NDArray,
    labels: NDArray,
    classes: NDArray,
    probabilities: NDArray,
    new: NDArray,
    *,
    class_names: Sequence[str],
    title: str = "mistakes",
) -> Figure:
    """Draw wrongly classified images (N, C, H, W) in their order, eight in a row.

    labels: (N,) true classes. classes, probabilities: (N, 2), the predicted class and the second.
    new: boolean (N,), whether the image was right the last time; its frame is orange then, gray if
    the mistake persists.
    """
    number, _, height, width = images.shape
    zoom = max(1, TILE // max(height, width))
    words = [
        _words(class_names, label, pair, shares)
        for label, pair, shares in zip(labels, classes, probabilities, strict=True)
    ]
    num_lines = max((text.count("\n") + 1 for text in words), default=1)
    widest = max((len(line) for text in words for line in text.split("\n")), default=0)
    step_x = max(width * zoom + 16, 8 * widest + 10)
    step_y = height * zoom + num_lines * LINE + 18
    columns = max(1, min(COLUMNS, number, 1450 // step_x))
    mosaic = Mosaic(
        max(columns * step_x - 16, 500),
        -(-number // columns) * step_y if number else 20,
        title=title,
        colors=DIGIT,
        scale=positive_scale(np.ones(1)),
    )
    frames = []
    for i in range(number):
        x, y = i % columns * step_x + 3, i // columns * step_y + 3
        mosaic.put_image(images[i], x, y, zoom)
        frames.append(Rectangle((x - 2, y - 2), width * zoom + 4, height * zoom + 4))
        mosaic.write(x, y + height * zoom + 7, words[i], va="top")
    colors = [NEW if is_new else OLD for is_new in new]
    mosaic.ax.add_collection(
        PatchCollection(frames, facecolor="none", edgecolor=colors, linewidth=1.6)
    )
    return mosaic.figure


def _words(names: Sequence[str], label: int, classes: NDArray, probabilities: NDArray) -> str:
    predicted, second = (names[c] for c in classes)
    first_line = f"{names[label]} → {predicted}: {_percent(probabilities[0])}"
    if len(first_line) > 18:
        first_line = f"{names[label]}\n→ {predicted}: {_percent(probabilities[0])}"
    return f"{first_line}\nthen {second}: {_percent(probabilities[1])}"


def _percent(share: float) -> str:
    """Never 100 % for what is less than certain, never 0 % for what is possible."""
    for digits in range(4):
        text = f"{share:.{digits}%}"
        if text not in (f"{1:.{digits}%}", f"{0:.{digits}%}"):
            return text.replace("%", " %")
    return "< 0.001 %" if share < 0.5 else "> 99.999 %"
