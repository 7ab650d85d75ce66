"""MNIST's data module: its splits, and the batches that Lightning gets, in every mode."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from originals import Originals, find_or_make, serve
from torch.nn import functional as F

from simplecnn.data import files as mnist_files
from simplecnn.data.augmentation import RandomAffine
from simplecnn.data.batches import Batches
from simplecnn.data.files import FILES, NUM_IMAGES, DataError
from simplecnn.data.mnist import MNISTDataModule
from simplecnn.data.resident import mixed_order, stratified_sample

# raised by Lightning 2.6.6 with torch 2.15 in every fit
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


@pytest.fixture(scope="session")
def files(mnist_dir, bundled, tmp_path_factory) -> Originals:
    return find_or_make(mnist_dir, bundled, tmp_path_factory.mktemp("originals"))


@pytest.fixture(autouse=True)
def _use_originals(files, bundled, monkeypatch):
    files.know(monkeypatch)
    monkeypatch.setattr(mnist_files, "read_bundled", lambda: bundled)  # read once per session


# ----------------------------------------------------------------------------------- splits

SPLIT_SUMS = {
    "test": "8593c2557fa6d63c",
    "val": "af26c5ef2aeeda98",
    "train": "43c17edfc91a5164",
}


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.data(), st.integers(0, 9))
def test_a_stratified_sample_keeps_the_class_proportions(labels, data, seed):
    size = data.draw(st.integers(0, len(labels)))
    labels = np.array(labels)
    cut = stratified_sample(labels, size, seed=seed)
    assert len(set(cut.tolist())) == len(cut) == size
    assert cut.tolist() == sorted(cut)
    for label in range(5):
        quota = size * np.sum(labels == label) / len(labels)
        assert abs(np.sum(labels[cut] == label) - quota) < 1
    np.testing.assert_array_equal(cut, stratified_sample(labels, size, seed=seed))


def test_a_stratified_sample_depends_on_the_seed():
    labels = np.repeat(np.arange(10), 50)
    cuts = [tuple(stratified_sample(labels, 50, seed=seed)) for seed in range(5)]
    assert len(set(cuts)) == 5
    assert all(np.bincount(labels[list(cut)]).tolist() == [5] * 10 for cut in cuts)


def bundled_digits(**keywords) -> MNISTDataModule:
    return MNISTDataModule(dataset="MNIST5k", **keywords)


def digits(data: MNISTDataModule, name: str) -> set[bytes]:
    images, labels = data.splits[name]
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert images.shape == (data.split_sizes[name], 28, 28)
    assert len(labels) == len(images)
    return {image.tobytes() for image in images.numpy()}


def test_the_bundled_digits_are_split_into_disjoint_parts(bundled):
    data = bundled_digits()
    data.prepare_data()
    data.setup()
    assert data.split_sizes == {"train": 4000, "val": 500, "test": 500}
    parts = {name: digits(data, name) for name in data.split_sizes}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 5000
    assert set.union(*parts.values()) == {image.tobytes() for image in bundled[0]}
    for name, number in [("train", 400), ("val", 50), ("test", 50)]:
        assert torch.bincount(data.splits[name][1]).tolist() == [number] * 10
    expected = {image.tobytes(): label for image, label in zip(*bundled, strict=True)}
    for images, labels in data.splits.values():
        assert [expected[image.tobytes()] for image in images.numpy()] == labels.tolist()


def test_only_split_seed_changes_the_validation_split():
    def parts(**keywords) -> list[set[bytes]]:
        data = bundled_digits(**keywords)
        data.setup()
        return [digits(data, name) for name in ("train", "val", "test")]

    first = parts()
    assert parts(seed=7, batch_size=9) == first
    train, val, test = parts(split_seed=1)
    assert (train != first[0], val != first[1], test == first[2]) == (True, True, True)
    assert parts(val_size=100)[2] == first[2]


def test_the_splits_are_those_of_earlier_versions():
    """Accuracies of runs are comparable only on the same validation and test images."""
    data = bundled_digits()
    data.setup()
    sums = {}
    for name, parts in data.splits.items():
        images, labels = (part.numpy() for part in parts)
        if name != "train":  # those were sorted by class
            places = np.argsort(mixed_order(np.sort(labels)))
            images, labels = images[places], labels[places]
        sums[name] = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()[:16]
    assert sums == SPLIT_SUMS


def test_validation_and_test_images_are_not_sorted_by_class():
    data = bundled_digits()
    data.setup()
    for name in ("val", "test"):
        labels = data.splits[name][1]
        assert labels[:50].unique().tolist() == list(range(10))
    labels = np.array([2, 0, 1, 1], np.uint8)
    assert mixed_order(labels).tolist() == [0, 1, 2, 3]  # files that are mixed keep their order


@pytest.mark.parametrize("val_size", [0, 777])
def test_val_is_split_from_train_and_test_is_unchanged(val_size, files):
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
    val = stratified_sample(labels, val_size, seed=0)
    train = np.setdiff1d(np.arange(num_train), val)
    for name, indices in [("train", train), ("val", val)]:
        np.testing.assert_array_equal(data.splits[name][0].numpy(), images[indices])
        assert data.splits[name][1].tolist() == labels[indices].tolist()
    assert data.validation_stages == (("val",) if val_size else ())


def test_a_test_reads_only_its_own_files(files):
    data = MNISTDataModule(data_dir=str(files.data_dir), val_size=9)
    data.setup("test")
    assert list(data.splits) == ["test"]
    with pytest.raises(RuntimeError, match='The train images have not been read: call setup."fit"'):
        data.train_dataloader()
    for stage in ("fit", "validate"):
        data = MNISTDataModule(data_dir=str(files.data_dir), val_size=9)
        data.setup(stage)
        assert set(data.splits) == {"train", "val", "test"}


def test_missing_test_files_end_a_fit_before_training(files, tmp_path):
    files.link(tmp_path, *FILES["train"])
    data = MNISTDataModule(data_dir=str(tmp_path), val_size=9, download=False)
    module = Recorder()
    with pytest.raises(DataError, match="put the files t10k-images-idx3-ubyte, t10k-labels"):
        trainer(max_epochs=1).fit(module, data)
    assert module.batches == []


def test_damaged_test_files_end_a_fit_before_training(files, tmp_path):
    files.link(tmp_path, *FILES["train"])
    for name in FILES["test"]:
        (tmp_path / name).write_text("<html>")
    data = MNISTDataModule(data_dir=str(tmp_path), val_size=9)
    module = Recorder()
    with pytest.raises(DataError, match="t10k-images-idx3-ubyte is damaged or not a file of MNIST"):
        trainer(max_epochs=1).fit(module, data)
    assert module.batches == []


def test_setup_downloads_missing_files(files, tmp_path):
    with serve(files.zipped) as mirror:
        data = MNISTDataModule(data_dir=str(tmp_path), val_size=9, mirrors=[mirror.url])
        data.setup("test")
        assert len(mirror.requests) == 4
        for name in FILES["train"]:
            (tmp_path / "MNIST" / "raw" / f"{name}.gz").unlink()
        data.prepare_data()
    assert mirror.requests[4:] == [f"{name}.gz" for name in FILES["train"]]
    assert len(data.test_dataloader()) == files.num_images["test"] // 500


def test_three_channels_repeat_the_gray_image():
    gray, color = bundled_digits(), bundled_digits(channels=3)
    for data in (gray, color):
        data.setup()
    assert (gray.image_shape, color.image_shape) == ((1, 28, 28), (3, 28, 28))
    batches = zip(gray.train_dataloader(), color.train_dataloader(), strict=True)
    for (gray_images, gray_labels), (images, labels) in batches:
        assert images.is_contiguous() and images.shape == (len(labels), 3, 28, 28)
        assert torch.equal(images, gray_images.expand(-1, 3, -1, -1))
        assert torch.equal(labels, gray_labels)
    assert torch.equal(color.probes()[0], gray.probes()[0].expand(-1, 3, -1, -1))
    augmented = bundled_digits(channels=3, augmentation=RandomAffine(degrees=20), batch_size=100)
    augmented.setup()
    images, _ = next(iter(augmented.train_dataloader()))
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])


def test_probes_are_the_first_image_of_each_class():
    data = bundled_digits()
    data.setup("fit")
    images, labels = data.probes()
    assert images.shape == (10, 1, 28, 28)
    assert images.dtype == torch.float32
    assert labels.tolist() == list(range(10))
    val_images, val_labels = data.splits["val"]
    for label in range(10):
        first = val_labels.tolist().index(label)
        assert torch.equal(images[label, 0], val_images[first] / 255)
    few = bundled_digits(val_size=5)
    few.setup("fit")  # the validation split lacks five classes
    train_images, train_labels = few.splits["train"]
    firsts = [train_labels.tolist().index(label) for label in range(10)]
    assert torch.equal(few.probes()[0][:, 0], train_images[firsts] / 255)


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"channels": 2}, "channels is 2: it must be 1, or 3 to repeat gray."),
        ({"val_size": -1}, "val_size is -1: it must be 0 to {max_val_size}."),
        ({"val_size": 60_000}, "val_size is 60000: it must be 0 to {max_val_size}."),
        ({"data_dir": None}, "data_dir is null: MNIST needs a folder for its files."),
        (
            {"dataset": "mnist"},
            "dataset is 'mnist': it must be one of MNIST, FashionMNIST, KMNIST, MNIST5k.",
        ),
    ],
)
def test_invalid_arguments_raise_value_error(keywords, sentence, files):
    with pytest.raises(ValueError) as caught:
        MNISTDataModule(**{"data_dir": "data", "val_size": 9, **keywords})
    assert str(caught.value) == sentence.format(max_val_size=files.num_images["train"] - 1)
    if not {"data_dir", "dataset"} & keywords.keys():
        with pytest.raises(ValueError) as caught:
            bundled_digits(**keywords)
        assert str(caught.value) == sentence.format(max_val_size=4499)


def test_names_and_shapes():
    data = MNISTDataModule(data_dir="data", dataset="FashionMNIST", val_size=9)
    assert (data.name, data.num_classes, data.image_shape) == ("FashionMNIST", 10, (1, 28, 28))
    assert data.class_names[-1] == "Ankle boot"
    assert bundled_digits().class_names == tuple("0123456789")
    assert bundled_digits().name == "MNIST 5k"


# -------------------------------------------------------------------------------- Lightning


class Recorder(pl.LightningModule):
    """A linear classifier that records the batches it receives."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(784, 10)
        torch.nn.init.zeros_(self.linear.weight)
        torch.nn.init.zeros_(self.linear.bias)
        self.batches: list[tuple[int, int, list[int]]] = []  # epoch, index, labels
        self.evaluated: list[tuple[int, torch.Tensor]] = []  # index of the loader, labels

    def training_step(self, batch, batch_idx):
        images, labels = batch
        self.batches.append((self.current_epoch, batch_idx, labels.tolist()))
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
        enable_checkpointing=False,
        **{"num_sanity_val_steps": 0, **keywords},
    )


