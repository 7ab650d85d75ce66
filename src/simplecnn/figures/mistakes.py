"""Misclassified images with their true and predicted classes."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from numpy.typing import NDArray

from simplecnn.figures.image_sheet import image_sheet
from simplecnn.figures.raster import short_name
from simplecnn.figures.style import NEW, OLD


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
    """Draw misclassified images (N, C, H, W) in the given order.

    Args:
        labels: true classes (N,).
        classes, probabilities: the two most probable classes of each image, (N, 2).
        new: boolean (N,), whether the image was classified correctly at the previous validation;
            the frame is orange if so, gray if the mistake persists.
    """
    names = [short_name(name) for name in class_names]
    arrow = "\n→ " if max(map(len, names)) > 4 else " → "
    captions = [
        f"{names[label]}{arrow}{names[first]}: {_percent(share)}\n"
        f"then {names[second]}: {_percent(rest)}"
        for label, (first, second), (share, rest) in zip(
            labels, classes, probabilities, strict=True
        )
    ]
    frames = [NEW if is_new else OLD for is_new in new]
    return image_sheet(images, captions, frames, title=title)


def _percent(share: float) -> str:
    """Format a probability with enough digits that it never rounds to 0 % or 100 %."""
    for digits in range(4):
        text = f"{share:.{digits}%}"
        if text not in (f"{1:.{digits}%}", f"{0:.{digits}%}"):
            return text.replace("%", " %")
    return "< 0.001 %" if share < 0.5 else "> 99.999 %"
