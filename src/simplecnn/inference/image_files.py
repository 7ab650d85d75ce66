"""A person's own images for a network: files found, read, and arrays of any kind. No torch."""

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

from simplecnn.data.images import (
    FORMATS,
    MAX_BYTES,
    MAX_PIXELS,
    MAX_SIDE,
    TOO_MANY,
    check_size,
    pixels_from_pil,
    read_pixels,
    sentences,
)
from simplecnn.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm",
            ".npy"}  # fmt: skip
STDIN = "-"


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
        paths = (
            path.rglob("*") if path.is_dir() else map(Path, glob.glob(str(path), recursive=True))
        )
        images = sorted(str(p) for p in paths if p.suffix.lower() in SUFFIXES and p.is_file())
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
    with sentences(f"image={name}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow: odd headers, and sizes that are looked at here
        if str(name) == STDIN:
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
            check_size(len(content), f"image={name}")
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                return image_from_pil(image, color=color)
        path = Path(name)
        if path.suffix.lower() == ".npy" and path.is_file():
            check_size(path.stat().st_size, f"image={name}")
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.size > MAX_PIXELS:
                raise ValueError(TOO_MANY)
            return reduced(image_from_array(array, color=color))
        return (read_pixels(path, color=color, name=f"image={name}") / 255).astype(np.float32)


def image_from_pil(image: Image.Image, *, color: bool = False) -> NDArray[np.float32]:
    """The same for an image of Pillow's. Raises ValueError where it has too many pixels."""
    return (pixels_from_pil(image, color=color) / 255).astype(np.float32)


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