def small(**keywords) -> MNISTDataModule:
    """Eight training batches per epoch."""
    return bundled_digits(batch_size=500, eval_batch_size=300, **keywords)


def test_a_trainer_gets_the_batches_of_a_plain_loop():
    module = Recorder()
    trainer(max_epochs=3).fit(module, small())
    data = small()
    data.setup()
    loader = data.train_dataloader()
    assert module.batches == [
        (epoch, index, labels.tolist())
        for epoch in range(3)
        for index, (_, labels) in enumerate(loader)
    ]
    assert [len(labels) for _, labels in module.evaluated] == [300, 200] * 3


def orders(num_epochs: int) -> list[list[list[int]]]:
    """Return the labels that a plain loop gets, by epoch and batch."""
    data = small()
    data.setup()
    loader = data.train_dataloader()
    return [[labels.tolist() for _, labels in loader] for _ in range(num_epochs)]


@pytest.mark.parametrize(
    ("options", "num_batches"),
    [
        ({"limit_train_batches": 3}, 3),
        ({"limit_train_batches": 0.5, "num_sanity_val_steps": 2}, 4),
        ({"reload_dataloaders_every_n_epochs": 1}, 8),
        ({"val_check_interval": 3}, 8),
        ({"accumulate_grad_batches": 2}, 8),
    ],
)
def test_trainer_options_keep_the_order_of_each_epoch(options, num_batches):
    module = Recorder()
    trainer(max_epochs=2, **options).fit(module, small())
    assert module.batches == [
        (epoch, index, labels)
        for epoch, batches in enumerate(orders(2))
        for index, labels in enumerate(batches[:num_batches])
    ]
    checks_per_epoch = 2 if "val_check_interval" in options else 1
    num_checks = 2 * checks_per_epoch + ("num_sanity_val_steps" in options)
    assert [len(labels) for _, labels in module.evaluated] == [300, 200] * num_checks


