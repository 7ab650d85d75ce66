"""Splits; what Lightning gets from them, run after run."""

import functools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from originals import Originals, find_or_make, serve
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.nn import functional as F
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize

from simplecnn.data.batches import Batches, cropped
from simplecnn.data.files import FILES, DataError
from simplecnn.data.mnist import MNIST5kDataModule, MNISTDataModule, stratified_cut

# Lightning 2.6.6 with torch 2.15 in every fit
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


@pytest.fixture(scope="session")
def files(mnist_dir, bundled, tmp_path_factory) -> Originals:
    return find_or_make(mnist_dir, bundled, tmp_path_factory.mktemp("originals"))


@pytest.fixture(autouse=True)
def _know(files, monkeypatch):
    files.know(monkeypatch)


# ----------------------------------------------------------------------------------- splits


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.data(), st.integers(0, 9))
def test_a_cut_keeps_the_proportions(labels, data, seed):
    size = data.draw(st.integers(0, len(labels)))
    labels = np.array(labels)
    cut = stratified_cut(labels, size, seed=seed)
    assert len(set(cut.tolist())) == len(cut) == size
    assert cut.tolist() == sorted(cut)
    for label in range(5):
        quota = size * np.sum(labels == label) / len(labels)
        assert abs(np.sum(labels[cut] == label) - quota) < 1
    np.testing.assert_array_equal(cut, stratified_cut(labels, size, seed=seed))


def test_another_seed_cuts_otherwise():
    labels = np.repeat(np.arange(10), 50)
    cuts = [tuple(stratified_cut(labels, 50, seed=seed)) for seed in range(5)]
    assert len(set(cuts)) == 5
    assert all(np.bincount(labels[list(cut)]).tolist() == [5] * 10 for cut in cuts)


def digits(data: MNIST5kDataModule | MNISTDataModule, name: str) -> set[bytes]:
    images, labels = data.splits[name]
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert images.shape == (data.split_sizes[name], 28, 28)
    assert len(labels) == len(images)
    return {image.tobytes() for image in images.numpy()}


def test_the_bundled_digits_are_split_in_three(bundled):
    data = MNIST5kDataModule()
    data.prepare_data()
    data.setup()
    assert data.split_sizes == {"train": 4000, "val": 500, "test": 500}
    parts = {name: digits(data, name) for name in data.split_sizes}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 5000
    assert set.union(*parts.values()) == {image.tobytes() for image in bundled[0]}
    for name, number in [("train", 400), ("val", 50), ("test", 50)]:
        assert torch.bincount(data.splits[name][1]).tolist() == [number] * 10
    known = {image.tobytes(): label for image, label in zip(*bundled, strict=True)}
    for images, labels in data.splits.values():
        assert [known[image.tobytes()] for image in images.numpy()] == labels.tolist()


def test_only_split_seed_changes_the_validation_digits():
    def parts(**keywords) -> list[set[bytes]]:
        data = MNIST5kDataModule(**keywords)
        data.setup()
        return [digits(data, name) for name in ("train", "val", "test")]

    first = parts()
    assert parts(seed=7, batch_size=9) == first
    train, val, test = parts(split_seed=1)
    assert (train != first[0], val != first[1], test == first[2]) == (True, True, True)
    assert parts(val_size=100)[2] == first[2]


def test_a_part_of_every_image_is_enlarged(bundled):
    whole, part = MNIST5kDataModule(), MNIST5kDataModule(crop=[4, 28])
    for data in (whole, part):
        data.setup()
    for name, (images, labels) in part.splits.items():
        assert images.dtype == torch.uint8 and images.shape == whole.splits[name][0].shape
        assert torch.equal(labels, whole.splits[name][1])
        original = whole.splits[name][0][:200, 4:, 4:].float()
        expected = resize(original, [28, 28], InterpolationMode.BICUBIC, antialias=False)
        differences = images[:200] - expected.clamp(0, 255)
        assert differences.abs().max() < 0.51  # rounded to whole numbers
    everything = whole.splits["test"][0]
    assert torch.equal(cropped(everything, [0, 28]), everything)


