"""Cache of decoded images: each file is decoded once, into one array on disk. No torch import.

`<data_dir>/image_folder/<folder>-<key>.images` contains, one after the other, the names of the
files, their sizes and modification times, the pixels of all files, their checksum, and the errors
of unreadable files, whose pixels are black. The key is a hash of the folder's path and the decoding
parameters. Only files that are new or have changed are decoded; other pixels are copied.
"""

import contextlib
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from simplecnn.data.decoding import Decoding
from simplecnn.errors import InputError, relative_path

# More files than this, smaller than this on average, are decoded by processes instead of threads.
MIN_FILES_FOR_PROCESSES = 5_000
MAX_BYTES_FOR_PROCESSES = 8_000
FileStamp = tuple[str, int, int]  # name, size, modification time


class ImageFiles(NamedTuple):
    """Files below a folder: names, and stamps (2, N): sizes in bytes, modification times in ns."""

    names: list[str]
    stamps: NDArray[np.int64]


class ImageCache(NamedTuple):
    """Decoded images: an array (N, C, H, W) at `offset` in the file `path`."""

    path: Path
    time: int  # modification time of `path`, in nanoseconds
    offset: int  # bytes
    shape: tuple[int, int, int, int]
    files: ImageFiles
    broken: Mapping[int, str]  # error messages of unreadable files, by row
    checksum: int  # CRC-32 of the pixels

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape))

    def pixels(self, *, mapped: bool = False) -> NDArray[np.uint8]:
        """Read and verify the array, or map it into memory."""
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_mtime_ns != self.time:  # rewritten, with other rows
                raise InputError("The images changed while the run began: start it again.")
            if mapped:
                return np.memmap(file, np.uint8, mode="c", offset=self.offset, shape=self.shape)
            pixels = np.fromfile(file, np.uint8, self.num_bytes, offset=self.offset)
        if zlib.crc32(pixels.data) != self.checksum:
            raise InputError(
                f"{relative_path(self.path)} is damaged: delete it, and the images are decoded "
                f"again."
            )
        return pixels.reshape(self.shape)


def cached_images(root: Path, files: ImageFiles, decoding: Decoding, data_dir: Path) -> ImageCache:
    """Return the cache of `files` below `root`, updated first if any of them has changed.

    Of several processes, one updates the cache while the others wait. Raises InputError if the
    cache cannot be written.
    """
    key = hashlib.sha256(repr((str(root.resolve()), decoding)).encode(errors="surrogateescape"))
    name = re.sub(r"\W", "_", root.resolve().name)[:40]
    path = data_dir / "image_folder" / f"{name}-{key.hexdigest()[:12]}.images"
    cache = _read(path, decoding)
    if cache is not None and _are_equal(cache.files, files):
        return cache
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            cache = _read(path, decoding)
            if cache is None or not _are_equal(cache.files, files):
                _write(path, root, files, decoding, cache)
                cache = _read(path, decoding)
    except OSError as error:
        raise InputError(
            f"{relative_path(path.parent)} cannot be written: {error.strerror}. The decoded images "
            f"are stored there: type paths.data_dir=<another folder>."
        ) from None
    assert cache is not None
    return cache


def _are_equal(a: ImageFiles, b: ImageFiles) -> bool:
    return a.names == b.names and np.array_equal(a.stamps, b.stamps)


def _read(path: Path, decoding: Decoding) -> ImageCache | None:
    """Read all but the pixels; None if the file is missing or damaged."""
    try:
        with path.open("rb") as file:
            names = np.load(file).tobytes().decode(errors="surrogateescape").split("\0")
            files = ImageFiles(names, np.load(file))
            time, shape = os.fstat(file.fileno()).st_mtime_ns, (len(names), *decoding.shape)
            cache = ImageCache(path, time, file.tell(), shape, files, {}, 0)
            file.seek(cache.num_bytes, os.SEEK_CUR)
            checksum, broken = json.load(file)
            return cache._replace(checksum=checksum, broken=dict(broken))
    except (OSError, EOFError, ValueError, TypeError):
        return None


def _write(
    path: Path, root: Path, files: ImageFiles, decoding: Decoding, previous: ImageCache | None
) -> None:
    """Write the cache of `files`, with unchanged pixels from `previous`, and replace it atomically.

    Not by `atomic_write`: the pixels are written as they are decoded.
    """
    temporary = path.with_suffix(".new")
    black = np.zeros(decoding.shape, np.uint8)
    broken: list[tuple[int, str]] = []
    checksum = 0
    names = "\0".join(files.names).encode(errors="surrogateescape")
    try:
        with temporary.open("wb") as file:
            np.save(file, np.frombuffer(names, np.uint8))
            np.save(file, files.stamps)
            for row, result in enumerate(_decoded(root, files, decoding, previous)):
                if isinstance(result, str):
                    broken.append((row, result))
                    result = black
                content = result.tobytes()
                checksum = zlib.crc32(content, checksum)
                file.write(content)
            file.write(json.dumps([checksum, broken]).encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _file_stamps(files: ImageFiles) -> list[FileStamp]:
    return list(zip(files.names, *files.stamps.tolist(), strict=True))


def _decoded(
    root: Path, files: ImageFiles, decoding: Decoding, previous: ImageCache | None
) -> Iterator[NDArray[np.uint8] | str]:
    """Yield the pixels or the error message of each file in order, with a progress bar."""
    stamps = _file_stamps(files)
    unchanged: dict[FileStamp, int] = {}  # rows of `previous`
    if previous is not None:
        pixels = previous.pixels(mapped=True)
        unchanged = {
            stamp: row
            for row, stamp in enumerate(_file_stamps(previous.files))
            if row not in previous.broken
        }
    changed = [f"{root}/{stamp[0]}" for stamp in stamps if stamp not in unchanged]
    mean_bytes = float(files.stamps[0].mean())
    use_processes = len(changed) > MIN_FILES_FOR_PROCESSES and mean_bytes < MAX_BYTES_FOR_PROCESSES
    decoded = decoding.decode_in_parallel(changed, processes=use_processes)
    bar = tqdm(total=len(stamps), desc=f"reading {root.name}", unit="image", disable=None)
    with contextlib.closing(decoded), bar:
        for stamp in stamps:
            yield pixels[unchanged[stamp]] if stamp in unchanged else next(decoded)
            bar.update()
