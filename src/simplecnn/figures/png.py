"""A figure as the bytes of a PNG file."""

from io import BytesIO

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


def encode_png(figure: Figure) -> tuple[bytes, int, int]:
    """The PNG, and its width and height in pixels.

    Draws once, where `savefig` draws twice, and packs lightly: half the time, a fifth more bytes.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    buffer = BytesIO()
    image.save(buffer, format="png", compress_level=1)
    return buffer.getvalue(), image.width, image.height
