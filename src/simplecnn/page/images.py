"""The images on a page: which ones, as bytes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor

from simplecnn.data.shape import class_names

MAX_IMAGES = 10_000  # of the split, that are looked at
MAX_CLASSIFIED = 1_000  # by the network, where the run kept no answers
MAX_SHOWN, MAX_BYTES = 180, 1_000_000
PER_CELL, PER_RIGHT_CELL = 6, 3  # of the confusion matrix


@dataclass(frozen=True)
class Images:
    """Images of one split as bytes (N, C, H, W): a byte b stands for low + b / 255 * (high - low).

    `labels` (N,); `classes` are their names.
    """

    split: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: Sequence[str]
    low: float = 0.0
    high: float = 1.0

    def tensor(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Bytes as the network takes them, float32."""
        return torch.from_numpy(pixels).float() / 255 * (self.high - self.low) + self.low

    def encoded(self, images: Tensor) -> NDArray[np.uint8]:
        """Images of the network's range as bytes."""
        return _bytes(images, self.low, self.high)


def read_images(datamodule: LightningDataModule, num_classes: int | None) -> Images | None:
    """The validation images of a data module that is set up, else its test or training images.

    None where batches are not (images (N, C, H, W), labels (N,)).
    """
    for split in ("val", "test", "train"):
        try:
            loaders: Any = getattr(datamodule, f"{split}_dataloader")()
        except Exception:  # a split that this data module has not, or has not read
            continue
        loader = loaders[0] if isinstance(loaders, list | tuple) and loaders else loaders
        pixels: list[NDArray[np.uint8]] = []
        answers: list[NDArray[np.int64]] = []
        for images, labels in _batches(() if loader is None else loader):
            if not pixels:
                low, high = min(0.0, float(images.min())), max(1.0, float(images.max()))
            pixels.append(_bytes(images, low, high))
            answers.append(labels.cpu().numpy().astype(np.int64))
        if pixels:
            true_classes = np.concatenate(answers)
            number = num_classes or int(true_classes.max()) + 1
            names = class_names(datamodule, loader, number)
            return Images(split, np.concatenate(pixels), true_classes, names, low, high)
    return None


def _batches(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images and labels, of some thousand images; none where they are anything else."""
    number = 0
    for batch in loader:
        if not (isinstance(batch, list | tuple) and len(batch) == 2):
            return
        images, labels = batch
        if not (isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] in (1, 3)):
            return
        yield images, labels
        number += len(labels)
        if number >= MAX_IMAGES:
            return


def _bytes(images: Tensor, low: float, high: float) -> NDArray[np.uint8]:
    values = (images.float().cpu() - low) / (high - low) * 255
    return values.round().clamp(0, 255).byte().numpy()


def choose(images: Images, predicted: Sequence[NDArray], shown: int) -> list[int]:
    """Places of the images to show: one a class, then examples of each cell of the matrix.

    `predicted` are the classes that each run gave, (M,) with M up to N. Mistakes and images on
    which the runs differ come first.
    """
    probes = [int(np.flatnonzero(images.labels == c)[0]) for c in np.unique(images.labels)[:20]]
    number = min([len(images.labels), *map(len, predicted)])
    in_cell: dict[tuple[int, ...], int] = {}
    candidates = []
    for place in range(number if predicted else 0):
        cell = (int(images.labels[place]), *(int(p[place]) for p in predicted))
        rank = in_cell[cell] = in_cell.get(cell, 0) + 1
        is_right = len(set(cell)) == 1
        if rank <= (PER_RIGHT_CELL if is_right else PER_CELL if len(predicted) == 1 else 60):
            candidates.append((is_right, rank, place))
    others = [place for _, _, place in sorted(candidates)]
    return list(dict.fromkeys([*probes, *others]))[:shown]
