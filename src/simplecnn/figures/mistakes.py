"""Misclassified images with their true and predicted classes."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures.raster import Mosaic, short_name, text_width
from simplecnn.figures.style import NEW, OLD
from simplecnn.table import percent

TILE = 112  # approximate size of an image in pixels
COLUMNS = 8
MAX_WIDTH = 1450  # pixels
LINE = 20  # height of a line of text in pixels


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
    """Draw misclassified images (N, C, H, W) in the given order, up to eight in a row.

    Args:
        labels: true classes (N,).
        classes, probabilities: the two most probable classes of each image, (N, 2).
        new: boolean (N,), whether the image was classified correctly at the previous validation;
            the frame is orange if so, gray if the mistake persists.
    """
    num_images, _, height, width = images.shape
    zoom = max(1, round(TILE / max(height, width)))
    names = [short_name(name) for name in class_names]
    arrow = "\n→ " if max(map(len, names)) > 4 else " → "
    texts = [
        f"{names[label]}{arrow}{names[first]}: {percent(share)}\n"
        f"then {names[second]}: {percent(rest)}"
        for label, (first, second), (share, rest) in zip(
            labels, classes, probabilities, strict=True
        )
    ]
    step_x = max(width * zoom + 16, max(map(text_width, texts), default=0) + 20)
    step_y = height * zoom + (3 if "\n" in arrow else 2) * LINE + 18
    columns = max(1, min(COLUMNS, num_images, MAX_WIDTH // step_x))
    mosaic = Mosaic(columns * step_x - 16, -(-num_images // columns) * step_y, title=title)
    for i in range(num_images):
        x, y = i % columns * step_x + 3, i // columns * step_y + 3
        mosaic.put_image(images[i], x, y, zoom)
        mosaic.box(
            x - 2, y - 2, width * zoom + 4, height * zoom + 4,
            fill=False, edgecolor=NEW if new[i] else OLD, linewidth=1.6,
        )  # fmt: skip
        mosaic.write(x, y + height * zoom + 7, texts[i], va="top")
    return mosaic.figure
