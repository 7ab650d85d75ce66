"""Selection of the images on a page, and their encoding as bytes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from torch import Tensor

from simplecnn.data.shape import all_loaders, class_names

MAX_IMAGES = 10_000  # of the split, in the confusion matrix
MAX_CLASSIFIED = 1_000  # by the network, if the run stored no predictions
MAX_SHOWN, MAX_BYTES = 180, 1_000_000
PER_CELL, PER_CORRECT_CELL = 6, 3  # images per cell of the confusion matrix
MAX_PER_CELL_OF_TWO = 60  # images per cell if two runs are compared


@dataclass(frozen=True)
class Images:
    """Images of one split as bytes; byte b encodes the value low + b / 255 * (high - low)."""

    split: str
    pixels: NDArray[np.uint8]  # (N, C, H, W)
    labels: NDArray[np.int64]  # (N,)
    classes: Sequence[str]  # names
    low: float = 0.0
    high: float = 1.0

    def tensor(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Decode bytes to a float32 input of the network."""
        return torch.from_numpy(pixels).float() / 255 * (self.high - self.low) + self.low

    def encoded(self, images: Tensor) -> NDArray[np.uint8]:
        """Encode inputs of the network as bytes."""
        return _bytes(images, self.low, self.high)


def read_images(datamodule: LightningDataModule, num_classes: int | None) -> Images | None:
    """Read the validation images of a data module that is set up, else its test or training images.

    Returns None if its batches are not (images (N, C, H, W), labels (N,)).
    """
    for split in ("val", "test", "train"):
        try:
            loaders = all_loaders(getattr(datamodule, f"{split}_dataloader")())
        except Exception:  # the data module has no such split, or has not loaded it
            continue
        loader: Any = loaders[0] if loaders else None
        pixels: list[NDArray[np.uint8]] = []
        label_batches: list[NDArray[np.int64]] = []
        for images, labels in _batches(() if loader is None else loader):
            if not pixels:
                low, high = min(0.0, float(images.min())), max(1.0, float(images.max()))
            pixels.append(_bytes(images, low, high))
            label_batches.append(labels.cpu().numpy().astype(np.int64))
        if pixels:
            all_labels = np.concatenate(label_batches)
            names = class_names(datamodule, loader, num_classes or int(all_labels.max()) + 1)
            return Images(split, np.concatenate(pixels), all_labels, names, low, high)
    return None


def _batches(loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of images and labels, up to MAX_IMAGES images; stop at any other batch."""
    num_images = 0
    for batch in loader:
        if not (isinstance(batch, list | tuple) and len(batch) == 2):
            return
        images, labels = batch
        if not (isinstance(images, Tensor) and images.ndim == 4 and images.shape[1] in (1, 3)):
            return
        yield images, labels
        num_images += len(labels)
        if num_images >= MAX_IMAGES:
            return


def _bytes(images: Tensor, low: float, high: float) -> NDArray[np.uint8]:
    values = (images.float().cpu() - low) / (high - low) * 255
    return values.round().clamp(0, 255).byte().numpy()


def choose(images: Images, predictions: Sequence[NDArray], num_shown: int) -> list[int]:
    """Choose the indices of the images to show: one per class, then some per confusion cell.

    Images that a run classifies incorrectly come before those that all runs classify correctly.

    Args:
        predictions: the predicted classes of each run, (M,) with M <= N.
    """
    probes = [int(np.flatnonzero(images.labels == c)[0]) for c in np.unique(images.labels)[:20]]
    num_classified = min([len(images.labels), *map(len, predictions)]) if predictions else 0
    max_wrong = PER_CELL if len(predictions) == 1 else MAX_PER_CELL_OF_TWO
    counts: dict[tuple[int, ...], int] = {}  # by cell
    candidates = []
    for index in range(num_classified):
        cell = (int(images.labels[index]), *(int(p[index]) for p in predictions))
        rank = counts[cell] = counts.get(cell, 0) + 1
        is_correct = len(set(cell)) == 1
        if rank <= (PER_CORRECT_CELL if is_correct else max_wrong):
            candidates.append((is_correct, rank, index))
    examples = [index for _, _, index in sorted(candidates)]
    return list(dict.fromkeys([*probes, *examples]))[:num_shown]
