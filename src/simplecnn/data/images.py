"""Image files of a person's own, decoded without trusting them: any size and color. No torch.

A file can be a bomb (small on disk, huge in memory): its header is looked at before it is decoded,
and it is converted a strip at a time, so that not more than 5 bytes a pixel are needed.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from simplecnn.errors import InputError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_BYTES = 64 << 20  # on disk
MAX_PIXELS = 40_000_000  # width times height
TOO_MANY = f"has too many pixels: at most {MAX_PIXELS:,} in all are read. Make it smaller first"
MAX_SIDE = 1024  # pixels; larger images are reduced
STRIP = 256  # rows that are converted at a time
ORIENTATION = ExifTags.Base.Orientation
Fit = Literal["pad", "crop", "stretch"]


class NotAnImage(ValueError):
    """Numbers that make no image, and why not."""


def read_pixels(
    path: str | Path, *, color: bool = False, name: str | None = None
) -> NDArray[np.uint8]:
    """An image file as (H, W), or (H, W, 3), 0 black to 255 white; transparent is white.

    Of several pictures in a file the first one counts; what is larger than `MAX_SIDE` is reduced.
    Raises InputError where it is none of `FORMATS`, is damaged, or is too large; `name`, else the
    path, is the subject of its sentence.
    """
    name = name or str(path)
    with sentences(name):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{name}: that is not a file.")
        check_size(status.st_size, name)
        with open(path, "rb") as file:
            return decode(file.read(MAX_BYTES), color=color)


def decode(content: bytes, *, color: bool = False) -> NDArray[np.uint8]:
    """The same for the content of a file, at most `MAX_BYTES`. Raises whatever Pillow does."""
    # Not by Pillow, which reads in small pieces: a third longer for 28 x 28 pixels.
    with Image.open(BytesIO(content), formats=FORMATS) as image:
        return pixels_from_pil(image, color=color)


def pixels_from_pil(image: Image.Image, *, color: bool = False) -> NDArray[np.uint8]:
    """The same for an image of Pillow's. Raises ValueError where it has too many pixels."""
    width, height = image.size
    mode = "RGB" if color else "L"
    if width * height > MAX_PIXELS:
        raise ValueError(TOO_MANY)
    if image.format == "JPEG":  # it can be decoded at a fraction of its size
        image.draft(mode, (MAX_SIDE, MAX_SIDE))
    image.load()
    converted: Image.Image = image
    if image.mode != mode or "transparency" in image.info or max(image.size) > MAX_SIDE:
        rows = [_strip(image, top, mode) for top in range(0, image.height, STRIP)]
        converted = Image.fromarray(np.concatenate(rows))
        converted.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    if not image.info:  # as of a plain PNG: no metadata at all
        shape = (converted.height, converted.width, *([3] if color else []))
        return np.frombuffer(converted.tobytes(), np.uint8).reshape(shape)  # asarray is slower
    with contextlib.suppress(Exception):  # a photograph says which side is up
        if (side := image.getexif().get(ORIENTATION, 1)) != 1:
            # Without its other metadata: where those are damaged, they cannot be written again.
            upright = Image.fromarray(np.asarray(converted))
            upright.getexif()[ORIENTATION] = side
            converted = ImageOps.exif_transpose(upright)
    return np.asarray(converted)


def _strip(image: Image.Image, top: int, mode: str) -> NDArray[np.uint8]:
    """Some rows of an image in the mode L or RGB."""
    strip = image.crop((0, top, image.width, min(top + STRIP, image.height)))
    if strip.mode.startswith("I;16") or strip.mode in ("I", "F"):
        values = np.asarray(strip, np.float64)
        # 16 bits a pixel, in the modes that Pillow has for them; 32 bits hold what they like.
        limit = 65535.0 if strip.mode != "F" or values.max() > 1 else 1.0
        values = np.nan_to_num(np.clip(values / limit, 0, 1) * 255).round().astype(np.uint8)
        strip = Image.fromarray(values)
    if strip.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in strip.info:
        strip = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
    return np.asarray(strip.convert(mode), np.uint8)


def fit_pixels(pixels: NDArray[np.uint8], size: int, fit: Fit) -> NDArray[np.uint8]:
    """Pixels (H, W) or (H, W, 3) as a square of `size`: unchanged where they are one already.

    pad: the whole image, black beside it. crop: the middle of it. stretch: without its proportions.
    """
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    box = None
    target = size, size
    if fit == "crop":
        side = min(height, width)
        left, top = (width - side) / 2, (height - side) / 2
        box = left, top, left + side, top + side
    elif fit == "pad":
        longest = max(height, width)
        target = max(1, round(size * width / longest)), max(1, round(size * height / longest))
    resized = np.asarray(Image.fromarray(pixels).resize(target, Image.Resampling.BILINEAR, box=box))
    if fit != "pad":
        return resized
    padded = np.zeros((size, size, *pixels.shape[2:]), np.uint8)
    top, left = (size - resized.shape[0]) // 2, (size - resized.shape[1]) // 2
    padded[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return padded


def check_size(num_bytes: int, name: str) -> None:
    """Raise InputError where a file, or what is read of one, is too large."""
    if num_bytes > MAX_BYTES:
        raise InputError(f"{name} has {num_bytes:,} bytes: at most {MAX_BYTES:,} are read.")


@contextlib.contextmanager
def sentences(name: str) -> Iterator[None]:
    """Make an InputError, with `name` as its subject, of whatever reading an image raises."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file.") from None
    except Image.UnidentifiedImageError:
        formats = ", ".join(FORMATS)
        raise InputError(f"{name} is not an image that can be read ({formats}).") from None
    except Image.DecompressionBombError:  # Pillow's own limit is higher
        raise InputError(f"{name} {TOO_MANY}.") from None
    except MemoryError:
        raise InputError(f"{name} does not fit in memory.") from None
    except Exception as error:  # whatever a decoder makes of a damaged file
        reason: Any = str(error).strip().splitlines() or [type(error).__name__]
        fault = "is no image: " if isinstance(error, NotAnImage) else "is damaged: "
        fault = "" if reason[0] == TOO_MANY else fault
        raise InputError(f"{name} {fault}{reason[0].rstrip('.')}.") from None