@pytest.mark.parametrize("reload", [0, 1])
def test_a_resumed_run_continues_with_the_same_batches(reload, tmp_path):
    def fit(num_epochs: int, ckpt_path: Path | None = None) -> tuple[pl.Trainer, Recorder]:
        module, data = Recorder(), small(augmentation=RandomAffine(degrees=10))
        pl_trainer = trainer(max_epochs=num_epochs, reload_dataloaders_every_n_epochs=reload)
        pl_trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return pl_trainer, module

    _, uninterrupted = fit(3)
    stopped, _ = fit(1)
    stopped.save_checkpoint(tmp_path / "last.ckpt")
    _, resumed = fit(3, tmp_path / "last.ckpt")
    assert resumed.batches == [batch for batch in uninterrupted.batches if batch[0] >= 1]
    assert torch.equal(resumed.linear.weight, uninterrupted.linear.weight)


@pytest.mark.parametrize("name", ["mnist", "mnist_5k"])
def test_a_tenth_of_the_evaluation_batches_is_at_least_one(name, monkeypatch):
    monkeypatch.setitem(NUM_IMAGES, "train", 60_000)
    monkeypatch.setitem(NUM_IMAGES, "test", 10_000)
    config = yaml.safe_load((ROOT / "conf" / "data" / f"{name}.yaml").read_text())
    options = {key: config[key] for key in ("dataset", "eval_batch_size")}
    data = MNISTDataModule(data_dir="data", **options)
    for split in ("val", "test"):
        images = torch.zeros(data.split_sizes[split], 28, 28, dtype=torch.uint8)
        data.splits[split] = images, torch.arange(len(images))
    data.setup = lambda stage: None
    data.prepare_data = lambda: None
    for split, method, num_batches in [
        ("val", "validate", 1),
        ("test", "test", {"mnist": 2, "mnist_5k": 1}[name]),
    ]:
        module = Recorder()
        getattr(trainer(**{f"limit_{split}_batches": 0.1}), method)(module, data)
        assert len(module.evaluated) == num_batches


