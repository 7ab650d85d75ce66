"""A person's own images for a network: files found, read, and arrays of any kind. No torch."""

import glob
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simplecnn.data.images import (
    MAX_BYTES,
    MAX_PIXELS,
    TOO_MANY,
    NotAnImage,
    check_size,
    decode,
    read_pixels,
    sentences,
)
from simplecnn.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm",
            ".npy"}  # fmt: skip
STDIN = "-"


def find_images(names: Sequence[str]) -> list[str]:
    """The files behind files, folders, patterns and `-` (standard input), once.

    A folder is searched below too, but for what is hidden in it.
    Raises InputError, with a sentence each, where a name stands for no image.
    """
    files: dict[str, None] = {}
    mistakes = []
    suffixes = ", ".join(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            there: Iterable[Path] = (
                file
                for file in path.rglob("*")
                if not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
            sentence = f"there is no image in this folder ({suffixes})"
        elif name != STDIN and not path.exists() and glob.has_magic(name):
            there = map(Path, glob.glob(str(path), recursive=True))
            sentence = f"no image has such a name ({suffixes})"
        else:
            files[name if name == STDIN else str(path)] = None
            if name != STDIN and not path.exists():
                mistakes.append(f"image={name}: there is no such file.")
            continue
        images = sorted(str(p) for p in there if p.suffix.lower() in SUFFIXES and p.is_file())
        files |= dict.fromkeys(images)
        if not images:
            mistakes.append(f"image={name}: {sentence}.")
    if mistakes:
        raise InputError(*mistakes)
    return list(files)


def read_image(name: str | Path, *, color: bool = False) -> NDArray[np.float32]:
    """An image file as gray values (H, W), or (H, W, 3), 0 black to 1 white; transparent is white.

    Of several pictures in a file the first one counts; a picture larger than `images.MAX_SIDE` is
    reduced. `-` reads standard input. Raises InputError where it is none of `FORMATS` and no NumPy
    array, is damaged, or is too large.
    """
    with sentences(f"image={name}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow: odd headers, and sizes that are looked at here
        if str(name) == STDIN:
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
            check_size(len(content), f"image={name}")
            return (decode(content, color=color) / 255).astype(np.float32)
        path = Path(name)
        if path.suffix.lower() == ".npy" and path.is_file():
            check_size(path.stat().st_size, f"image={name}")
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.size > MAX_PIXELS:
                raise ValueError(TOO_MANY)
            return image_from_array(array, color=color)
        return (read_pixels(path, color=color, name=f"image={name}") / 255).astype(np.float32)


def image_from_array(array: NDArray[Any], *, color: bool = False) -> NDArray[np.float32]:
    """An array (H, W), (H, W, C) or (C, H, W) of 1 or 3 channels as gray values or colors.

    Integers count from 0 to the largest of their type, floats to 1, or to 255 where one is above 1.
    Raises NotAnImage where it is none.
    """
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = np.moveaxis(array, 0, 2)
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    if not is_image or not array.size or array.dtype.kind not in "buif":
        raise NotAnImage(
            f"its shape is {tuple(array.shape)} of {array.dtype}: an image is "
            f"(H, W), (H, W, C) or (C, H, W) of 1 or 3 channels, of numbers"
        )
    limit = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1.0
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise NotAnImage("some of its numbers are not finite")
    if array.dtype.kind == "f" and values.max() > 1 or limit > 65535:
        limit = 255.0
    values = np.clip(values / limit, 0, 1)
    values = values[:, :, None] if values.ndim == 2 else values
    if color:
        return np.broadcast_to(values, (*values.shape[:2], 3)).copy()
    weights = [0.299, 0.587, 0.114] if values.shape[2] == 3 else [1.0]  # Pillow's, of ITU-R 601
    return (values @ np.asarray(weights)).astype(np.float32)
