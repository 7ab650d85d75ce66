"""Image files decoded once, into one file of uint8 pixels beside an index. No torch.

`<data_dir>/image_folder/<folder>-<key>.json` lists the files with their size and time of change, in
the order of the pixels, and names the file that holds these; the key stands for the folder and for
how its images are decoded. A file that changes is decoded again, the others are copied.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from simplecnn.atomic import atomic_write
from simplecnn.data.images import Fit, fit_pixels, read_pixels
from simplecnn.errors import InputError, short

SMALL = 8_000  # bytes of a file
TOGETHER = 128  # files that a thread decodes before it takes others
Stamp = list[int]  # size in bytes, time of change in nanoseconds


@dataclass(frozen=True)
class ImageCache:
    """Decoded images: `files`, by name, are the rows of the pixels; `broken` says why of others."""

    path: Path
    shape: tuple[int, int, int]  # of an image: channels, height, width
    files: Mapping[str, Stamp]
    broken: Mapping[str, tuple[Stamp, str]]

    @property
    def num_bytes(self) -> int:
        return len(self.files) * int(np.prod(self.shape))

    @property
    def stamps(self) -> dict[str, Stamp]:
        return {**self.files, **{name: stamp for name, (stamp, _) in self.broken.items()}}

    def pixels(self, *, mapped: bool = False) -> NDArray[np.uint8]:
        """uint8 (N, C, H, W); `mapped` leaves them on disk, to be read when they are looked at."""
        shape = (len(self.files), *self.shape)
        if mapped:
            return np.memmap(self.path, np.uint8, mode="c", shape=shape)
        return np.fromfile(self.path, np.uint8).reshape(shape)


@dataclass(frozen=True)
class Decoding:
    """How image files become pixels (channels, size, size)."""

    size: int
    channels: int
    fit: Fit

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.size, self.size

    def __call__(self, path: Path) -> NDArray[np.uint8] | str:
        """The pixels, or a sentence on what is wrong with the file."""
        try:
            pixels = fit_pixels(read_pixels(path, color=self.channels == 3), self.size, self.fit)
        except InputError as error:
            return str(error)
        return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def cached_images(
    root: Path, stamps: Mapping[str, Stamp], decoding: Decoding, data_dir: Path
) -> ImageCache:
    """The images `stamps` below `root` from the cache, in which those that changed are renewed.

    Nothing is written where nothing has changed. Of several processes one decodes, the others wait.
    Raises InputError where the cache cannot be written.
    """
    key = hashlib.sha256(repr((str(root.resolve()), decoding)).encode(errors="surrogateescape"))
    name = re.sub(r"\W", "_", root.resolve().name)[:40]
    index = data_dir / "image_folder" / f"{name}-{key.hexdigest()[:12]}.json"
    cache = _read(index)
    if cache is not None and cache.stamps == stamps:
        return cache
    try:
        index.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(index.with_suffix(".lock")):
            cache = _read(index)
            if cache is None or cache.stamps != stamps:
                cache = _renew(index, root, stamps, decoding, cache)
    except OSError as error:
        raise InputError(
            f"{short(index.parent)} cannot be written: {error.strerror}. The decoded images are "
            f"kept there: type paths.data_dir=<another folder>."
        ) from None
    return cache


def _read(index: Path) -> ImageCache | None:
    try:
        content = json.loads(index.read_bytes())
        cache = ImageCache(
            index.with_name(content["pixels"]),
            tuple(content["shape"]),
            dict(zip(content["files"], zip_lists(content), strict=True)),
            {name: (stamp, reason) for name, stamp, reason in content["broken"]},
        )
        is_complete = cache.path.stat().st_size == cache.num_bytes
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return cache if is_complete else None


def zip_lists(content: Mapping[str, Any]) -> Iterator[Stamp]:
    """The stamps of an index, which holds them as columns."""
    return map(list, zip(content["sizes"], content["times"], strict=True))


def _renew(
    index: Path,
    root: Path,
    stamps: Mapping[str, Stamp],
    decoding: Decoding,
    before: ImageCache | None,
) -> ImageCache:
    """Decode what is new, copy the rest, and replace the index when all pixels are on disk."""
    for left in index.parent.glob(f".{index.stem}*"):  # by a process that was killed
        left.unlink(missing_ok=True)
    digest = hashlib.sha256(repr(list(stamps.items())).encode(errors="surrogateescape"))
    path = index.with_name(f"{index.stem}-{digest.hexdigest()[:12]}.uint8")
    temporary = path.with_name(f".{path.name}")
    files: dict[str, Stamp] = {}
    broken: dict[str, tuple[Stamp, str]] = {}
    try:
        with temporary.open("wb") as file:
            for name, result in _decoded(root, stamps, decoding, before):
                if isinstance(result, str):
                    broken[name] = stamps[name], result
                else:
                    files[name] = stamps[name]
                    file.write(result.tobytes())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    content = {
        "pixels": path.name,
        "shape": decoding.shape,
        "files": list(files),
        "sizes": [size for size, _ in files.values()],
        "times": [time for _, time in files.values()],
        "broken": [(name, *entry) for name, entry in broken.items()],
    }
    atomic_write(index, json.dumps(content).encode())
    for old in index.parent.glob(f"{index.stem}-*.uint8"):
        if old != path:
            old.unlink(missing_ok=True)
    return ImageCache(path, decoding.shape, files, broken)


def _decoded(
    root: Path, stamps: Mapping[str, Stamp], decoding: Decoding, before: ImageCache | None
) -> Iterator[tuple[str, NDArray[np.uint8] | str]]:
    """Each file's pixels, or what is wrong with it, in order; a bar shows how far it is.

    By threads: Pillow decodes and resizes without Python's lock. Of small files that is so little
    that threads would wait for each other.
    """
    mean_size = sum(size for size, _ in stamps.values()) / max(1, len(stamps))
    num_threads = os.cpu_count() if mean_size > SMALL else 1
    kept: dict[str, int] = {}
    if before is not None and before.files:
        pixels = before.pixels(mapped=True)
        kept = {n: i for i, (n, s) in enumerate(before.files.items()) if stamps.get(n) == s}

    def part(names: list[str]) -> list[NDArray[np.uint8] | str]:
        return [pixels[kept[n]] if n in kept else decoding(root / n) for n in names]

    names = list(stamps)
    parts = [names[i : i + TOGETHER] for i in range(0, len(names), TOGETHER)]
    pool = ThreadPoolExecutor(max_workers=num_threads)
    bar = tqdm(total=len(names), desc=f"reading {root.name}", unit="image", disable=None)
    # Pillow warns of odd headers, and of sizes that are looked at. Threads share the filters.
    with warnings.catch_warnings(), bar:
        warnings.simplefilter("ignore")
        try:
            for some, results in zip(parts, pool.map(part, parts), strict=True):
                yield from zip(some, results, strict=True)
                bar.update(len(some))
        finally:
            pool.shutdown(cancel_futures=True)
