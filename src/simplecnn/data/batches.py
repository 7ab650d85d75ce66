"""Batches of images that lie on one device: their order, their changes, their place in an epoch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import SequentialSampler

from simplecnn.data.augmentation import RandomAffine

NUM_GATHERED = 1024  # images fetched together: fewer, larger operations that stay in the cache


def scale(images: Tensor) -> Tensor:
    """uint8 images as float32 from 0 to 1, equal to torchvision's ToTensor bit for bit."""
    # Divided by a tensor: CUDA multiplies by the rounded reciprocal of a Python number.
    return images.float().div_(torch.full((), 255.0, device=images.device))


def cropped(images: Tensor, crop: Sequence[int] | None) -> Tensor:
    """Of images (N, H, W), uint8, the pixels from `crop[0]` up to, not including, `crop[1]`.

    Down and across, enlarged to H x W by cubic interpolation; what it overshoots is cut off.
    None: the images as they are.
    """
    if crop is None:
        return images
    first, last = crop
    parts = images.unsqueeze(1)[..., first:last, first:last].split(NUM_GATHERED)
    size = images.shape[1:]
    large = [functional.interpolate(part.float(), size, mode="bicubic") for part in parts]
    return torch.cat([part.round_().clamp_(0, 255).byte() for part in large]).squeeze(1)


