"""CIFAR-10: 60,000 photographs of 32 x 32 pixels in ten classes, as our LightningDataModule.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Its binary archive is
read as it is: no pickle is in it. Each image is a byte for the label, then 3 x 32 x 32 for the
pixels.
"""

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simplecnn.data.files import DataError, download_file
from simplecnn.data.mnist import stratified_cut
from simplecnn.data.resident import ResidentDataModule

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
               "truck")  # fmt: skip


class CIFAR10DataModule(ResidentDataModule):
    """CIFAR-10 as uint8 tensors on the training device: 50,000 images to train, 10,000 to test.

    data_dir: the folder that holds `cifar-10-binary.tar.gz`, or is to hold it.
    val_size: stratified cut of the training images that validates.
    download: fetch the archive where it is missing. timeout: seconds without an answer.
    options: of ResidentDataModule.

    Raises ValueError for impossible arguments, files.DataError for a missing or damaged archive.
    """

    name = "CIFAR-10"
    class_names = CLASS_NAMES
    image_shape = (3, 32, 32)

    def __init__(
        self,
        *,
        data_dir: str,
        val_size: int = 5_000,
        download: bool = True,
        timeout: float = 30.0,
        **options: Any,
    ) -> None:
        super().__init__(validation=val_size > 0, **options)
        self.path = Path(data_dir).expanduser() / "cifar-10-binary.tar.gz"
        self.val_size = val_size
        self.download = download
        self.timeout = timeout

    def prepare_data(self) -> None:
        """Download the archive where it is missing; of several processes, one does."""
        if self.path.is_file():
            return
        if not self.download:
            raise DataError(f"{self.path} is missing, and download=false. Get it from {URL}.")
        try:
            download_file(self.path, [URL], SHA256, timeout=self.timeout)
        except OSError as error:
            raise DataError(
                f"{self.path} is missing and could not be downloaded ({error}): get {URL} and put "
                f"it there."
            ) from None

    def read(self, stage: str | None) -> None:
        """Read the archive, all splits of it, whatever the stage."""
        if self.splits:
            return
        images, labels = self._read("train")
        if not 0 <= self.val_size < len(labels):
            raise ValueError(f"val_size is {self.val_size}: there are {len(labels)} images.")
        val = stratified_cut(labels.numpy(), self.val_size, seed=self.split_seed)
        train = np.delete(np.arange(len(labels)), val)
        self.splits = {
            "train": (images[train], labels[train]),
            "val": (images[val], labels[val]),
            "test": self._read("test"),
        }

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        """Images (N, 3, 32, 32) and labels (N,) of "train" or "test"."""
        try:
            with tarfile.open(self.path) as archive:
                members = [archive.extractfile(f"cifar-10-batches-bin/{n}") for n in FILES[part]]
                content = b"".join(member.read() for member in members if member is not None)
            table = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
        except (OSError, EOFError, tarfile.TarError, KeyError, ValueError) as error:
            raise DataError(
                f"{self.path} is damaged ({error}): delete it to get another."
            ) from None
        labels = torch.from_numpy(table[:, 0].astype(np.int64))
        if labels.max() >= len(CLASS_NAMES):
            raise DataError(f"{self.path} holds the label {labels.max()}: delete it.")
        return torch.from_numpy(table[:, 1:].reshape(-1, *self.image_shape).copy()), labels
