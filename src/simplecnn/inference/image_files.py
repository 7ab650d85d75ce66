"""A person's own image files, read without trusting them: any size, depth and colours. No torch.

What is read is one grey image (H, W), float 0 to 1, of at most `MOST_PIXELS_KEPT` a side. A file
can be a bomb (small on disk, huge in memory): its header is looked at before it is decoded, and it
is turned to grey a strip at a time, so that not more than 5 bytes a pixel are needed.
"""

import contextlib
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from simplecnn.errors import InputError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
MOST_BYTES = 64 << 20  # on disk
MOST_PIXELS = 40_000_000  # width times height
TOO_MANY = f"too many pixels: at most {MOST_PIXELS:,} in all are read. Make it smaller first."
MOST_PIXELS_KEPT = 1024
STRIP = 256  # rows that are converted at a time


def read_grey(path: str | Path) -> np.ndarray:
    """An image file as grey values (H, W), float32, 0 black to 1 white; transparency is white.

    Of several pictures in a file the first one counts. Raises InputError where the file is none of
    `FORMATS`, is damaged, or is too large.
    """
    path = Path(path)
    try:
        num_bytes = path.stat().st_size
        if not path.is_file():
            raise InputError(f"image={path}: that is not a file.")
        if num_bytes > MOST_BYTES:
            raise InputError(
                f"image={path} has {num_bytes:,} bytes: at most {MOST_BYTES:,} are read."
            )
        # Pillow warns of odd headers, and of sizes that are looked at here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                return _grey(image, path)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"image={path}: there is no such file.") from None
    except Image.UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise InputError(f"image={path} is not an image that can be read ({known}).") from None
    except Image.DecompressionBombError:  # Pillow's own limit is higher
        raise InputError(f"image={path} has {TOO_MANY}") from None
    except MemoryError:
        raise InputError(f"image={path} does not fit in memory.") from None
    except Exception as error:  # whatever a decoder makes of a damaged file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"image={path} is damaged: {reason[0].rstrip('.')}.") from None


def _grey(image: Image.Image, path: Path) -> np.ndarray:
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise InputError(f"image={path} has {TOO_MANY}")
    if image.format == "JPEG":  # it can be decoded at a fraction of its size
        image.draft("L", (MOST_PIXELS_KEPT, MOST_PIXELS_KEPT))
    image.load()
    rows = [_grey_strip(image, top) for top in range(0, image.height, STRIP)]
    grey = Image.fromarray(np.concatenate(rows))
    image.close()
    grey.thumbnail((MOST_PIXELS_KEPT, MOST_PIXELS_KEPT), Image.Resampling.BOX)
    with contextlib.suppress(Exception):  # a photograph says which side is up
        orientation = image.getexif().get(0x0112, 1)
        grey = _turned(grey, orientation)
    return np.asarray(grey, np.float32) / 255


def _grey_strip(image: Image.Image, top: int) -> np.ndarray:
    """Some rows of an image as grey values (rows, W), uint8."""
    strip = image.crop((0, top, image.width, min(top + STRIP, image.height)))
    if strip.mode.startswith("I;16") or strip.mode in ("I", "F"):
        values = np.asarray(strip, np.float64)
        # 16 bits a pixel, in the modes that Pillow has for them; 32 bits hold what they like.
        most = 65535.0 if strip.mode != "F" or values.max() > 1 else 1.0
        return np.nan_to_num(np.clip(values / most, 0, 1) * 255).round().astype(np.uint8)
    if strip.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in strip.info:
        strip = strip.convert("RGBA")
        white = Image.new("RGBA", strip.size, "white")
        strip = Image.alpha_composite(white, strip)
    return np.asarray(strip.convert("L"), np.uint8)


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    """An image as its EXIF orientation (1 to 8) says that it stands."""
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


# ------------------------------------------------------------------ as the digits of MNIST are


def like_mnist(grey: np.ndarray, *, invert: bool | None = None) -> np.ndarray:
    """A drawing or photograph (H, W), 0 to 1, as a digit of MNIST: (28, 28), white on black.

    The digit is cut out, fitted into 20 x 20 pixels and put with its centre of mass in the middle
    (LeCun, Cortes and Burges, "The MNIST database of handwritten digits"). An image of 28 x 28
    pixels is taken to be so already. `invert` swaps black and white; None: where the border is
    the lighter part. Raises InputError for an image of one colour.
    """
    if invert is None:
        border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
        invert = bool(np.median(border) > (grey.min() + grey.max()) / 2)
    ink = 1 - grey if invert else grey
    if ink.max() - ink.min() < 0.02:
        raise InputError("image: there is nothing to see in it, all of it has one colour.")
    if ink.shape == (28, 28):
        return ink.astype(np.float32)
    ink = np.clip((ink - np.median(ink)) / (ink.max() - np.median(ink)), 0, 1)
    rows, columns = np.flatnonzero((ink > 0.2).any(1)), np.flatnonzero((ink > 0.2).any(0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    scale = 20 / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    method = Image.Resampling.BOX if scale < 1 else Image.Resampling.BILINEAR
    ink = np.asarray(Image.fromarray(ink.astype(np.float32)).resize((width, height), method))
    ink = ink / ink.max()
    places = np.indices(ink.shape).reshape(2, -1)
    centre = (places * ink.ravel()).sum(1) / ink.sum()
    room = 28 - np.array(ink.shape)
    top, left = np.clip(np.rint(13.5 - centre).astype(int), 0, room)
    digit = np.zeros((28, 28), np.float32)
    digit[top : top + height, left : left + width] = ink
    return digit