class Batches:
    """Batches of images that lie on one device: (float32 (B, 1, H, W) in 0..1, int64 (B,)).

    images: uint8, (N, H, W) or (N, 1, H, W). labels: int64 (N,), on the same device.
    batch_size: images in a batch of all processes together.
    shuffle_seed: None keeps the order of the images. With a seed, the order of epoch e is made
        from (seed, e) alone, whatever the device and the number of processes. Lightning calls
        `set_epoch`; without a call, each complete pass begins the next epoch.
    augmentation: changes made to the images, drawn for each image from the seed of the order and
        the epoch alone. Only with a shuffle_seed.
    augmented_epochs: the epochs after so many see the images as they are. None: no epoch does.
    steps_together: how many batches come in one piece, for a training step that takes them apart.
    rank, world_size: in each batch, this process gets its share of consecutive images. Every
        process gets as many batches as the others, every image comes once. With a batch_size
        that world_size divides, the mean of the processes' gradients is the gradient of the
        batch. A last batch with fewer images than processes joins the one before it.

    `state_dict` says which batch comes next; after `load_state_dict` the next pass begins there
    if it is of the same epoch. Raises ValueError for sizes that make no sense.
    """

    batch_sampler = None  # Lightning reads it where there is a `sampler`

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        batch_size: int,
        shuffle_seed: int | None = None,
        augmentation: RandomAffine | None = None,
        augmented_epochs: int | None = None,
        steps_together: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(images) != len(labels):
            raise ValueError(f"There are {len(images)} images but {len(labels)} labels.")
        if not 1 <= world_size <= min(batch_size, len(images)):
            raise ValueError(
                f"batch_size is {batch_size} and there are {len(images)} images: "
                f"both must be at least 1 for each of {world_size} processes."
            )
        if not 0 <= rank < world_size:
            raise ValueError(f"rank is {rank}: it must be 0 to {world_size - 1}.")
        self.images = images.unsqueeze(1) if images.ndim == 3 else images
        self.labels = labels
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.augmentation = None if shuffle_seed is None else augmentation
        self.augmented_epochs = augmented_epochs
        self.steps_together = steps_together
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._next_batch = 0  # of the pass that is under way
        self._resume_at = 0  # where the next pass begins

    def __len__(self) -> int:
        return -(-self.num_steps // self.steps_together)

    @property
    def num_steps(self) -> int:
        """Batches of `batch_size` images, or fewer in the last one."""
        num_full, rest = divmod(len(self.images), self.batch_size)
        return num_full + (rest >= self.world_size) if num_full else 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        # Nothing may happen before the first `next`: Lightning makes iterators that it does not
        # use, and makes that of the first epoch before it calls `set_epoch`.
        first, self._resume_at = self._resume_at, 0
        order = self._own_order().to(self.labels.device)
        maps = self._maps()
        begin, end = self._share(self.batch_size)
        size, num_batches, together = end - begin, self.num_steps, self.steps_together
        num_together = max(1, NUM_GATHERED // (size * together)) * together
        for start in range(first, num_batches, num_together):
            stop = min(start + num_together, num_batches)
            chosen = order[start * size : None if stop == num_batches else stop * size]
            images = scale(self.images.index_select(0, chosen))
            if self.augmentation is not None and maps is not None:
                images = self.augmentation(images, maps.index_select(0, chosen))
            labels = self.labels.index_select(0, chosen)
            places = range(start, stop, together)
            sizes = [size * together] * len(places)
            sizes[-1] = len(chosen) - sum(sizes[:-1])
            batches = zip(images.split(sizes), labels.split(sizes), strict=True)
            for place, batch in zip(places, batches, strict=True):
                self._next_batch = min(place + together, stop)
                yield batch
        self.epoch, self._next_batch = self.epoch + 1, 0

    @property
    def sampler(self) -> "Batches | SequentialSampler":
        """Where Lightning looks for `set_epoch`, and for a type that says "not shuffled"."""
        return SequentialSampler(self.labels) if self.shuffle_seed is None else self

    def set_epoch(self, epoch: int) -> None:
        """The next pass is that of `epoch`, counted from 0."""
        if epoch != self.epoch:
            self.epoch, self._next_batch, self._resume_at = epoch, 0, 0

    def state_dict(self) -> dict[str, Any]:
        """The position in the pass under way, and what must be the same to go on from there."""
        return {
            "epoch": self.epoch,
            "batch": self._next_batch,
            "steps_together": self.steps_together,
            **self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        here = self._identity()
        if state["batch"]:  # within an epoch, Lightning counts what it saw as one batch
            here["steps_together"] = self.steps_together
        for key, mine in here.items():
            if state.get(key, 1) != mine:
                raise ValueError(
                    f"The checkpoint was written with {key} {state[key]}: "
                    f"with {mine} its epoch cannot be continued."
                )
        self.epoch = state["epoch"]
        self._next_batch = self._resume_at = state["batch"]

    def _identity(self) -> dict[str, Any]:
        return {
            "num_images": len(self.images),
            "batch_size": self.batch_size,
            "shuffle_seed": self.shuffle_seed,
        }

    def _own_order(self) -> Tensor:
        """Which images this process gets in this epoch, batch after batch."""
        if self.shuffle_seed is None:
            order = torch.arange(len(self.images))
        else:
            # NumPy mixes the two numbers: the epochs of neighbouring seeds share no order.
            rng = np.random.default_rng((self.shuffle_seed, self.epoch))
            order = torch.from_numpy(rng.permutation(len(self.images)))
        num_but_last = (self.num_steps - 1) * self.batch_size
        but_last, last = order[:num_but_last].view(-1, self.batch_size), order[num_but_last:]
        begin, end = self._share(self.batch_size)
        last_begin, last_end = self._share(len(last))
        return torch.cat([but_last[:, begin:end].flatten(), last[last_begin:last_end]])

    def _maps(self) -> Tensor | None:
        """How each image is changed in this epoch, whatever the order and the process."""
        if self.augmentation is None or self.shuffle_seed is None:
            return None
        if self.augmented_epochs is not None and self.epoch >= self.augmented_epochs:
            return None
        rng = np.random.default_rng((self.shuffle_seed, self.epoch, 1))
        maps = self.augmentation.draw(len(self.images), self.images.shape[-1], rng)
        return maps.to(self.images.device)

    def _share(self, num_images: int) -> tuple[int, int]:
        """Where this process's part of a batch of so many images begins and ends."""
        begin = num_images * self.rank // self.world_size
        return begin, num_images * (self.rank + 1) // self.world_size
