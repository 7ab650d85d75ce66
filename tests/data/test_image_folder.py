"""Image folders: the same tensors as other data, decoded once, split as the checkpoint says."""

import base64
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from children import run_forked
from conftest import compose_run
from PIL import Image

from simplecnn.config.build import build
from simplecnn.data import decoding, image_cache
from simplecnn.data.image_folder import ImageFolderDataModule
from simplecnn.data.mnist import MNISTDataModule
from simplecnn.data.resident import mixed_order
from simplecnn.errors import InputError, RunError
from simplecnn.inference.image_files import read_image
from simplecnn.inference.preprocessing import Preprocessing
from simplecnn.models.classifier import Classifier


def write(path: Path, pixels: np.ndarray | None = None, **options: object) -> Path:
    """Write an image file; by default 8 x 6 pixels whose random colors depend on the name."""
    if pixels is None:
        pixels = np.random.default_rng(list(str(path.name).encode())).integers(
            0, 256, (6, 8, 3), np.uint8
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of 10 and 5 images."""
    for name, number in (("cat", 10), ("dog", 5)):
        for i in range(number):
            write(tmp_path / "pets" / name / f"{name}{i}.png")
    return tmp_path / "pets"


@pytest.fixture
def module(root: Path) -> Callable[..., ImageFolderDataModule]:
    def module(**options: object) -> ImageFolderDataModule:
        defaults = {"root": str(root), "data_dir": str(root.parent / "data"), "image_size": 8}
        return ImageFolderDataModule(**defaults | options)

    return module


def files(data: ImageFolderDataModule, split: str) -> list[str]:
    return data.state_dict()["splits"][split]


def test_png_files_of_mnist_5k_are_the_same_tensors(tmp_path):
    digits = MNISTDataModule(dataset="MNIST5k")
    digits.setup()
    for split, (images, labels) in digits.splits.items():
        order = range(len(labels)) if split == "train" else mixed_order(labels.sort()[0].numpy())
        for i, image, label in zip(order, images.numpy(), labels.tolist(), strict=True):
            path = tmp_path / "digits" / split / str(label) / f"{i:04d}.png"
            write(path, image, compress_level=0)
    data = ImageFolderDataModule(
        root=str(tmp_path / "digits"), data_dir=str(tmp_path), image_size=28, channels=1
    )
    data.setup()
    assert data.class_names == digits.class_names and data.image_shape == digits.image_shape
    for split in ("train", "val", "test"):
        images, labels, rows = data.split(split)
        expected = digits.split(split)
        assert torch.equal(images[rows], expected.images)
        assert torch.equal(labels, expected.labels)
    batches = zip(data.train_dataloader(), digits.train_dataloader(), strict=True)
    assert all(torch.equal(a, b) and torch.equal(y, z) for (a, y), (b, z) in batches)
    probes = zip(data.probes(), digits.probes(), strict=True)
    assert all(torch.equal(a, b) for a, b in probes)


def test_splits_are_sampled_by_class_and_seed(module):
    data = module()
    data.setup()
    assert data.record() == {
        "images": {"train": {"cat": 8, "dog": 3}, "val": {"cat": 1, "dog": 1},
                   "test": {"cat": 1, "dog": 1}},
        "left_out": [],
    }  # fmt: skip
    all_files = [file for split in ("train", "val", "test") for file in files(data, split)]
    assert len(set(all_files)) == 15
    same_seed, other_seed = module(), module(split_seed=1)
    same_seed.setup()
    other_seed.setup()
    assert same_seed.state_dict() == data.state_dict() != other_seed.state_dict()
    assert data.describe() == "15 images of 2 classes (11 train, 2 val, 2 test): cat 10, dog 5"


def test_split_folders_are_used_and_missing_splits_sampled(root, module):
    (root / "train").mkdir()
    for name in ("cat", "dog"):
        (root / name).rename(root / "train" / name)
    write(root / "test" / "dog" / "other.png")
    data = module()
    data.setup()
    assert files(data, "test") == ["test/dog/other.png"]
    counts = data.record()["images"]
    assert counts["val"] == {"cat": 1, "dog": 1} and counts["train"] == {"cat": 9, "dog": 4}


def test_only_changed_files_are_decoded_again(root, module, monkeypatch):
    module().setup()
    decoded: list[str] = []
    read = decoding.read_pixels
    monkeypatch.setattr(
        decoding, "read_pixels", lambda p, **k: decoded.append(Path(p).name) or read(p, **k)
    )
    data = module()
    data.setup()
    assert decoded == []
    write(root / "cat" / "cat3.png", np.full((8, 8, 3), 77, np.uint8))
    write(root / "dog" / "new.png")
    (root / "cat" / "cat0.png").unlink()
    data = module()
    data.setup()
    assert sorted(decoded) == ["cat3.png", "new.png"]
    names = data.cache.files.names
    assert names == sorted(names) and len(names) == 15 and "cat/cat0.png" not in names
    assert (data.images[names.index("cat/cat3.png")] == 77).all()
    expected = np.asarray(Image.open(root / "dog" / "dog2.png").resize((8, 6)))
    unchanged = data.images[names.index("dog/dog2.png"), :, 1:7].permute(1, 2, 0).numpy()
    assert (unchanged == expected).all()
    assert len(list((root.parent / "data" / "image_folder").glob("*.images"))) == 1


def test_images_that_change_while_a_run_begins_raise_input_error(root, module):
    data = module()
    data.prepare_data()
    write(root / "cat" / "a.png")
    module().setup()  # rewrites the cache
    with pytest.raises(InputError, match="changed while the run began"):
        data.setup()


def test_memory_mapped_images_give_the_same_batches(module):
    resident, mapped = module(batch_size=4), module(batch_size=4, max_resident=0.0)
    resident.setup()
    mapped.setup()
    assert mapped.normalization() is None
    for _ in range(2):  # epochs
        for (a, y), (b, z) in zip(
            resident.train_dataloader(), mapped.train_dataloader(), strict=True
        ):
            assert torch.equal(a, b) and torch.equal(y, z)


def test_normalization_is_that_of_the_training_images(module):
    data = module(normalize=True)
    data.setup()
    images, _, rows = data.split("train")
    values = images[rows].double() / 255
    expected = {"mean": values.mean((0, 2, 3)), "std": values.std((0, 2, 3), correction=0)}
    for name, values in data.normalization().items():
        assert torch.allclose(torch.tensor(values).double(), expected[name], atol=1e-6)


@pytest.mark.parametrize(
    ("fit", "top", "left"), [("pad", 0.0, 1.0), ("crop", 1.0, 1.0), ("stretch", 1.0, 1.0)]
)
def test_fit_pads_crops_or_stretches(root, module, fit, top, left):
    write(root / "cat" / "a.png", np.full((20, 40, 3), 255, np.uint8))
    data = module(fit=fit)
    data.setup()
    image = data.images[data.cache.files.names.index("cat/a.png")] / 255
    assert image[0, 0, 4] == top and image[0, 4, 0] == left
    assert image[0, 4, 4] == 1


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
def test_predict_preprocesses_images_as_training_does(root, module, fit, channels):
    data = module(fit=fit, channels=channels)
    data.setup()
    images, _, rows = data.split("test")
    config = {"_target_": "simplecnn.data.image_folder.ImageFolderDataModule",
              "image_size": 8, "channels": channels, "fit": fit}  # fmt: skip
    preprocessing = Preprocessing.from_config(config, {"in_channels": None, "image_size": None})
    for row, file in zip(rows, files(data, "test"), strict=True):
        pixels = read_image(root / file, color=preprocessing.color)
        array = preprocessing.array(pixels)
        assert array.shape == (channels, 8, 8)
        np.testing.assert_array_equal((255 * array).round(), images[row].numpy())


def test_a_run_is_always_tested_on_the_images_of_its_test_split(root, tmp_path, caplog):
    from simplecnn.inference.evaluate import TestData
    from simplecnn.inference.trained_run import TrainedRun
    from simplecnn.page.gather import _datamodule
    from simplecnn.page.images import read_images
    from simplecnn.run_directory import RunDirectory
    from simplecnn.training.run import train

    folder = tmp_path / "run"
    config = compose_run(
        folder, "data=image_folder", f"data.root={root}", f"paths.data_dir={tmp_path}",
        "data.image_size=16", "callbacks=[checkpoint]", "logger=none", "data.normalize=true",
    )  # fmt: skip
    train(config, folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["images"]["test"] == {"cat": 1, "dog": 1}
    last = folder / "checkpoints" / "last.ckpt"
    run_directory = RunDirectory.open(folder)
    run = TrainedRun(run_directory, last)
    test_files = files(TestData(run).datamodule, "test")
    for i in range(30):  # would change the sampled splits
        write(root / "cat" / f"a{i}.png")
    assert files(TestData(run).datamodule, "test") == test_files
    sampled = build(config["data"])
    sampled.prepare_data()
    sampled.setup("test")
    assert files(sampled, "test") != test_files
    shown = read_images(_datamodule(run_directory, last), None)  # on the page
    assert len(shown.labels) == sum(record["images"]["val"].values())
    # A run continued from its checkpoint trains on the same images, with the same normalization.
    continued = compose_run(
        tmp_path / "continued", "data=image_folder", f"data.root={root}", "trainer.max_epochs=3",
        f"paths.data_dir={tmp_path}", "data.image_size=16", "callbacks=[checkpoint]",
        "logger=none", "data.normalize=true", f"ckpt_path={last}",
    )  # fmt: skip
    train(continued, tmp_path / "continued")
    continued_record = json.loads((tmp_path / "continued" / "run.json").read_text())
    assert continued_record["images"] == record["images"]
    first, second = (
        torch.load(f / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]
        for f in (folder, tmp_path / "continued")
    )
    assert first["network"]["normalize"] == second["network"]["normalize"]
    # Without the state of its data, a checkpoint is tested on any split.
    fresh = compose_run(
        tmp_path / "fresh", "data=image_folder", f"data.root={root}", f"paths.data_dir={tmp_path}",
        "data.image_size=16", "data.split_seed=1", "train=false", f"ckpt_path={last}",
        "ckpt_weights_only=true", "callbacks=none", "logger=none", "data.normalize=true",
    )  # fmt: skip
    train(fresh, tmp_path / "fresh")
    assert json.loads((tmp_path / "fresh" / "run.json").read_text())["images"]["test"]["cat"] == 4
    # A folder that has moved is recognized by its files, and decoded as in training.
    moved = root.rename(tmp_path / "moved")
    moved_config = {**config["data"], "root": str(moved), "image_size": 64}  # the default size
    moved_data = TestData(run, moved_config)
    assert files(moved_data.datamodule, "test") == test_files
    assert moved_data.datamodule.image_shape == (3, 16, 16)
    with pytest.raises(InputError, match="data.fit is crop, but the network was trained with pad"):
        TestData(run, {**moved_config, "fit": "crop"})
    # If it lacks a test image, it is a test set, without the images that the network has seen.
    lost = moved / test_files[0]
    content = lost.read_bytes()
    lost.unlink()
    state = torch.load(last, weights_only=True)["ImageFolderDataModule"]["splits"]
    seen = {*state["train"], *state["val"]}
    names = {path.relative_to(moved).as_posix() for path in moved.glob("*/*")}
    assert set(files(TestData(run, moved_config).datamodule, "test")) == names - seen
    assert "13 of 44 test images of moved have names of images that the network was" in caplog.text
    # They are recognized by their content too, if the folder of the run still exists.
    name = state["train"][0]
    shutil.copytree(moved, root)
    write(moved / name, np.zeros((6, 8, 3), np.uint8))
    tested = TestData(run, moved_config)
    assert set(files(tested.datamodule, "test")) == names - seen | {name}
    assert len(tested.tensors()[1]) == 44 - 13 + 1
    for path in root.glob("*/*"):  # other images of the same names are another data set
        write(tmp_path / "other" / path.relative_to(root), np.zeros((6, 8, 3), np.uint8))
    write(root / test_files[0])
    write(tmp_path / "other" / test_files[0], np.zeros((6, 8, 3), np.uint8))
    other = TestData(run, {**moved_config, "root": str(tmp_path / "other")})
    assert len(files(other.datamodule, "test")) == len(names) + 1
    assert other.name == str(tmp_path / "other")  # many folders may be named alike
    shutil.rmtree(root)
    test_set = build({**moved_config, "image_size": 16}, test_classes=["cat", "dog"])
    test_set.setup("test")
    assert set(files(test_set, "test")) == names
    warning = test_set.leave_out({"splits": {"train": names}}, root)
    assert warning.startswith("All test images of moved") and len(files(test_set, "test")) == 44
    for split in ("train", "test"):  # only those of the folder test, if there is one
        shutil.copytree(moved, tmp_path / "split" / split)
    (tmp_path / "split" / "test" / name).unlink()
    split_config = {**moved_config, "root": str(tmp_path / "split")}
    tested_names = files(TestData(run, split_config).datamodule, "test")
    assert set(tested_names) == {f"test/{other}" for other in names - {name}}
    shutil.rmtree(tmp_path / "split" / "train")  # the test set needs no other folder
    assert files(TestData(run, split_config).datamodule, "test") == tested_names
    # The classes are those of the network, whatever folders there are.
    shutil.rmtree(tmp_path / "split" / "test" / "cat")
    dogs = TestData(run, split_config)
    assert dogs.datamodule.class_names == ("cat", "dog") and set(dogs.tensors()[1].tolist()) == {1}
    write(tmp_path / "split" / "test" / "cow" / "cow.png")
    with pytest.raises(InputError, match="classes cow, but the network was trained on cat, dog"):
        TestData(run, split_config)
    shutil.rmtree(tmp_path / "split" / "test")
    (tmp_path / "split" / "test").mkdir()
    with pytest.raises(InputError, match="no images in folders of the classes cat, dog"):
        TestData(run, split_config)
    lost.write_bytes(content)
    moved.rename(root)
    (root / test_files[0]).unlink()
    with pytest.raises(InputError, match=f"lacks images that the run used.*{test_files[0]}"):
        TestData(run)


def test_a_network_of_digits_reads_a_folder_as_images_of_its_own_size(finished_run, tmp_path):
    from simplecnn.config.composition import compose_config
    from simplecnn.inference.evaluate import TestData, measure
    from simplecnn.inference.trained_run import TrainedRun
    from simplecnn.run_directory import RunDirectory

    run = TrainedRun(RunDirectory.open(finished_run), finished_run / "checkpoints" / "best.ckpt")
    digits = TestData(run)
    for i, (image, label) in enumerate(zip(*digits.tensors(), strict=True)):
        write(tmp_path / "digits" / str(int(label)) / f"{i}.png", (255 * image[0]).byte().numpy())
    overrides = [f"run={finished_run}", "data=image_folder", f"data.root={tmp_path}/digits",
                 f"paths.data_dir={tmp_path}"]  # fmt: skip
    folder = TestData(run, compose_config("evaluate", overrides)["data"])
    assert folder.datamodule.image_shape == (1, 28, 28)
    assert measure(run.network, folder)["acc"] == measure(run.network, digits)["acc"]


# ------------------------------------------------------------------------------------- errors


def test_root_is_never_written_to(root, module):
    before = sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*"))
    for path in (root, root / "cat", root / "dog"):
        path.chmod(0o555)
    module().setup()
    for path in (root, root / "cat", root / "dog"):
        path.chmod(0o755)
    assert sorted((p, p.stat().st_mtime_ns) for p in root.rglob("*")) == before


def test_unreadable_files_are_reported_together_and_can_be_skipped(root, module):
    (root / "cat" / "notes.txt").write_text("not an image")
    (root / "cat" / "half.png").write_bytes((root / "cat" / "cat1.png").read_bytes()[:70])
    (root / "dog" / "loop.png").symlink_to(root / "dog" / "loop.png")
    (root / "dog" / "nothing.png").symlink_to(root / "missing.png")
    bomb = Image.new("1", (20_000, 20_000))
    bomb.save(root / "dog" / "bomb.png")
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (root / "cat" / name).write_bytes(b"\0")
    data = module()
    with pytest.raises(InputError) as error:
        data.setup()
    first, *sentences = error.value.mistakes
    assert first.startswith("5 of 20 files in ") and "data.skip_broken=true" in first
    assert [s.split("pets/")[1].split(" ", 1)[0].rstrip(":") for s in sentences] == [
        "cat/half.png", "cat/notes.txt", "dog/bomb.png", "dog/loop.png", "dog/nothing.png",
    ]  # fmt: skip
    assert "is not an image" in sentences[1] and "too many pixels" in sentences[2]
    assert "there is no such file" in sentences[4]
    data = module(skip_broken=True)
    data.setup()
    assert sum(sum(data.class_counts(name)) for name in data.splits) == 15
    assert len(data.record()["left_out"]) == 5 and data.images.shape == (20, 3, 8, 8)


def test_unreadable_files_may_be_deleted_before_another_try(root, module):
    (root / "cat" / "notes.txt").write_text("not an image")
    data = module()
    with pytest.raises(InputError, match="cannot be read"):
        data.setup()
    (root / "cat" / "notes.txt").unlink()
    data.setup()
    assert sum(sum(data.class_counts(name)) for name in data.splits) == 15


def test_unusable_folders_raise_input_error(root, module):
    def message(**options: object) -> str:
        with pytest.raises(InputError) as error:
            module(**options).setup()
        return str(error.value)

    assert "there is no such folder" in message(root=str(root / "none"))
    assert "is a file, not a folder" in message(root=str(root / "cat" / "cat0.png"))
    assert "there is no folder in" in message(root=str(root / "cat"))
    (root / "cow").mkdir()
    assert f"{root / 'cow'} has no images" in message()
    write(root / "cow" / "a.png")
    write(root / "cow" / "b.png")
    too_few = message()
    assert "each class needs 3 images" in too_few
    (root / "cow" / "b.png").unlink()
    without_validation = message(val_fraction=0)
    assert "each class needs 2 images" in without_validation
    assert "val_fraction" not in without_validation  # is 0 already
    write(root / "cow" / "b.png")
    assert "cow has 2 images (cow/a.png, cow/b.png)" in too_few
    module(val_fraction=0.0).setup()
    (root / "cow" / "around").symlink_to(root)  # folders in a class are ignored
    write(root / "cow" / "c.png")
    module().setup()
    (root / "loop").symlink_to(root.parent)
    assert f"{root / 'loop'} is a link to a folder that contains it" in message()
    (root / "loop").unlink()
    (root / "one" / "cat").mkdir(parents=True)
    assert "there is only cat in" in message(root=str(root / "one"))


def test_data_dir_and_unknown_folders_beside_the_classes_raise_input_error(root, module):
    with pytest.raises(InputError, match="decoded images, in .*, would be stored among"):
        module(data_dir=str(root / "data"))
    for name in ("cat", "dog"):
        write(root / "train" / name / "0.png")
    with pytest.raises(InputError, match="beside train there is cat, dog, but splits must be"):
        module()


def test_a_test_class_without_training_images_raises_input_error(root, module):
    (root / "train").mkdir()
    for name in ("cat", "dog"):
        (root / name).rename(root / "train" / name)
    write(root / "test" / "cow" / "a.png")
    with pytest.raises(InputError, match="has the classes cow, but .*train lacks them"):
        module()


def test_unicode_names(tmp_path, module):
    for name in ("Äpfel", "梨 子"):
        for i in range(3):
            write(tmp_path / "früchte" / name / f"ø{i}.jpg")
    data = module(root=str(tmp_path / "früchte"))
    data.setup()
    assert data.class_names == ("Äpfel", "梨 子")
    cached = module(root=str(tmp_path / "früchte"))
    cached.setup()
    assert torch.equal(cached.images, data.images)


def test_damaged_pixels_of_the_cache_are_noticed(root, module):
    data = module()
    data.setup()
    path, offset = data.cache.path, data.cache.offset + data.cache.num_bytes // 2
    with path.open("r+b") as file:
        file.seek(offset)
        old = file.read(1)
        file.seek(offset)
        file.write(bytes([old[0] ^ 1]))
    with pytest.raises(InputError, match="images is damaged: delete it, and the images are dec"):
        module().setup()
    path.unlink()
    again = module()
    again.setup()
    assert torch.equal(again.images, data.images)


def test_an_unwritable_cache_raises_input_error(root, module):
    (root.parent / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written: .*paths.data_dir="):
        module(data_dir=str(root.parent / "file")).setup()


SCRIPT = """
import sys, time
from pathlib import Path
import numpy as np
from simplecnn.data import decoding, image_cache
def slow(path, **options):
    print("decoding", flush=True)
    time.sleep(100)
decoding.read_pixels = slow
root, data_dir = map(Path, sys.argv[1:])
names = sorted(path.relative_to(root).as_posix() for path in root.glob("*/*"))
files = image_cache.ImageFiles(names, np.zeros((2, len(names)), np.int64))
image_cache.cached_images(root, files, decoding.Decoding(8, 3, "pad"), data_dir)
"""


def test_a_process_killed_while_decoding_leaves_no_partial_cache(root, module):
    command = [sys.executable, "-c", SCRIPT, str(root), str(root.parent / "data")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "decoding\n"
    process.kill()
    process.communicate()
    folder = root.parent / "data" / "image_folder"
    assert {p.suffix for p in folder.iterdir()} == {".new", ".lock"}
    data = module()
    data.setup()
    assert data.images.shape == (15, 3, 8, 8)
    assert {p.suffix for p in folder.iterdir()} == {".images", ".lock"}


def test_processes_decode_like_threads(root, module, monkeypatch):
    (root / "cat" / "notes.txt").write_text("not an image")
    by_threads = module(skip_broken=True)
    by_threads.setup()
    monkeypatch.setattr(image_cache, "MIN_FILES_FOR_PROCESSES", 0)
    by_processes = module(skip_broken=True, data_dir=str(root.parent / "other"))
    monkeypatch.delattr(decoding, "read_pixels")  # proves that this process does not decode
    by_processes.setup()
    assert torch.equal(by_processes.images, by_threads.images)
    assert by_processes.record() == by_threads.record()


DECODE_IN_PROCESSES = """
import sys
from simplecnn.data.decoding import Decoding
paths = sys.argv[1:] * 100_000
for pixels in Decoding(8, 3, "pad").decode_in_parallel(paths, processes=True):
    print("decoded", flush=True)
"""


def test_decoding_processes_exit_when_their_parent_is_killed(root):
    command = [sys.executable, "-c", DECODE_IN_PROCESSES, str(root / "cat" / "cat0.png")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert parent.stdout.readline() == "decoded\n"
    parent.kill()
    _, errors = parent.communicate(timeout=10)  # until every process has closed the pipe
    assert errors == ""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX only")
def test_a_killed_decoding_process_raises_run_error(root, monkeypatch):
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RunError, match="process that decodes images was killed"):
        paths = [str(root / "cat" / "cat0.png")]
        list(decoding.Decoding(8, 3, "pad").decode_in_parallel(paths, processes=True))


def test_prepare_data_reports_too_few_images(tmp_path, module):
    for name in ("cat", "dog"):
        write(tmp_path / "few" / name / "a.png")
    with pytest.raises(InputError, match="each class needs 3 images, one for each split. cat has"):
        module(root=str(tmp_path / "few")).prepare_data()


def test_concurrent_setups_decode_once(root, monkeypatch, module):
    """In threads, which stand in for processes: each opens the lock file itself."""
    decoded: list[str] = []
    read = decoding.read_pixels

    def slow(path: str, **options: bool) -> np.ndarray:
        decoded.append(Path(path).name)
        time.sleep(0.05)
        return read(path, **options)

    monkeypatch.setattr(decoding, "read_pixels", slow)
    threads = [threading.Thread(target=module().setup) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 15


def test_the_command_reports_errors_before_it_writes_anything(root, tmp_path, monkeypatch, capsys):
    from simplecnn.cli import train

    (root / "cat" / "notes.txt").write_text("not an image")
    monkeypatch.chdir(tmp_path)
    argv = ["train.py", "data=image_folder", f"data.root={root}", f"paths.data_dir={tmp_path}"]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as end:
        train()
    assert end.value.code == 2
    assert "notes.txt is not an image" in capsys.readouterr().err
    assert not (tmp_path / "outputs").exists()
    monkeypatch.setattr(sys, "argv", argv[:2])
    with pytest.raises(SystemExit) as end:
        train()
    assert end.value.code == 2 and "data.root is missing" in capsys.readouterr().err


# ------------------------------------------------------------------------- runs on such a folder


@pytest.fixture(scope="session")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Colored disks and squares of 24 x 24 pixels: 24 images of one class, 8 of the other."""
    root = tmp_path_factory.mktemp("data") / "shapes"
    rng = np.random.default_rng(0)
    for name, number in (("disk", 24), ("square", 8)):
        for i in range(number):
            pixels = np.zeros((24, 24, 3), np.uint8)
            y, x = np.indices((24, 24)) - 12
            inside = x**2 + y**2 < 70 if name == "disk" else np.maximum(abs(x), abs(y)) < 8
            pixels[inside] = rng.integers(120, 256, 3)
            write(root / name / f"{i:02d}.png", pixels)
    return root


@pytest.fixture(scope="session")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with normalization, balanced class weights, color augmentation and a final pool."""
    from simplecnn.training.run import train

    folder = tmp_path_factory.mktemp("runs") / "shapes"
    config = compose_run(
        folder, "data=image_folder", f"data.root={shapes}", f"paths.data_dir={shapes.parent}",
        "data.image_size=24", "data.normalize=true", "data.batch_size=8", "data.val_fraction=0.2",
        "model=simplecnn_large", "model.network.channels=[4,8]", "model.class_weights=balanced",
        "data/augmentation=color", "logger=none",
    )  # fmt: skip
    train(config, folder)
    return folder


def test_the_network_is_adapted_to_the_images(run, shapes):
    from simplecnn.inference.networks import load_network

    network = load_network(run / "checkpoints" / "last.ckpt")
    assert network.conv1.in_channels == 3 and network.fc2.out_features == 2
    record = json.loads((run / "run.json").read_text())
    assert record["images"]["train"] == {"disk": 17, "square": 5}
    data = ImageFolderDataModule(
        root=str(shapes), data_dir=str(shapes.parent), image_size=24, normalize=True,
        val_fraction=0.2,
    )  # fmt: skip
    data.setup()
    expected = torch.tensor(data.normalization()["mean"])
    assert torch.equal(network.normalize.mean.flatten(), expected)


def test_macro_accuracy_is_logged_with_class_weights_only(run, shapes):
    metrics = json.loads((run / "run.json").read_text())["metrics"]
    assert {f"{stage}/macro_acc" for stage in ("train", "val", "test")} <= set(metrics)
    data = ["data=image_folder", f"data.root={shapes}", "monitor=val/macro_acc"]
    compose_run(run, *data, "model.class_weights=balanced")
    with pytest.raises(InputError, match="monitor is 'val/macro_acc'"):
        compose_run(run, *data)


def test_the_model_card_describes_the_images(run):
    from simplecnn.inference.model_card import model_card
    from simplecnn.run_directory import RunDirectory

    card = model_card(RunDirectory.open(run))
    assert "| class | train | val | test |" in card and "| disk | 17 | 5 | 2 |" in card
    assert "- data.normalize: true" in card and "- model.class_weights: balanced" in card
    accuracy = json.loads((run / "run.json").read_text())["metrics"]["test/macro_acc"]
    assert f", n = 3 | {100 * accuracy:.2f} % |" in card  # with its interval
    directory = RunDirectory.open(run)
    directory.record["class_names"] = ["<i>a|b", "square"]
    assert r"Classes: &lt;i&gt;a\|b, square." in model_card(directory)


class Reshaping(Classifier):
    """A module that may transform the images before its network, which the check cannot know."""


def test_a_network_that_rejects_the_images_raises_input_error(shapes, tmp_path, monkeypatch):
    from simplecnn.config.arguments import check_classes

    config = compose_run(tmp_path, "data=image_folder", f"data.root={shapes}", "model=lenet")
    with pytest.raises(
        InputError, match="model.network: the network does not accept images of shape 3 x 64 x"
    ):
        check_classes(config)
    monkeypatch.setenv("SIMPLECNN_TARGETS", f"{__name__}.Reshaping")
    check_classes({**config, "model": {**config["model"], "_target_": f"{__name__}.Reshaping"}})


def test_balanced_class_weights_sum_to_the_same_for_each_class(run):
    from simplecnn.models.classifier import Classifier

    module = Classifier.load_from_checkpoint(
        run / "checkpoints" / "last.ckpt", weights_only=True, map_location="cpu"
    )
    assert module.loss.weight.tolist() == pytest.approx([22 / (2 * 17), 22 / (2 * 5)])


def test_receptive_fields_are_those_of_images_of_the_runs_size(run, tmp_path):
    done = run_forked(tmp_path, "receptive_field.py", f"run={run}", "num_images=4")
    assert done.returncode == 0, done.stderr
    assert "SimpleCNN on images of 3 x 24 x 24\n" in done.stdout and "trained" in done.stdout


def test_figures_show_color_images_of_each_class(run):
    names = {path.stem.split("_epoch")[0] for path in (run / "images").glob("*.png")}
    assert {"filters_conv1", "maps_conv1", "maps_conv2", "confusion_val", "curves"} <= names
    arrays = np.load(next((run / "images").glob("maps_conv1_epoch=002*.npz")))
    assert arrays["images"].shape == (2, 3, 24, 24) and arrays["labels"].tolist() == [0, 1]


def test_evaluation_reports_recall_and_precision_per_class(run):
    from simplecnn.inference.evaluate import evaluate
    from simplecnn.inference.trained_run import TrainedRun
    from simplecnn.run_directory import RunDirectory

    trained = TrainedRun(RunDirectory.open(run), run / "checkpoints" / "last.ckpt")
    evaluate(trained, data=None)
    (result,) = json.loads((run / "evaluation.json").read_text()).values()
    counts = np.array(result["confusion"])
    assert counts.sum(1).tolist() == [2, 1]  # of 24 and 8, a tenth, rounded
    recall = counts.diagonal() / counts.sum(1)
    assert list(result["acc_per_class"]) == ["disk", "square"]
    assert result["macro_acc"] == pytest.approx(recall.mean(), abs=1e-6)
    for i, precision in enumerate(result["precision_per_class"].values()):
        predicted = counts[:, i].sum()
        assert precision == (pytest.approx(counts[i, i] / predicted) if predicted else None)


def test_the_page_shows_custom_images_as_predict_reads_them(run, tmp_path):
    import simplecnn
    from simplecnn.page.gather import gather
    from simplecnn.run_directory import RunDirectory

    wide = write(tmp_path / "mine.png", np.tile(np.arange(90, dtype=np.uint8)[:, None], (40, 1, 3)))
    data = gather([RunDirectory.open(run)], own_images=[str(wide)])["images"]
    assert (data["items"][0]["kind"], data["items"][0]["name"]) == ("own", "mine.png")
    pixels = np.frombuffer(base64.b64decode(data["pixels"]), np.uint8)[: 3 * 24 * 24]
    expected = simplecnn.load(run).prepare(wide)[0].numpy()
    assert np.abs(pixels.reshape(3, 24, 24) / 255 - expected).max() <= 0.5 / 255 + 1e-6
