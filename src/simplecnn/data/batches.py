"""Batches from images that are resident on one device: shuffled, augmented, shared by processes."""

import math
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler

from simplecnn.data.augmentation import RandomAffine

# Images are gathered and augmented in chunks of several batches. Batch by batch would lengthen a
# step of 5 ms by 0.06 ms, by 0.2 ms with affine and by 0.4 to 0.6 ms with elastic augmentation.
CHUNK_SIZE = 1024  # images
MAX_CHUNK_BYTES = 16 << 20  # of float32 pixels; limits chunks of larger images


def scale(images: Tensor) -> Tensor:
    """Convert uint8 images to float32 in [0, 1], identical to torchvision's ToTensor."""
    # Divide by a tensor: CUDA would multiply by the rounded reciprocal of a Python number.
    return images.float().div_(torch.full((), 255.0, device=images.device))


@dataclass(eq=False, repr=False)
class Batches:
    """A data loader over resident images: yields (float32 (B, C, H, W) in [0, 1], int64 (B,)).

    Args:
        images: uint8 (N, C, H, W). If they are on another device than the labels, or in a
            memory-mapped file, they are transferred chunk by chunk.
        labels: int64 (M,), on the device of the batches.
        batch_size: images per batch, over all processes.
        rows: the indices (M,) of the labeled images; None for all images in order.
        shuffle_seed: None keeps the order of the images. Otherwise the order of an epoch depends on
            (shuffle_seed, epoch) alone, on any device and with any number of processes. Lightning
            calls `set_epoch`; without it, every complete pass advances to the next epoch.
        reshuffle: False repeats the order of the first epoch in all epochs.
        augmentation: requires a shuffle_seed. The parameters of each image depend on
            (shuffle_seed, epoch) and the image alone.
        num_augmented_epochs: the number of epochs before augmentation stops; None for no limit.
        rank, world_size: this process takes the rank-th slice of each batch. All processes get the
            same number of batches, and each image is used once. If world_size divides batch_size,
            the mean of the processes' gradients is the gradient of the batch. A last batch with
            fewer images than processes is merged into the preceding one.

    Raises ValueError if the sizes do not match, or a process would get no image.
    """

    batch_sampler = None  # Lightning accesses it on any loader that has a `sampler`

    images: Tensor
    labels: Tensor
    _: KW_ONLY
    batch_size: int
    rows: Tensor | None = None
    shuffle_seed: int | None = None
    reshuffle: bool = True
    augmentation: RandomAffine | None = None
    num_augmented_epochs: int | None = None
    rank: int = 0
    world_size: int = 1
    epoch: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        num_images = len(self.images) if self.rows is None else len(self.rows)
        if num_images != len(self.labels):
            raise ValueError(f"There are {num_images} images but {len(self.labels)} labels.")
        if not 1 <= self.world_size <= min(self.batch_size, num_images):
            raise ValueError(
                f"batch_size is {self.batch_size} and there are {num_images} images: "
                f"both must be at least 1 for each of {self.world_size} processes."
            )

    def __len__(self) -> int:
        num_full, remainder = divmod(len(self.labels), self.batch_size)
        return num_full + (remainder >= self.world_size) if num_full else 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator reads `epoch` at the first `next`: Lightning creates the iterator of the
        # first epoch before it calls `set_epoch`.
        batches, params = self._batch_indices(), self._augmentation_params()
        chunk_size = min(CHUNK_SIZE, MAX_CHUNK_BYTES // (4 * self.images[0].numel()))
        batches_per_chunk = max(1, chunk_size * self.world_size // self.batch_size)
        for start in range(0, len(batches), batches_per_chunk):
            chunk = batches[start : start + batches_per_chunk]
            indices, sizes = torch.cat(chunk), [len(batch) for batch in chunk]
            images = scale(self._gather(indices))
            if params is not None:
                assert self.augmentation is not None
                images = self.augmentation(images, params.index_select(0, indices))
            labels = self.labels.index_select(0, indices)
            yield from zip(images.split(sizes), labels.split(sizes), strict=True)
        self.epoch += 1

    @property
    def sampler(self) -> "Batches | SequentialSampler":
        """The object on which Lightning calls `set_epoch`; its type tells whether it shuffles."""
        is_shuffled = self.shuffle_seed is not None and self.reshuffle
        return self if is_shuffled else SequentialSampler(self.labels)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass, counted from 0."""
        self.epoch = epoch

    def _gather(self, indices: Tensor) -> Tensor:
        rows = indices if self.rows is None else self.rows.index_select(0, indices)
        images = self.images.index_select(0, rows.to(self.images.device))
        return images.to(self.labels.device)

    def _batch_indices(self) -> list[Tensor]:
        """Return the indices of this process's images in this epoch, one tensor per batch."""
        if self.shuffle_seed is None:
            order = torch.arange(len(self.labels))
        else:
            # NumPy hashes the pair, so neighboring seeds have unrelated orders in all epochs.
            epoch = self.epoch if self.reshuffle else 0
            rng = np.random.default_rng((self.shuffle_seed, epoch))
            order = torch.from_numpy(rng.permutation(len(self.labels)))
        cuts = [i * self.batch_size for i in range(1, len(self))]
        batches = order.to(self.labels.device).tensor_split(cuts)
        rank, world_size = self.rank, self.world_size
        return [
            batch[len(batch) * rank // world_size : len(batch) * (rank + 1) // world_size]
            for batch in batches
        ]

    def _augmentation_params(self) -> Tensor | None:
        """Draw the augmentation of every image in this epoch, independent of order and process."""
        limit = math.inf if self.num_augmented_epochs is None else self.num_augmented_epochs
        if self.augmentation is None or self.shuffle_seed is None or self.epoch >= limit:
            return None
        rng = np.random.default_rng((self.shuffle_seed, self.epoch, 1))
        params = self.augmentation.draw(len(self.labels), self.images.shape[-1], rng)
        return params.to(self.labels.device)
