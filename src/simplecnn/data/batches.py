"""Batches of images that lie on one device: their order and their changes."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler

from simplecnn.data.augmentation import RandomAffine

# Images fetched and augmented together. Batch by batch would take a step of 5 ms 0.06 ms longer
# without augmentation, 0.2 ms with affine and 0.4 to 0.6 ms with elastic changes.
NUM_GATHERED = 1024
MAX_GATHERED_BYTES = 16 << 20  # fewer where images are larger


def scale(images: Tensor) -> Tensor:
    """uint8 images as float32 from 0 to 1, equal to torchvision's ToTensor bit for bit."""
    # Divided by a tensor: CUDA multiplies by the rounded reciprocal of a Python number.
    return images.float().div_(torch.full((), 255.0, device=images.device))


class Batches:
    """Batches of images that lie on one device: (float32 (B, C, H, W) in 0..1, int64 (B,)).

    images: uint8 (N, C, H, W). labels: int64 (N,), on the device of the batches. Images that lie
        elsewhere, in a mapped file say, are taken there a few batches at a time.
    rows: which of the images the labels belong to; None: all, in their order.
    batch_size: images in a batch of all processes together.
    shuffle_seed: None keeps the order of the images. With a seed, the order of epoch e is made
        from (seed, e) alone, whatever the device and the number of processes. Lightning calls
        `set_epoch`; without a call, each complete pass begins the next epoch.
    reshuffle: False gives every epoch the order of the first one.
    augmentation: changes made to the images, drawn for each image from the seed of the order and
        the epoch alone. Only with a shuffle_seed.
    num_augmented_epochs: the epochs after so many see the images as they are. None: no epoch does.
    rank, world_size: in each batch, this process gets its share of consecutive images. Every
        process gets as many batches as the others, every image comes once. With a batch_size
        that world_size divides, the mean of the processes' gradients is the gradient of the
        batch. A last batch with fewer images than processes joins the one before it.

    Raises ValueError for sizes that make no sense.
    """

    batch_sampler = None  # Lightning reads it where there is a `sampler`

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        rows: Tensor | None = None,
        shuffle_seed: int | None = None,
        reshuffle: bool = True,
        augmentation: RandomAffine | None = None,
        num_augmented_epochs: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        num_images = len(images) if rows is None else len(rows)
        if num_images != len(labels):
            raise ValueError(f"There are {num_images} images but {len(labels)} labels.")
        if not 1 <= world_size <= min(batch_size, num_images):
            raise ValueError(
                f"batch_size is {batch_size} and there are {num_images} images: "
                f"both must be at least 1 for each of {world_size} processes."
            )
        self.images = images
        self.labels = labels
        self.rows = rows
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.reshuffle = reshuffle
        self.augmentation = augmentation
        self.num_augmented_epochs = num_augmented_epochs
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0

    def __len__(self) -> int:
        num_full, rest = divmod(len(self.labels), self.batch_size)
        return num_full + (rest >= self.world_size) if num_full else 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # A generator, which reads `epoch` at the first `next`: Lightning makes the iterator of
        # the first epoch before it calls `set_epoch`.
        indices, maps = self._indices(), self._maps()
        num_images = min(NUM_GATHERED, MAX_GATHERED_BYTES // (4 * self.images[0].numel()))
        num_together = max(1, num_images * self.world_size // self.batch_size)
        for start in range(0, len(indices), num_together):
            batches = indices[start : start + num_together]
            chosen, sizes = torch.cat(batches), [len(batch) for batch in batches]
            images = scale(self._images(chosen))
            if maps is not None:
                assert self.augmentation is not None
                images = self.augmentation(images, maps.index_select(0, chosen))
            labels = self.labels.index_select(0, chosen)
            yield from zip(images.split(sizes), labels.split(sizes), strict=True)
        self.epoch += 1

    @property
    def sampler(self) -> "Batches | SequentialSampler":
        """Where Lightning looks for `set_epoch`, and for a type that says "not shuffled"."""
        is_shuffled = self.shuffle_seed is not None and self.reshuffle
        return self if is_shuffled else SequentialSampler(self.labels)

    def set_epoch(self, epoch: int) -> None:
        """The next pass is that of `epoch`, counted from 0."""
        self.epoch = epoch

    def _images(self, chosen: Tensor) -> Tensor:
        rows = chosen if self.rows is None else self.rows.index_select(0, chosen)
        images = self.images.index_select(0, rows.to(self.images.device))
        return images.to(self.labels.device)

    def _indices(self) -> list[Tensor]:
        """Which images this process gets in this epoch, batch by batch."""
        if self.shuffle_seed is None:
            order = torch.arange(len(self.labels))
        else:
            # NumPy mixes the two numbers: the epochs of neighboring seeds share no order.
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

    def _maps(self) -> Tensor | None:
        """How each image is changed in this epoch, whatever the order and the process."""
        limit = math.inf if self.num_augmented_epochs is None else self.num_augmented_epochs
        if self.augmentation is None or self.shuffle_seed is None or self.epoch >= limit:
            return None
        rng = np.random.default_rng((self.shuffle_seed, self.epoch, 1))
        maps = self.augmentation.draw(len(self.labels), self.images.shape[-1], rng)
        return maps.to(self.labels.device)