@pytest.mark.parametrize("val_size", [0, 777])
def test_mnist_is_split_and_its_test_set_left_alone(val_size, files):
    data = MNISTDataModule(data_dir=str(files.data_dir), val_size=val_size)
    data.prepare_data()
    data.setup()
    num_train = files.num_images["train"]
    assert data.split_sizes == {
        "train": num_train - val_size,
        "val": val_size,
        "test": files.num_images["test"],
    }
    contents = {name: files.content(name) for name in FILES["train"] + FILES["test"]}
    test_images, test_labels = (contents[name] for name in FILES["test"])
    assert data.splits["test"][0].numpy().tobytes() == test_images[16:]
    assert data.splits["test"][1].tolist() == list(test_labels[8:])
    images = np.frombuffer(contents[FILES["train"][0]], np.uint8, offset=16).reshape(-1, 28, 28)
    labels = np.frombuffer(contents[FILES["train"][1]], np.uint8, offset=8)
    val = stratified_cut(labels, val_size, seed=0)
    train = np.setdiff1d(np.arange(num_train), val)
    for name, places in [("train", train), ("val", val)]:
        np.testing.assert_array_equal(data.splits[name][0].numpy(), images[places])
        assert data.splits[name][1].tolist() == labels[places].tolist()
    assert data.validation_stages == (("val",) if val_size else ())


def test_each_stage_reads_its_own_files(files, tmp_path):
    files.link(tmp_path / "test", *FILES["test"])
    data = MNISTDataModule(data_dir=str(tmp_path / "test"), val_size=9, download=False)
    data.prepare_data("test")
    data.setup("test")
    assert list(data.splits) == ["test"]
    with pytest.raises(RuntimeError, match='The train images have not been read: call setup."fit"'):
        data.train_dataloader()
    with pytest.raises(DataError, match="put the files train-images-idx3-ubyte, train-labels"):
        data.prepare_data()
    files.link(tmp_path / "train", *FILES["train"])
    for stage in ("fit", "validate"):
        data = MNISTDataModule(data_dir=str(tmp_path / "train"), val_size=9, download=False)
        data.setup(stage)
        assert list(data.splits) == ["train", "val"]
    with pytest.raises(DataError, match="put the files t10k-images-idx3-ubyte, t10k-labels"):
        data.setup("test")
    data.prepare_data("validate")
    with pytest.raises(DataError, match="put the files t10k-images-idx3-ubyte, t10k-labels"):
        data.prepare_data("fit")


def test_prepare_data_downloads(files, tmp_path):
    with serve(files.zipped) as mirror:
        data = MNISTDataModule(data_dir=str(tmp_path), val_size=9, mirrors=[mirror.url])
        data.prepare_data()
    data.setup("test")
    assert len(mirror.requests) == 4
    assert len(data.test_dataloader()) == files.num_images["test"] // 1000


