"""Decode untrusted image files of any size and color. No torch import.

A file may be a decompression bomb (small on disk, huge in memory): the header is checked before
decoding, and pixels are converted strip by strip, with at most 5 bytes of memory per pixel.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from simplecnn.errors import InputError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MAX_BYTES = 64 << 20  # on disk
MAX_PIXELS = 40_000_000  # width times height
TOO_MANY_PIXELS = f"has too many pixels: at most {MAX_PIXELS:,} are read. Downsize it first"
MAX_SIDE = 1024  # pixels; larger images are downsized
STRIP = 256  # rows converted at a time
ORIENTATION = ExifTags.Base.Orientation
Fit = Literal["pad", "crop", "stretch"]


class NotAnImage(ValueError):
    """An array is not an image; the message is the reason."""


def read_pixels(
    path: str | Path, *, color: bool = False, name: str | None = None
) -> NDArray[np.uint8]:
    """Read an image file as (H, W), or (H, W, 3) with `color`, from 0 (black) to 255 (white).

    Transparency becomes white, and only the first image of a file is read. Images larger than
    `MAX_SIDE` are downsized. Raises InputError if the file is not one of `FORMATS`, is damaged or
    too large; the message begins with `name`, by default the path.
    """
    name = name or str(path)
    with as_input_error(name):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{name} is not a file.")
        check_size(status.st_size, name)
        with open(path, "rb") as file:
            return decode_image(file.read(MAX_BYTES), color=color)


def decode_image(content: bytes, *, color: bool = False) -> NDArray[np.uint8]:
    """Decode the content of an image file as `read_pixels` does. Raises any error of Pillow's."""
    # In memory: Pillow reads a file in small pieces, a third slower for 28 x 28 pixels.
    with Image.open(BytesIO(content), formats=FORMATS) as image:
        return pixels_from_pil(image, color=color)


def pixels_from_pil(image: Image.Image, *, color: bool = False) -> NDArray[np.uint8]:
    """Convert a Pillow image as `read_pixels` does. Raises ValueError if it has too many pixels."""
    width, height = image.size
    mode = "RGB" if color else "L"
    if width * height > MAX_PIXELS:
        raise ValueError(TOO_MANY_PIXELS)
    if image.format == "JPEG":  # decode at a fraction of its size
        image.draft(mode, (MAX_SIDE, MAX_SIDE))
    image.load()
    converted: Image.Image = image
    if image.mode != mode or "transparency" in image.info or max(image.size) > MAX_SIDE:
        # Modes I and I;16 are read as 16-bit pixels; F too, unless all its values are at most 1.
        is_unit = image.mode == "F" and not image.getextrema()[1] > 1  # type: ignore[operator]
        maximum = 1.0 if is_unit else 65535.0
        strips = range(0, image.height, STRIP)
        rows = [_convert_strip(image, top, mode, maximum) for top in strips]
        converted = Image.fromarray(np.concatenate(rows))
        converted.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    with contextlib.suppress(Exception):  # damaged metadata
        if (orientation := image.getexif().get(ORIENTATION, 1)) != 1:
            # Copy only this tag: exif_transpose cannot write other metadata that is damaged.
            tagged = Image.fromarray(np.asarray(converted))
            tagged.getexif()[ORIENTATION] = orientation
            converted = ImageOps.exif_transpose(tagged)
    return np.asarray(converted)


def _convert_strip(image: Image.Image, top: int, mode: str, maximum: float) -> NDArray[np.uint8]:
    """Convert up to STRIP rows, from `top`, to mode L or RGB.

    `maximum` is the white of images with more than 8 bits per channel.
    """
    strip = image.crop((0, top, image.width, min(top + STRIP, image.height)))
    if strip.mode.startswith("I;16") or strip.mode in ("I", "F"):
        values = np.asarray(strip, np.float64)
        values = np.nan_to_num(np.clip(values / maximum, 0, 1) * 255).round().astype(np.uint8)
        strip = Image.fromarray(values)
    if strip.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in strip.info:
        strip = strip.convert("RGBA")
        strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
    return np.asarray(strip.convert(mode), np.uint8)


def fit_pixels(pixels: NDArray[np.uint8], size: int, fit: Fit) -> NDArray[np.uint8]:
    """Resize pixels (H, W) or (H, W, 3) to a square of side `size`; one of that size is unchanged.

    `fit` is "pad" (add black borders), "crop" (to the center) or "stretch" (ignore the aspect
    ratio).
    """
    height, width = pixels.shape[:2]
    if height == width == size:
        return pixels
    image = Image.fromarray(pixels)
    if fit == "crop":
        return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR))
    if fit == "stretch":
        return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    longest = max(height, width)
    target = max(1, round(size * width / longest)), max(1, round(size * height / longest))
    resized = np.asarray(image.resize(target, Image.Resampling.BILINEAR))
    padded = np.zeros((size, size, *pixels.shape[2:]), np.uint8)
    top, left = (size - resized.shape[0]) // 2, (size - resized.shape[1]) // 2
    padded[top : top + resized.shape[0], left : left + resized.shape[1]] = resized
    return padded


def check_size(num_bytes: int, name: str) -> None:
    """Raise InputError if a file of `num_bytes` is too large to read."""
    if num_bytes > MAX_BYTES:
        raise InputError(f"{name} has {num_bytes:,} bytes: at most {MAX_BYTES:,} are read.")


@contextlib.contextmanager
def as_input_error(name: str) -> Iterator[None]:
    """Convert any error of reading an image to an InputError whose message begins with `name`."""
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
        raise InputError(f"{name} {TOO_MANY_PIXELS}.") from None
    except PermissionError:
        raise InputError(f"{name} cannot be read: permission denied.") from None
    except MemoryError:
        raise InputError(f"{name} does not fit in memory.") from None
    except Exception as error:  # decoders raise any type for a damaged file
        lines = str(error).strip().splitlines()
        reason = lines[0].rstrip(".") if lines else type(error).__name__
        if isinstance(error, NotAnImage):
            reason = f"is not an image: {reason}"
        elif reason != TOO_MANY_PIXELS:
            reason = f"is damaged: {reason}"
        raise InputError(f"{name} {reason}.") from None
