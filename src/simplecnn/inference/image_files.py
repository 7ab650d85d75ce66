"""A person's own image files, found and read without trusting them: any size and depth. No torch.

A file can be a bomb (small on disk, huge in memory): its header is looked at before it is decoded,
and it is converted a strip at a time, so that not more than 5 bytes a pixel are needed.
"""

import contextlib
import glob
import sys
import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simplecnn.errors import InputError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm",
            ".npy"}  # fmt: skip
STDIN = "-"
MAX_BYTES = 64 << 20  # on disk
MAX_PIXELS = 40_000_000  # width times height
TOO_MANY = f"has too many pixels: at most {MAX_PIXELS:,} in all are read. Make it smaller first"
MAX_SIDE = 1024  # pixels; larger images are reduced
STRIP = 256  # rows that are converted at a time


def find_images(names: Sequence[str]) -> list[str]:
    """The files behind files, folders (searched below), patterns and `-` (standard input), once.

    Raises InputError, with a sentence each, where a name stands for no image.
    """
    files: dict[str, None] = {}
    mistakes = []
    for name in names:
        path = Path(name).expanduser()
        if name == STDIN or path.is_file() or (path.exists() and not path.is_dir()):
            files[name if name == STDIN else str(path)] = None
            continue
        found = (
            path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
        )
        images = sorted(str(p) for p in found if p.suffix.lower() in SUFFIXES and p.is_file())
        files |= dict.fromkeys(images)
        if not images and path.is_dir():
            mistakes.append(f"image={name}: there is no image in this folder ({_suffixes()}).")
        elif not images and glob.has_magic(name):
            mistakes.append(f"image={name}: no image has such a name ({_suffixes()}).")
        elif not images:
            mistakes.append(f"image={name}: there is no such file.")
    if mistakes:
        raise InputError(*mistakes)
    return list(files)


def _suffixes() -> str:
    return ", ".join(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))


def read_image(name: str | Path, *, color: bool = False) -> NDArray[np.float32]:
    """An image file as gray values (H, W), or (H, W, 3), 0 black to 1 white; transparent is white.

    Of several pictures in a file the first one counts; what is larger than `MAX_SIDE` is reduced.
    `-` reads standard input. Raises InputError where it is none of `FORMATS` and no NumPy array,
    is damaged, or is too large.
    """
    try:
        if str(name) == STDIN:
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
            _check_size(len(content), name)
            return _decode(BytesIO(content), color)
        path = Path(name)
        num_bytes = path.stat().st_size
        if not path.is_file():
            raise InputError(f"image={name}: that is not a file.")
        _check_size(num_bytes, name)
        if path.suffix.lower() == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.size > MAX_PIXELS:
                raise ValueError(TOO_MANY)
            return reduced(image_from_array(array, color=color))
        return _decode(path, color)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"image={name}: there is no such file.") from None
    except Image.UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise InputError(
            f"image={name} is not an image that can be read ({known}, NumPy)."
        ) from None
    except Image.DecompressionBombError:  # Pillow's own limit is higher
        raise InputError(f"image={name} {TOO_MANY}.") from None
    except MemoryError:
        raise InputError(f"image={name} does not fit in memory.") from None
    except Exception as error:  # whatever a decoder makes of a damaged file
        reason = str(error).strip().splitlines() or [type(error).__name__]
        damaged = "" if reason[0] == TOO_MANY else "is damaged: "
        raise InputError(f"image={name} {damaged}{reason[0].rstrip('.')}.") from None


def _check_size(num_bytes: int, name: str | Path) -> None:
    if num_bytes > MAX_BYTES:
        raise InputError(f"image={name} has {num_bytes:,} bytes: at most {MAX_BYTES:,} are read.")


def _decode(source: Any, color: bool) -> NDArray[np.float32]:
    # Pillow warns of odd headers, and of sizes that are looked at here.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(source, formats=FORMATS) as image:
            return image_from_pil(image, color=color)


def image_from_pil(image: Image.Image, *, color: bool = False) -> NDArray[np.float32]:
    """The same for an image of Pillow's. Raises ValueError where it has too many pixels."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(TOO_MANY)
    if image.format == "JPEG":  # it can be decoded at a fraction of its size
        image.draft("RGB" if color else "L", (MAX_SIDE, MAX_SIDE))
    image.load()
    rows = [_strip(image, top, "RGB" if color else "L") for top in range(0, image.height, STRIP)]
    converted = Image.fromarray(np.concatenate(rows))
    converted.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.BOX)
    with contextlib.suppress(Exception):  # a photograph says which side is up
        converted = _turned(converted, image.getexif().get(0x0112, 1))
    return np.asarray(converted, np.float32) / np.float32(255)


def _strip(image: Image.Image, top: int, mode: str) -> NDArray[np.uint8]:
    """Some rows of an image in the mode L or RGB, uint8."""
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


def image_from_array(array: NDArray[Any], *, color: bool = False) -> NDArray[np.float32]:
    """The same for an array (H, W), (H, W, C) or (C, H, W) of 1 or 3 channels.

    Integers count from 0 to the largest of their type, floats to 1, or to 255 where one is above 1.
    Raises ValueError where it is no image.
    """
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = np.moveaxis(array, 0, 2)
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    if not is_image or not array.size or array.dtype.kind not in "buif":
        raise ValueError(
            f"its shape is {tuple(array.shape)} of {array.dtype}: an image is (H, W), (H, W, C) or "
            f"(C, H, W) of 1 or 3 channels, of numbers"
        )
    limit = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1.0
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError("some of its numbers are not finite")
    if array.dtype.kind == "f" and values.max() > 1 or limit > 65535:
        limit = 255.0
    values = np.clip(values / limit, 0, 1)
    values = values[:, :, None] if values.ndim == 2 else values
    if color:
        return np.broadcast_to(values, (*values.shape[:2], 3)).copy()
    weights = [0.299, 0.587, 0.114] if values.shape[2] == 3 else [1.0]  # Pillow's, of ITU-R 601
    return (values @ np.asarray(weights)).astype(np.float32)


def reduced(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """An image of at most `MAX_SIDE` pixels a side: means over blocks of whole pixels."""
    step = -(-max(image.shape[:2]) // MAX_SIDE)
    if step == 1:
        return image
    height, width = (max(1, side // step) for side in image.shape[:2])
    image = image[: height * step, : width * step]
    blocks = image.reshape(height, image.shape[0] // height, width, image.shape[1] // width, -1)
    means = blocks.mean(axis=(1, 3))
    return means if image.ndim == 3 else means[..., 0]