def test_probes_are_the_first_of_each_class():
    data = MNIST5kDataModule()
    data.setup("fit")
    images, labels = data.probes()
    assert images.shape == (10, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.tolist() == list(range(10))
    val_images, val_labels = data.splits["val"]
    for label in range(10):
        first = val_labels.tolist().index(label)
        assert torch.equal(images[label, 0], val_images[first] / 255)
    three, labels = data.probes(num_per_class=3)
    assert labels.tolist() == [label for label in range(10) for _ in range(3)]
    assert torch.equal(three[::3], images)
    few = MNIST5kDataModule(val_size=5)
    few.setup("fit")  # five classes are not in the validation split
    train_images, train_labels = few.splits["train"]
    firsts = [train_labels.tolist().index(label) for label in range(10)]
    assert torch.equal(few.probes()[0][:, 0], train_images[firsts] / 255)
    with pytest.raises(ValueError, match="num_per_class is 500: a class has fewer images."):
        data.probes(num_per_class=500)


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"batch_size": 0}, "batch_size is 0: it must be at least 1."),
        ({"eval_batch_size": -1}, "eval_batch_size is -1: it must be at least 1."),
        ({"seed": -1}, "seed is -1: it must be at least 0."),
        ({"split_seed": -1}, "split_seed is -1: it must be at least 0."),
        ({"crop": [4]}, "crop is [4]: it must be two pixels in order, 0 to 28."),
        ({"crop": [9, 9]}, "crop is [9, 9]: it must be two pixels in order, 0 to 28."),
        ({"crop": [4, 29]}, "crop is [4, 29]: it must be two pixels in order, 0 to 28."),
        ({"val_size": -1}, "val_size is -1: it must be 0 to {most}."),
        ({"val_size": 60_000}, "val_size is 60000: it must be 0 to {most}."),
        ({"timeout": 0}, "timeout is 0 seconds: it must be more than 0."),
        ({"dataset": "mnist"}, "dataset is 'mnist': it must be one of MNIST, FashionMNIST, KMN"),
    ],
)
def test_impossible_arguments(keywords, sentence, files):
    with pytest.raises(ValueError) as caught:
        MNISTDataModule(data_dir="data", **{"val_size": 9, **keywords})
    assert str(caught.value).startswith(sentence.format(most=files.num_images["train"] - 1))
    if "timeout" not in keywords and "dataset" not in keywords:
        with pytest.raises(ValueError) as caught:
            MNIST5kDataModule(**keywords)
        assert str(caught.value).startswith(sentence.format(most=4499))


def test_what_a_run_wants_to_know():
    data = MNISTDataModule(data_dir="data", dataset="FashionMNIST", val_size=9)
    assert (data.name, data.num_classes, data.image_shape) == ("FashionMNIST", 10, (1, 28, 28))
    assert data.class_names[-1] == "Ankle boot"
    assert MNIST5kDataModule().class_names == tuple("0123456789")


# -------------------------------------------------------------------------------- Lightning