def test_val_size_0_disables_validation():
    data = bundled_digits(val_size=0, batch_size=900)
    module = Recorder()
    trainer(max_epochs=2).fit(module, data)
    assert data.val_dataloader() == []
    assert len(module.batches) == 10
    assert module.evaluated == []
    assert torch.equal(data.probes()[1], torch.arange(10))


def test_the_test_set_after_each_epoch_is_a_second_loader():
    data = bundled_digits(test_each_epoch=True, batch_size=2000, eval_batch_size=300)
    module = Recorder()
    trainer(max_epochs=2).fit(module, data)
    assert data.validation_stages == ("val", "test")
    assert [(index, len(labels)) for index, labels in module.evaluated] == [
        (0, 300), (0, 200), (1, 300), (1, 200),
    ] * 2  # fmt: skip
    labels = torch.cat([labels for index, labels in module.evaluated[:4] if index == 1])
    assert torch.equal(labels, data.splits["test"][1])


def test_overfit_batches_repeats_the_same_batches():
    module = Recorder()
    data = small(augmentation=RandomAffine(degrees=45))
    trainer(max_epochs=2, overfit_batches=2).fit(module, data)
    assert [batch[:2] for batch in module.batches] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert module.batches[0][2] == module.batches[2][2]
    assert module.batches[1][2] == module.batches[3][2]
    assert set(module.batches[0][2]) == set(range(10))  # shuffled: the digits are sorted by class


def test_a_trainer_tests_on_the_official_test_set(files):
    module = Recorder()
    trainer().test(module, MNISTDataModule(data_dir=str(files.data_dir), val_size=9))
    labels = torch.cat([labels for _, labels in module.evaluated])
    assert labels.tolist() == list(files.content(FILES["test"][1])[8:])


def test_processes_of_a_trainer_share_the_batches():
    def loaders(rank: int, world_size: int) -> list[Batches]:
        data = bundled_digits(batch_size=300, eval_batch_size=333)
        data.trainer = SimpleNamespace(
            global_rank=rank,
            world_size=world_size,
            overfit_batches=0,
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )
        data.setup()
        return [data.train_dataloader(), data.val_dataloader(), data.test_dataloader()]

    for single, first, second in zip(loaders(0, 1), loaders(0, 2), loaders(1, 2), strict=True):
        for batch, *parts in zip(single, first, second, strict=True):
            for i in (0, 1):  # images, labels
                assert torch.equal(batch[i], torch.cat([part[i] for part in parts]))
