"""Find and read the user's image files, and convert arrays to images. Does not import torch."""

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
    TOO_MANY_PIXELS,
    NotAnImage,
    as_input_error,
    check_size,
    decode_image,
    read_pixels,
)
from simplecnn.errors import InputError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm",
            ".npy"}  # fmt: skip
STDIN = "-"


def find_images(names: Sequence[str]) -> list[str]:
    """Expand file names, folders, glob patterns and `-` (standard input) to unique file names.

    Folders are searched recursively, without hidden files and folders.
    Raises InputError with one sentence per name that matches no image.
    """
    files: dict[str, None] = {}  # an ordered set
    mistakes = []
    suffixes = ", ".join(sorted(suffix.removeprefix(".") for suffix in SUFFIXES))
    for name in names:
        path = Path(name).expanduser()
        if path.is_dir():
            candidates: Iterable[Path] = (
                file
                for file in path.rglob("*")
                if not any(part.startswith(".") for part in file.relative_to(path).parts)
            )
            reason = f"there is no image in this folder ({suffixes})"
        elif glob.has_magic(name) and not path.exists():
            candidates = map(Path, glob.glob(str(path), recursive=True))
            reason = f"no image matches this pattern ({suffixes})"
        else:
            files[str(path)] = None
            if name != STDIN and not path.exists():
                mistakes.append(f"image={name}: there is no such file.")
            continue
        images = sorted(str(p) for p in candidates if p.suffix.lower() in SUFFIXES and p.is_file())
        files |= dict.fromkeys(images)
        if not images:
            mistakes.append(f"image={name}: {reason}.")
    if mistakes:
        raise InputError(*mistakes)
    return list(files)


def read_image(name: str | Path, *, color: bool = False) -> NDArray[np.float32]:
    """Read an image file as gray values (H, W), or colors (H, W, 3), from 0 (black) to 1 (white).

    `-` reads standard input. Transparent pixels are white. Reads the first frame of a file with
    several, and downscales images larger than `images.MAX_SIDE`. Raises InputError if the format is
    neither one of `images.FORMATS` nor .npy, or if the file is damaged or too large.
    """
    with as_input_error(f"image={name}"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd headers, and of sizes checked here
        if str(name) == STDIN:
            content = sys.stdin.buffer.read(MAX_BYTES + 1)
            check_size(len(content), f"image={name}")
            return (decode_image(content, color=color) / 255).astype(np.float32)
        path = Path(name)
        if path.suffix.lower() == ".npy" and path.is_file():
            check_size(path.stat().st_size, f"image={name}")
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            if array.size > MAX_PIXELS:
                raise ValueError(TOO_MANY_PIXELS)
            return image_from_array(array, color=color)
        return (read_pixels(path, color=color, name=f"image={name}") / 255).astype(np.float32)


def image_from_array(array: NDArray[Any], *, color: bool = False) -> NDArray[np.float32]:
    """Convert an array to gray values (H, W), or colors (H, W, 3), from 0 to 1.

    array: (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels. White is the maximum of an 8- or
        16-bit integer type, 255 for wider integers, and 1 for floats, or 255 if any is above 2
        (interpolation exceeds 1 slightly).

    Raises NotAnImage for any other array.
    """
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (1, 3):
        array = np.moveaxis(array, 0, 2)
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3))
    if not is_image or not array.size or array.dtype.kind not in "buif":
        raise NotAnImage(
            f"its shape is {tuple(array.shape)} and its dtype {array.dtype}: an image is a numeric "
            f"array (H, W), (H, W, C) or (C, H, W) with 1 or 3 channels"
        )
    limit = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1.0
    values = array.astype(np.float32)
    if not np.isfinite(values).all():
        raise NotAnImage("some of its values are not finite")
    if array.dtype.kind == "f" and values.max() > 2 or limit > 65535:
        limit = 255.0
    values = np.clip(values / limit, 0, 1)
    values = values[:, :, None] if values.ndim == 2 else values
    if color:
        return np.broadcast_to(values, (*values.shape[:2], 3)).copy()
    weights = [0.299, 0.587, 0.114] if values.shape[2] == 3 else [1.0]  # ITU-R 601, as in Pillow
    return (values @ np.asarray(weights)).astype(np.float32)
