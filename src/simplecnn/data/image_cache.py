"""Image files decoded once, into one file. No torch.

`<data_dir>/image_folder/<folder>-<key>.images` holds, one behind the other: the names of the files,
their sizes and times of change, their pixels, and what is wrong with those that cannot be read,
which have black ones. The key stands for the folder and for how its images are decoded. A file that
changes is decoded again, the others are copied.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from simplecnn.data.decoding import Decoding
from simplecnn.errors import InputError, short

SMALL = 8_000  # bytes of a file
MANY = 5_000  # files: what starting processes pays for
Stamped = tuple[str, int, int]  # name, size, time of a file


class ImageFiles(NamedTuple):
    """Files below a folder: their names, and (2, N) sizes in bytes and times in nanoseconds."""

    names: list[str]
    stamps: NDArray[np.int64]


class ImageCache(NamedTuple):
    """Decoded images: the rows of the pixels (N, C, H, W), in the file `path` behind `offset`."""

    path: Path
    time: int  # when it was written, in nanoseconds
    offset: int
    shape: tuple[int, int, int, int]
    files: ImageFiles
    broken: Mapping[int, str]  # rows that hold no image, and what is wrong with their files

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape))

    def pixels(self, *, mapped: bool = False) -> NDArray[np.uint8]:
        """`mapped` leaves them on disk, to be read when they are looked at."""
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime_ns != self.time:  # the rows are others
                raise InputError("The images changed while the run began: start it again.")
            if mapped:
                return np.memmap(file, np.uint8, mode="c", offset=self.offset, shape=self.shape)
            pixels = np.fromfile(file, np.uint8, self.num_bytes, offset=self.offset)
            return pixels.reshape(self.shape)


def cached_images(root: Path, files: ImageFiles, decoding: Decoding, data_dir: Path) -> ImageCache:
    """The images `files` below `root` from the cache, in which those that changed are renewed.

    Nothing is written where nothing has changed. Of several processes one decodes, the others wait.
    Raises InputError where the cache cannot be written.
    """
    key = hashlib.sha256(repr((str(root.resolve()), decoding)).encode(errors="surrogateescape"))
    name = re.sub(r"\W", "_", root.resolve().name)[:40]
    path = data_dir / "image_folder" / f"{name}-{key.hexdigest()[:12]}.images"
    cache = _read(path, decoding)
    if cache is not None and _same(cache.files, files):
        return cache
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            cache = _read(path, decoding)
            if cache is None or not _same(cache.files, files):
                _write(path, root, files, decoding, cache)
                cache = _read(path, decoding)
    except OSError as error:
        raise InputError(
            f"{short(path.parent)} cannot be written: {error.strerror}. The decoded images are "
            f"kept there: type paths.data_dir=<another folder>."
        ) from None
    assert cache is not None
    return cache


def _same(a: ImageFiles, b: ImageFiles) -> bool:
    return a.names == b.names and np.array_equal(a.stamps, b.stamps)


def _read(path: Path, decoding: Decoding) -> ImageCache | None:
    try:
        with path.open("rb") as file:
            names = np.load(file).tobytes().decode(errors="surrogateescape").split("\0")
            files = ImageFiles(names, np.load(file))
            time, shape = os.fstat(file.fileno()).st_mtime_ns, (len(names), *decoding.shape)
            cache = ImageCache(path, time, file.tell(), shape, files, {})
            file.seek(cache.num_bytes, os.SEEK_CUR)
            return cache._replace(broken=dict(json.load(file)))
    except (OSError, EOFError, ValueError):
        return None


def _write(
    path: Path, root: Path, files: ImageFiles, decoding: Decoding, before: ImageCache | None
) -> None:
    """Decode what is new, copy the rest, and replace the file when all is on disk."""
    temporary = path.with_suffix(".new")
    black = np.zeros(decoding.shape, np.uint8)
    broken: list[tuple[int, str]] = []
    names = "\0".join(files.names).encode(errors="surrogateescape")
    try:
        with temporary.open("wb") as file:
            np.save(file, np.frombuffer(names, np.uint8))
            np.save(file, files.stamps)
            for row, result in enumerate(_decoded(root, files, decoding, before)):
                if isinstance(result, str):
                    broken.append((row, result))
                    result = black
                file.write(result.tobytes())
            file.write(json.dumps(broken).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _stamped(files: ImageFiles) -> list[Stamped]:
    return list(zip(files.names, *files.stamps.tolist(), strict=True))


def _decoded(
    root: Path, files: ImageFiles, decoding: Decoding, before: ImageCache | None
) -> Iterator[NDArray[np.uint8] | str]:
    """Each file's pixels, or what is wrong with it, in order; a bar shows how far it is."""
    stamped = _stamped(files)
    kept: dict[Stamped, int] = {}
    if before is not None:
        pixels = before.pixels(mapped=True)
        kept = {f: row for row, f in enumerate(_stamped(before.files)) if row not in before.broken}
    new = [f"{root}/{file[0]}" for file in stamped if file not in kept]
    is_small = files.stamps[0].mean() < SMALL and len(new) > MANY
    decoded = decoding.many(new, processes=is_small)
    bar = tqdm(total=len(stamped), desc=f"reading {root.name}", unit="image", disable=None)
    with contextlib.closing(decoded), bar:
        for file in stamped:
            yield pixels[kept[file]] if file in kept else next(decoded)
            bar.update()
