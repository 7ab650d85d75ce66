"""The LightningDataModule of CIFAR-10: 60,000 photographs of 32 x 32 pixels in ten classes.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Reads the binary version,
which contains no pickles: a record is one byte for the label, then 3 x 32 x 32 for the pixels.
"""

import gzip
import tarfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from simplecnn.data.files import DataError, download_file
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
    """CIFAR-10 as uint8 tensors on the training device: 50,000 training and 10,000 test images.

    Args:
        data_dir: the folder of `cifar-10-binary.tar.gz`.
        val_size: number of training images held out for validation, a stratified sample.
        download: download the archive if it is missing.
        timeout: of the download, in seconds without a response.
        options: arguments of ResidentDataModule.

    Raises ValueError for invalid arguments, files.DataError for a missing or damaged archive.
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
        """Download the archive if it is missing; one of several processes does."""
        if self.path.is_file():
            return
        if not self.download:
            raise DataError(f"{self.path} is missing and download=false: get it from {URL}.")
        try:
            download_file(self.path, [URL], SHA256, timeout=self.timeout)
        except OSError as error:
            raise DataError(
                f"{self.path} is missing and could not be downloaded ({error}): save {URL} there."
            ) from None

    def read(self, stage: str | None) -> None:
        """Read all splits from the archive, whatever the stage."""
        if self.splits:
            return
        images, labels = self._read("train")
        if not 0 <= self.val_size < len(labels):
            raise ValueError(f"val_size is {self.val_size}: there are {len(labels)} images.")
        self.add_train_and_val(images, labels, self.val_size)
        self.add_split("test", *self._read("test"))

    def _read(self, part: str) -> tuple[np.ndarray, np.ndarray]:
        """Read the images (N, 3, 32, 32) and labels (N,) of "train" or "test"."""
        try:
            content = gzip.decompress(self.path.read_bytes())  # verifies its checksum
            with tarfile.open(fileobj=BytesIO(content)) as archive:
                members = [archive.extractfile(f"cifar-10-batches-bin/{n}") for n in FILES[part]]
                content = b"".join(member.read() for member in members if member is not None)
            records = np.frombuffer(content, np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            if records[:, 0].max() >= len(CLASS_NAMES):
                raise ValueError(f"it contains the label {records[:, 0].max()}, not 0 to 9")
        except (OSError, EOFError, zlib.error, tarfile.TarError, KeyError, ValueError) as error:
            raise DataError(
                f"{self.path} is damaged ({error}): delete it to download it again."
            ) from None
        return records[:, 1:].reshape(-1, *self.image_shape), records[:, 0]
