"""MNIST's four files for tests, and a mirror on localhost that can misbehave."""

import gzip
import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from simplecnn.data import files as mnist_files
from simplecnn.data.files import ALL_FILES, CHECKSUM_FILES, FILES


@dataclass
class Originals:
    """The original MNIST files or, if they are not available, substitutes in the same format.

    The substitutes have the 5,000 bundled digits as training set and 1,000 of them, inverted, as
    test set; `know` patches their number and checksums into `mnist_files` for one test.
    """

    zipped: Path  # folder of the four .gz
    data_dir: Path  # holds MNIST/raw with the four extracted files
    sha256: dict[str, str]  # of the eight files, by name
    num_images: dict[str, int]
    real: bool

    def know(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if not self.real:
            monkeypatch.setitem(mnist_files.SHA256, "MNIST", self.sums)
            for part, number in self.num_images.items():
                monkeypatch.setitem(mnist_files.NUM_IMAGES, part, number)

    @property
    def sums(self) -> tuple[str, ...]:
        return tuple(self.sha256[name] for name in CHECKSUM_FILES)

    def content(self, name: str) -> bytes:
        return (self.data_dir / "MNIST" / "raw" / name).read_bytes()

    def link(self, folder: Path, *names: str) -> Path:
        """Hard-link extracted files into a new data folder."""
        raw = folder / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for name in names:
            os.link(self.data_dir / "MNIST" / "raw" / name, raw / name)
        return raw


def find_or_make(
    mnist_dir: Path | None, bundled: tuple[np.ndarray, np.ndarray], folder: Path
) -> Originals:
    zipped, raw = folder / "zipped", folder / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    originals = mnist_dir and {path.name: path for path in mnist_dir.rglob("*-ubyte.gz")}
    real = bool(originals) and all(f"{name}.gz" in originals for name in ALL_FILES)
    if real:
        zipped = originals[f"{ALL_FILES[0]}.gz"].parent
    else:
        zipped.mkdir()
        order = np.random.default_rng(0).permutation(len(bundled[1]))  # the originals are mixed too
        images, labels = (part[order] for part in bundled)
        for part, part_images in [("train", images), ("test", 255 - images[::5])]:
            part_labels = labels if part == "train" else labels[::5]
            header = struct.pack(">4I", 2051, len(part_images), 28, 28)
            contents = (
                header + part_images.tobytes(),
                struct.pack(">2I", 2049, len(part_images)) + part_labels.astype(np.uint8).tobytes(),
            )
            for name, content in zip(FILES[part], contents, strict=True):
                (zipped / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
    sha256 = {}
    for name in ALL_FILES:
        gz = (zipped / f"{name}.gz").read_bytes()
        content = gzip.decompress(gz)
        (raw / name).write_bytes(content)
        sha256[name] = hashlib.sha256(content).hexdigest()
        sha256[f"{name}.gz"] = hashlib.sha256(gz).hexdigest()
    num_images = {"train": 60_000, "test": 10_000} if real else {"train": 5_000, "test": 1_000}
    return Originals(zipped, folder / "data", sha256, num_images, real)


@dataclass
class Mirror:
    """The behavior of a server of the four .gz files, and the requests that it received.

    `plans` lists, by file name, the behavior for the first, second, … request; the last entry
    applies to all further requests, and the key "*" to all other files.
    """

    folder: Path
    url: str = ""
    plans: dict[str, list[str]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)

    def behavior(self, name: str) -> str:
        plan = self.plans.get(name, self.plans.get("*", ["good"]))
        return plan[min(self.requests.count(name), len(plan)) - 1]

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        name = handler.path.rpartition("/")[2]
        self.requests.append(name)
        behavior = self.behavior(name)
        body = (self.folder / name).read_bytes()
        middle = len(body) // 2
        if behavior == "silent":
            self.closing.wait()
            return
        if behavior == "404":
            handler.send_error(404)
            return
        if behavior == "wrong":
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        if behavior == "swapped":
            body = (self.folder / f"{swapped_with(name.removesuffix('.gz'))}.gz").read_bytes()
        if behavior == "not gzip":  # for example, a login page
            body = b"<html>Please log in.</html>"
        if behavior == "endless":
            body = body * 50
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        if behavior in ("half", "hang"):
            handler.wfile.write(body[:middle])
            if behavior == "hang":
                self.closing.wait()
        else:
            handler.wfile.write(body)


def swapped_with(name: str) -> str:
    """The corresponding file of the other part: training for test, test for training."""
    part, other = ("train", "test") if name in FILES["train"] else ("test", "train")
    return FILES[other][FILES[part].index(name)]


@contextmanager
def serve(folder: Path) -> Iterator[Mirror]:
    mirror = Mirror(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # clients that hang up are expected

    with Server(("127.0.0.1", 0), Handler) as server:
        mirror.url = f"http://127.0.0.1:{server.server_address[1]}/mnist/"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield mirror
        finally:
            mirror.closing.set()
            server.shutdown()
            thread.join()