class Recorder(pl.LightningModule):
    """A linear classifier that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(784, 10)
        torch.nn.init.zeros_(self.linear.weight)
        self.seen: list[tuple[int, int, list[int]]] = []
        self.evaluated: list[tuple[int, torch.Tensor]] = []

    def training_step(self, batch, batch_idx):
        images, labels = batch
        self.seen.append((self.current_epoch, batch_idx, labels.tolist()))
        return F.cross_entropy(self.linear(images.flatten(1)), labels)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.evaluated.append((dataloader_idx, batch[1]))

    def test_step(self, batch, batch_idx):
        self.evaluated.append((0, batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def trainer(**keywords) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"enable_checkpointing": "callbacks" in keywords, **keywords},
    )


@functools.cache
def bundled_splits() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    data = MNIST5kDataModule()
    data.setup()
    return data.splits


def small() -> MNIST5kDataModule:
    """8 batches in an epoch; the digits are read only once for all tests."""
    data = MNIST5kDataModule(batch_size=500, eval_batch_size=300)
    data.splits = dict(bundled_splits())
    return data


def test_a_trainer_gets_the_order_of_a_plain_loop():
    module = Recorder()
    trainer(max_epochs=3).fit(module, small())
    data = small()
    data.setup()
    loader = data.train_dataloader()
    assert module.seen == [
        (epoch, index, labels.tolist())
        for epoch in range(3)
        for index, (_, labels) in enumerate(loader)
    ]
    assert [len(labels) for _, labels in module.evaluated] == [300, 200] * 3


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* is not empty:UserWarning")
@pytest.mark.parametrize(
    ("checkpoint", "run", "num_checkpoints"),
    [
        ({"every_n_train_steps": 3}, {"max_epochs": 3}, 8),
        ({"every_n_train_steps": 8}, {"max_epochs": 3}, 3),  # at the last batch of an epoch
        ({"every_n_train_steps": 5}, {"max_steps": 20}, 4),
        ({"every_n_train_steps": 3}, {"max_epochs": 3, "limit_train_batches": 4}, 4),
        ({"every_n_train_steps": 2}, {"max_epochs": 2, "accumulate_grad_batches": 2}, 4),
        ({}, {"max_epochs": 3, "val_check_interval": 0.5}, 6),
        ({"save_on_train_epoch_end": True}, {"max_epochs": 3}, 3),
    ],
)
def test_a_resumed_run_goes_on_with_the_next_batch(checkpoint, run, num_checkpoints, tmp_path):
    def fit(folder: Path, ckpt_path: Path | None = None) -> Recorder:
        keep = ModelCheckpoint(folder, save_top_k=-1, filename="{epoch}-{step}", **checkpoint)
        module = Recorder()
        fitting = trainer(callbacks=[keep], **run)
        fitting.fit(module, small(), ckpt_path=ckpt_path, weights_only=True)
        return module

    whole = fit(tmp_path / "whole")
    checkpoints = sorted((tmp_path / "whole").iterdir())
    assert len(checkpoints) == num_checkpoints
    for path in checkpoints:
        step = torch.load(path, weights_only=True)["global_step"]
        step *= run.get("accumulate_grad_batches", 1)
        resumed = fit(tmp_path / "whole", path)
        assert resumed.seen == whole.seen[step:], path.stem
        assert torch.equal(resumed.linear.weight, whole.linear.weight), path.stem


def test_no_validation_set_is_no_validation():
    data = MNIST5kDataModule(val_size=0, batch_size=900)
    module = Recorder()
    fitting = trainer(max_epochs=2)
    fitting.fit(module, data)
    assert data.val_dataloader() == []
    assert len(module.seen) == 10
    assert module.evaluated == []
    assert torch.equal(data.probes()[1], torch.arange(10))


def test_the_test_set_after_each_epoch_is_a_second_loader():
    data = MNIST5kDataModule(test_each_epoch=True, batch_size=2000, eval_batch_size=300)
    module = Recorder()
    trainer(max_epochs=2).fit(module, data)
    assert data.validation_stages == ("val", "test")
    assert [(index, len(labels)) for index, labels in module.evaluated] == [
        (0, 300), (0, 200), (1, 300), (1, 200),
    ] * 2  # fmt: skip
    labels = torch.cat([labels for index, labels in module.evaluated[:4] if index == 1])
    assert torch.equal(labels, data.splits["test"][1])


def test_overfitting_sees_the_same_batches():
    module = Recorder()
    trainer(max_epochs=2, overfit_batches=2).fit(module, small())
    assert [seen[:2] for seen in module.seen] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert module.seen[0][2] == module.seen[2][2]
    assert module.seen[1][2] == module.seen[3][2]


def test_a_trainer_tests_on_the_official_digits(files, tmp_path):
    files.link(tmp_path, *FILES["test"])
    module = Recorder()
    data = MNISTDataModule(data_dir=str(tmp_path), val_size=9, download=False)
    trainer().test(module, data)
    labels = torch.cat([labels for _, labels in module.evaluated])
    assert labels.tolist() == list(files.content(FILES["test"][1])[8:])


def test_processes_of_a_trainer_share_the_batches():
    def loaders(rank: int, world_size: int) -> list[Batches]:
        data = MNIST5kDataModule(batch_size=300, eval_batch_size=333)
        data.trainer = SimpleNamespace(
            global_rank=rank,
            world_size=world_size,
            overfit_batches=0,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        data.setup()
        return [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]

    for alone, first, second in zip(loaders(0, 1), loaders(0, 2), loaders(1, 2), strict=True):
        for whole, *parts in zip(alone, first, second, strict=True):
            for i in (0, 1):
                assert torch.equal(whole[i], torch.cat([part[i] for part in parts]))
