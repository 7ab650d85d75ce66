"""Predictions for image files: results, written files, error messages."""

import csv
import errno
import gzip
import io
import logging
import os
import shutil
import struct
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from children import run_forked
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from PIL import Image

import simplecnn
from simplecnn.data.mnist import MNISTDataModule
from simplecnn.errors import InputError, RunError
from simplecnn.figures.raster import text_width
from simplecnn.figures.style import NEW, OLD
from simplecnn.inference.image_files import find_images, image_from_array, read_image
from simplecnn.inference.predict import _contact_sheet, attribution, predict
from simplecnn.inference.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def run(good_run):
    return simplecnn.load(good_run)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, list[str]]:
    """The 500 held-out test digits (500, 28, 28), uint8, and their classes."""
    data = MNISTDataModule(dataset="MNIST5k")
    data.setup("test")
    images, labels = data.splits["test"]
    return images.numpy(), [str(label) for label in labels.tolist()]


def read_predictions(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def stretched(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((200, 300), Image.Resampling.BICUBIC))


def off_center(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    large = np.asarray(Image.fromarray(image).resize((84, 84), Image.Resampling.BICUBIC))
    page = np.zeros((300, 360), np.uint8)
    top, left = rng.integers(0, 216), rng.integers(0, 276)
    page[top : top + 84, left : left + 84] = large
    return page


CHANGES = {
    "inverted": lambda image, rng: 255 - image,
    "200 x 300": stretched,
    "off center": off_center,
    "off center, ink on paper": lambda image, rng: 255 - off_center(image, rng),
}


@pytest.mark.long
@pytest.mark.parametrize("change", CHANGES)
def test_a_digit_is_recognized_after_changes_that_preprocessing_undoes(
    change, run, digits, tmp_path
):
    rng = np.random.default_rng(0)
    images, labels = digits[0][::2], digits[1][::2]
    for i, image in enumerate(images):
        Image.fromarray(CHANGES[change](image, rng)).save(tmp_path / f"{i:03}.png")
    folder = predict(run, find_images([str(tmp_path)]), to=str(tmp_path / "out"))
    rows = read_predictions(folder)
    assert [Path(row["file"]).stem for row in rows] == [f"{i:03}" for i in range(250)]
    unchanged = run.predict(images).classes
    num_correct, expected = (
        sum(name == label for name, label in zip(names, labels, strict=True))
        for names in ([row["class"] for row in rows], unchanged)
    )
    # A few of the 250 digits are near a decision boundary, where rounding differs between CPUs.
    assert num_correct >= expected - (0 if change == "inverted" else 4) and num_correct >= 237


@pytest.mark.long
def test_five_hundred_files_take_less_than_five_seconds(run, digits, tmp_path):
    for i, image in enumerate(digits[0]):
        Image.fromarray(image).save(tmp_path / f"{i:03}.png")
    start = time.process_time()
    folder = predict(run, find_images([str(tmp_path)]), to=str(tmp_path / "out"))
    assert time.process_time() - start < 5
    assert [row["class"] for row in read_predictions(folder)] == run.predict(digits[0]).classes


def test_the_written_predictions_are_those_of_the_network(run, digits, tmp_path, caplog):
    wide = Image.fromarray(255 - digits[0][3]).resize((200, 300))
    Image.fromarray(digits[0][0]).save(tmp_path / "one.png")
    wide.convert("RGB").save(tmp_path / "two.jpg", quality=95)
    np.save(tmp_path / "three.npy", digits[0][7])
    names = [str(tmp_path / name) for name in ("one.png", "two.jpg", "three.npy")]
    with caplog.at_level(logging.INFO, "simplecnn"):
        folder = predict(run, names, reject=0.999, to=str(tmp_path / "out"))
    rows = read_predictions(folder)
    expected = run.predict(torch.from_numpy(digits[0][[0, 7]]))
    for row, i in ((rows[0], 0), (rows[2], 1)):
        assert (row["class"], row["second_class"]) == (
            expected.classes[i],
            expected.second_classes[i],
        )
        assert float(row["probability"]) == pytest.approx(expected.confidences[i], abs=1e-5)
        assert row["decided"] == ("yes" if expected.confidences[i] >= 0.999 else "no")
    assert [row["preprocessing"] for row in rows] == [
        "28 x 28 pixels in gray",
        "200 x 300 pixels in gray, inverted, resized to 28 x 28",
        "28 x 28 pixels in gray",
    ]
    logged = caplog.text
    assert all(name in logged for name in names) and "3 images by class   " in logged
    assert logged.rstrip().count("undecided: probability below 0.999") == 1
    assert logged.count("undecided") >= [row["decided"] for row in rows].count("no")
    with Image.open(folder / "contact_sheet.png") as sheet:
        colors = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    has_orange = (colors == (217, 96, 15)).all(1).any()
    assert has_orange == ("no" in [row["decided"] for row in rows])


def test_unreadable_files_are_rows_with_an_error(run, digits, tmp_path):
    Image.fromarray(digits[0][0]).save(tmp_path / "good.png")
    Image.new("L", (50, 50), 255).save(tmp_path / "blank.png")
    (tmp_path / "text.png").write_text("this is not an image")
    np.save(tmp_path / "shape.npy", np.zeros((5, 28, 28)))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(RunError, match="4 of 5 files could not be classified"):
        predict(run, find_images([str(tmp_path)]), to=str(tmp_path / "out"))
    rows = {Path(row["file"]).name: row for row in read_predictions(tmp_path / "out")}
    assert rows["good.png"]["class"] == digits[1][0] and rows["good.png"]["error"] == ""
    assert "it is blank" in rows["blank.png"]["error"]
    assert "is not an image that can be read" in rows["text.png"]["error"]
    reason = "shape.npy is not an image: its shape is (5, 28, 28) and its dtype float64"
    assert f"{reason}: an image is a numeric array (H, W)" in rows["shape.npy"]["error"]
    assert "is damaged" in rows["objects.npy"]["error"]
    unreadable = [str(tmp_path / name) for name in ("blank.png", "text.png")]
    with pytest.raises(InputError) as caught:
        predict(run, unreadable, to=str(tmp_path / "none"))
    assert len(caught.value.mistakes) == 2 and not (tmp_path / "none").exists()
    with pytest.raises(InputError, match="out already exists: name another folder"):
        predict(run, [str(tmp_path / "good.png")], to=str(tmp_path / "out"))


def test_two_predictions_within_a_second_have_their_own_folders(run, digits, tmp_path):
    Image.fromarray(digits[0][0]).save(tmp_path / "one.png")
    folders = [predict(run, [str(tmp_path / "one.png")]) for _ in range(3)]
    assert len({*folders}) == 3 and all((f / "predictions.csv").is_file() for f in folders)
    for folder in folders:
        shutil.rmtree(folder)


def test_a_file_name_may_be_any_bytes(run, digits, tmp_path, caplog):
    caplog.set_level("ERROR")  # pytest-xdist cannot send such a name in the captured log
    name = b"a\xff$x.png"
    with open(os.fsencode(tmp_path) + b"/" + name, "wb") as file:
        Image.fromarray(digits[0][0]).save(file, "PNG")
    predict(run, find_images([str(tmp_path)]), explain=True, to=str(tmp_path / "out"))
    (row,) = read_predictions(tmp_path / "out")
    assert row["file"].endswith(r"/a\udcff$x.png") and row["class"] == digits[1][0]
    assert os.listdir(os.fsencode(tmp_path / "out" / "explained")) == [b"0_" + name]


def test_of_many_unreadable_files_some_are_listed(run, tmp_path):
    for i in range(50):
        (tmp_path / f"{i:02d}.png").touch()
    with pytest.raises(InputError) as caught:
        predict(run, find_images([str(tmp_path)]), to=str(tmp_path / "out"))
    assert len(caught.value.mistakes) == 41 and caught.value.mistakes[-1] == "and 10 more"


def test_of_many_files_all_that_failed_are_listed(run, digits, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("simplecnn.inference.predict.MAX_ROWS", 2)
    caplog.set_level("INFO")
    for i in range(5):
        Image.fromarray(digits[0][i]).save(tmp_path / f"{i}.png")
    (tmp_path / "a_broken.png").touch()
    (tmp_path / "z_broken.png").touch()
    with pytest.raises(RunError, match=r"2 of 7 files could not be classified: see above\."):
        predict(run, find_images([str(tmp_path)]), reject=1.0, to=str(tmp_path / "out"))
    rows = [line for line in caplog.text.splitlines() if "not classified" in line]
    assert len(rows) == 2 and "a_broken.png" in rows[0] and "z_broken.png" in rows[1]
    assert "Shown: 4 of 7 images, those that are undecided or failed. All are in" in caplog.text
    assert "z_broken.png: it is empty" in caplog.text or "z_broken.png is" in caplog.text


def test_a_full_disk_is_reported_after_the_predictions(run, digits, monkeypatch, tmp_path, caplog):
    Image.fromarray(digits[0][0]).save(tmp_path / "one.png")
    full = OSError(errno.ENOSPC, "No space left on device")
    caplog.set_level("INFO")
    monkeypatch.setattr(Figure, "savefig", Mock(side_effect=full))
    with pytest.raises(RunError, match=r"answers cannot be written: No space left on device\."):
        predict(run, [str(tmp_path / "one.png")], to=str(tmp_path / "answers"))
    assert not (tmp_path / "answers").exists()  # an incomplete one would not be replaced
    assert "1 image by class" in caplog.text


def test_folders_and_patterns_are_expanded(tmp_path):
    for name in ("a.png", "sub/b.JPG", "sub/deep/c.npy", "sub/notes.txt", "sub/.venv/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()

    def expand(*names: str) -> list[str]:
        return [str(Path(f).relative_to(tmp_path)) for f in
                find_images([str(tmp_path / name) for name in names])]  # fmt: skip

    assert expand("sub") == ["sub/b.JPG", "sub/deep/c.npy"]
    assert expand("*.png", "a.png", "sub/**/*.npy") == ["a.png", "sub/deep/c.npy"]
    assert expand("sub/notes.txt") == ["sub/notes.txt"]  # rejected later, when it is read
    assert find_images(["-"]) == ["-"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError) as caught:
        expand("empty", "*.bmp", "none.png")
    for mistake, part in zip(
        caught.value.mistakes, ("no image in this folder", "no image matches", "no such file"),
        strict=True,
    ):  # fmt: skip
        assert part in mistake


def test_an_image_from_standard_input(run, digits, monkeypatch, tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(digits[0][0]).save(buffer, "WEBP", lossless=True)
    buffer.seek(0)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(buffer))
    (row,) = read_predictions(predict(run, ["-"], to=str(tmp_path / "out")))
    assert (row["file"], row["class"]) == ("-", run.predict(digits[0][0]).classes[0])


def test_long_names_are_shortened_on_the_contact_sheet():
    row = {"class": 40 * "a" + 40 * "b", "probability": 0.5, "image": np.ones((1, 9, 9))}
    rows = [row | {"unsure": True, "file": "x/first.png"},
            row | {"unsure": False, "file": f"{40 * 'c'}{40 * 'd'}.png"}]  # fmt: skip
    (ax,) = _contact_sheet(rows, "title").axes
    _, *captions = [text.get_text() for text in ax.texts]
    name = f"{14 * 'a'}…{9 * 'b'}"
    assert captions[0] == f"{name} ?: 50.0 %\nfirst.png"
    label, file = captions[1].split("\n")
    assert label == f"{name}: 50.0 %" and text_width(file) <= 112
    assert file.startswith("ccc") and "…" in file and file.endswith("d.png")
    assert [frame.get_edgecolor() for frame in ax.patches] == [to_rgba(NEW), to_rgba(OLD)]


def test_each_prediction_is_drawn_with_its_preprocessing_steps(run, digits, tmp_path):
    page = 255 - off_center(digits[0][4], np.random.default_rng(1))
    Image.fromarray(page).save(tmp_path / "page.png")
    folder = predict(run, [str(tmp_path / "page.png")], explain=True, to=str(tmp_path / "out"))
    (path,) = (folder / "explained").iterdir()
    assert path.name == "0_page.png"
    with Image.open(path) as picture:
        assert picture.width > 1000 and picture.height > 900
    steps = run.preprocessing.steps(read_image(tmp_path / "page.png"))
    verbs = [step.description.split()[0] for step in steps]
    assert verbs == ["360", "inverted", "cropped", "fitted"]
    assert steps[-1].pixels.shape == (28, 28)


def test_an_attribution_sums_to_the_difference_in_logits_from_a_black_image(run, digits):
    image = run.prepare(digits[0][0])
    values = attribution(run.network, image, 3)
    with torch.no_grad():
        difference = (run.network(image) - run.network(torch.zeros_like(image)))[0, 3]
    assert values.sum() == pytest.approx(float(difference), rel=0.1, abs=0.3)
    assert not values[image[0, 0].numpy() == 0].any()


def write_idx(folder: Path, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True)
    header = struct.pack(">4I", 0x0803, *images.shape)
    (folder / "t10k-images-idx3-ubyte").write_bytes(header + images.tobytes())
    header = struct.pack(">2I", 0x0801, len(labels))
    (folder / "t10k-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())


def test_decided_images_of_other_data_sets_are_counted(run, digits, tmp_path, caplog):
    images = np.concatenate([digits[0]] * 20)
    write_idx(tmp_path / "data/KMNIST/raw", images, np.zeros(10_000))
    Image.fromarray(digits[0][0]).save(tmp_path / "one.png")
    with caplog.at_level(logging.INFO, "simplecnn"):
        predict(run, [str(tmp_path / "one.png")], reject=0.9, to=str(tmp_path / "out"),
                data_dir=str(tmp_path / "data"))  # fmt: skip
    num_decided = 20 * int((run.predict(digits[0]).confidences >= 0.9).sum())
    assert f"{num_decided:,} of 10,000 test images of KMNIST are decided at 0.9" in caplog.text
    assert "FashionMNIST" not in caplog.text


def test_the_accuracy_of_decided_images_is_left_out_if_there_are_none(
    run, digits, tmp_path, caplog, monkeypatch
):
    images, labels = np.concatenate([digits[0]] * 20), np.array(digits[1] * 20, int)
    write_idx(tmp_path / "data/MNIST/raw", images, labels)
    # they do not have the checksum of MNIST
    monkeypatch.setattr("simplecnn.data.files.read", lambda *args, **options: (images, labels))
    Image.fromarray(digits[0][0]).save(tmp_path / "one.png")
    for reject in (0.5, 2):
        with caplog.at_level(logging.INFO, "simplecnn"):
            predict(run, [str(tmp_path / "one.png")], reject=reject, to=str(tmp_path / f"{reject}"),
                    data_dir=str(tmp_path / "data"))  # fmt: skip
    lines = [message for message in caplog.messages if "test images of MNIST" in message]
    assert lines[0].endswith(" % of them correctly")
    assert lines[1] == "0 of 10,000 test images of MNIST are decided at 2"


def test_preprocessing_depends_on_the_data_set(run):
    mnist = Preprocessing.from_config(run.config["data"], run.network_config)
    assert mnist == Preprocessing(1, 28, 20)
    fashion_mnist = {**run.config["data"], "dataset": "FashionMNIST"}
    assert Preprocessing.from_config(fashion_mnist, {}).box == 28
    color = Preprocessing.from_config(
        {"_target_": "mine.Folder", "image_size": 32}, {"in_channels": 3}
    )
    assert color == Preprocessing(3, 32, None) and color.color
    photo = np.random.default_rng(0).random((48, 64, 3)).astype(np.float32)
    (first, last) = color.steps(photo)
    assert (first.description, last.description) == ("64 x 48 pixels", "resized to 32 x 32")
    array = color.array(photo)
    assert array.shape == (3, 32, 32)
    np.testing.assert_allclose(array.mean((1, 2)), photo.mean((0, 1)), atol=0.01)
    gray = Preprocessing(channels=3).array(photo.mean(2))
    assert gray.shape == (3, 28, 28) and (gray == gray[0]).all()


def test_an_image_without_a_drawing_is_reported():
    image = np.zeros((40, 40), np.float32)
    image[10:30, 15:25] = 1
    with pytest.raises(InputError, match="nothing is lighter than its border. Leave out invert."):
        Preprocessing().steps(image, invert=True)


def test_arrays_of_every_layout_and_dtype_are_the_same_image():
    gray = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    expected = gray.astype(np.float32) / 255
    for array in (
        gray,
        gray[..., None],
        gray[None],
        np.stack([gray] * 3, 2),
        expected,
        gray.astype(np.uint16) * 257,
        gray.astype(np.int64),
        gray.astype(float),
    ):
        np.testing.assert_allclose(image_from_array(array), expected, atol=1e-6)  # fmt: skip
    assert image_from_array(gray, color=True).shape == (3, 4, 3)
    white = np.array([[0.5, 1.01]])  # interpolated
    np.testing.assert_array_equal(image_from_array(white), np.array([[0.5, 1]], np.float32))


def test_the_command(good_run, digits, tmp_path):
    """Exit codes: 0 for success, 1 if some files cannot be read, 2 if nothing was written."""
    Image.fromarray(digits[0][0]).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(gzip.compress(b"no image"))
    overrides = [f"run={good_run}", "to=out", "image=good.png", "reject=0.5"]
    done = run_forked(tmp_path, "predict.py", *overrides)
    assert done.returncode == 0, done.stderr
    assert "good.png" in done.stdout and "written      out" in done.stdout
    done = run_forked(tmp_path, "predict.py", f"run={good_run}", "to=two", "image=[*.png]")
    assert done.returncode == 1 and "1 of 2 files could not be classified" in done.stderr
    assert "image=bad.png is not an image that can be read" in done.stdout
    before = sorted(path.name for path in tmp_path.iterdir())
    for overrides, message in [
        (["image=bad.png"], "image=bad.png is not an image"),
        (["image=nothing.png"], "image=nothing.png: there is no such file."),
        (["image=good.png", "reject=2"], "reject is 2: it must be a number >= 0"),
        (["image=good.png", "checkpoint=none.ckpt"], "none.ckpt does not exist"),
    ]:
        done = run_forked(tmp_path, "predict.py", f"run={good_run}", "to=three", *overrides)
        assert done.returncode == 2 and message in done.stderr, (overrides, done)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
