"""CIFAR-10: 60,000 photographs of 32 x 32 pixels in ten classes, as our LightningDataModule.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. Its binary archive is
read as it is: no pickle is in it. Each image is a byte for the label, then 3 x 32 x 32 for the
pixels.
"""

import hashlib
import logging
import os
import tarfile
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from simplecnn.data.augmentation import RandomAffine
from simplecnn.data.files import DataError
from simplecnn.data.mnist import stratified_cut
from simplecnn.data.resident import ResidentDataModule, Split

log = logging.getLogger(__name__)

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # published beside it
FILES = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
SHAPE = (3, 32, 32)
RECORD = 1 + 3 * 32 * 32  # bytes
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship",
               "truck")  # fmt: skip
BLOCK = 1 << 20  # bytes of the download that are written at a time


class CIFAR10DataModule(ResidentDataModule):
    """CIFAR-10 as uint8 tensors on the training device: 50,000 images to train, 10,000 to test.

    data_dir: the folder that holds `cifar-10-binary.tar.gz`, or is to hold it.
    val_size: stratified cut of the training images that validates. split_seed: drives which ones.
    download: fetch the archive where it is missing. timeout: seconds without an answer.
    The rest: ResidentDataModule.

    Raises ValueError for impossible arguments, files.DataError for a missing or damaged archive.
    """

    name = "CIFAR-10"
    class_names = CLASS_NAMES
    image_shape = SHAPE
    url, md5 = URL, MD5

    def __init__(
        self,
        *,
        data_dir: str,
        batch_size: int = 64,
        eval_batch_size: int = 500,
        val_size: int = 5_000,
        seed: int = 42,
        split_seed: int = 0,
        test_each_epoch: bool = False,
        augmentation: RandomAffine | None = None,
        clean_epochs: int = 0,
        normalize: bool = False,
        download: bool = True,
        timeout: float = 30.0,
    ) -> None:
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
        self.path = Path(data_dir).expanduser() / "cifar-10-binary.tar.gz"
        self.val_size = val_size
        self.split_seed = split_seed
        self.download = download
        self.timeout = timeout
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}

    def prepare_data(self) -> None:
        """Download the archive where it is missing; of several processes, one does."""
        if self.path.is_file():
            return
        if not self.download:
            raise DataError(f"{self.path} is missing, and download=false. Get it from {self.url}.")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock"):
                if not self.path.is_file():
                    self._download()
        except (OSError, HTTPException) as error:
            raise DataError(
                f"{self.path} is missing and could not be downloaded ({error}): get {self.url} and "
                f"put it there."
            ) from None

    def setup(self, stage: str | None = None) -> None:
        """Read the archive, all splits of it, whatever the stage."""
        self._skip_validation()
        if not self.splits:
            if self.trainer is None:
                self.prepare_data()
            images, labels = self._read("train")
            if not 0 <= self.val_size < len(labels):
                raise ValueError(f"val_size is {self.val_size}: there are {len(labels)} images.")
            cut = stratified_cut(labels.numpy(), self.val_size, seed=self.split_seed)
            rest = np.delete(np.arange(len(labels)), cut)
            self.splits = {name: (images[i], labels[i]) for name, i in
                           (("train", rest), ("val", cut))}  # fmt: skip
            self.splits["test"] = self._read("test")
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            self.splits = {k: (x.to(device), y.to(device)) for k, (x, y) in self.splits.items()}

    def split(self, name: str) -> Split:
        if name not in self.splits:
            raise RuntimeError(f'The {name} images have not been read: call setup("fit").')
        return Split(*self.splits[name])

    def _download(self) -> None:
        log.info("Downloading %s", self.url)
        temporary = self.path.with_name(f".{self.path.name}")
        request = Request(self.url, headers={"User-Agent": "simplecnn"})
        digest = hashlib.md5(usedforsecurity=False)
        try:
            with urlopen(request, timeout=self.timeout) as response, temporary.open("wb") as file:
                size = int(response.headers.get("Content-Length") or 0)
                with tqdm(total=size, unit="B", unit_scale=True, disable=None) as bar:
                    while block := response.read(BLOCK):
                        digest.update(block)
                        file.write(block)
                        bar.update(len(block))
                file.flush()
                os.fsync(file.fileno())
            if digest.hexdigest() != self.md5:
                raise OSError(f"it has MD5 {digest.hexdigest()}, expected {self.md5}")
            os.replace(temporary, self.path)
        finally:
            temporary.unlink(missing_ok=True)

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        """Images (N, 3, 32, 32) and labels (N,) of "train" or "test"."""
        records: list[NDArray[np.uint8]] = []
        try:
            with tarfile.open(self.path) as archive:
                for name in FILES[part]:
                    member = archive.extractfile(f"cifar-10-batches-bin/{name}")
                    assert member is not None
                    records.append(np.frombuffer(member.read(), np.uint8).reshape(-1, RECORD))
        except (OSError, EOFError, tarfile.TarError, KeyError, ValueError) as error:
            raise DataError(
                f"{self.path} is damaged ({error}): delete it to get another."
            ) from None
        table = np.concatenate(records)
        labels = torch.from_numpy(table[:, 0].astype(np.int64))
        if labels.max() >= len(CLASS_NAMES):
            raise DataError(f"{self.path} holds the label {labels.max()}: delete it.")
        return torch.from_numpy(table[:, 1:].reshape(-1, *SHAPE).copy()), labels
