"""What our LightningDataModules share: images on the training device, and their batches."""

from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from simplecnn.data.augmentation import RandomAffine
from simplecnn.data.batches import Batches, scale


class Split(NamedTuple):
    """uint8 images (N, C, H, W), labels (M,), and which of the images they belong to; None: all."""

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None


class ResidentDataModule(LightningDataModule):
    """Splits of uint8 images on the training device, served by `Batches`.

    A subclass sets `name`, `image_shape` (C, H, W) and `class_names`, and gives a split by
    `split`, once it has been set up.

    batch_size, eval_batch_size: images in a batch of all processes together.
    seed: drives the order and the augmentation of the epochs, and nothing else.
    validation: whether there are validation images.
    test_each_epoch: run the test set too whenever the validation set is run, as a second loader;
        `validation_stages` names the loaders.
    augmentation: small random changes of the training images.
    clean_epochs: so many of the last epochs see the training images as they are nevertheless.
    normalize: the network subtracts the training images' mean and divides by their deviation.

    Raises ValueError for impossible arguments.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def __init__(
        self,
        *,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        validation: bool,
        test_each_epoch: bool,
        augmentation: RandomAffine | None,
        clean_epochs: int,
        normalize: bool,
    ) -> None:
        super().__init__()
        for name, value, minimum in [
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("seed", seed, 0),
            ("clean_epochs", clean_epochs, 0),
        ]:
            if value < minimum:
                raise ValueError(f"{name} is {value}: it must be at least {minimum}.")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.augmentation = augmentation
        self.clean_epochs = clean_epochs
        self.normalize = normalize
        stages = [("val", validation), ("test", test_each_epoch)]
        self.validation_stages = tuple(stage for stage, wanted in stages if wanted)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def split(self, name: str) -> Split:
        """The images of "train", "val" or "test". Raises RuntimeError before they are read."""
        raise NotImplementedError

    def class_counts(self, name: str) -> list[int]:
        """How many images of a split each class has."""
        return torch.bincount(self.split(name).labels.cpu(), minlength=self.num_classes).tolist()

    def normalization(self) -> dict[str, list[float]] | None:
        """Mean and deviation of each channel of the training images, where asked for."""
        if not self.normalize:
            return None
        images, labels, rows = self.split("train")
        rows = torch.arange(len(labels)) if rows is None else rows.cpu()
        counts = torch.zeros(self.image_shape[0], 256, dtype=torch.float64)
        for part in rows.split(1024):
            for channel, pixels in enumerate(images[part.to(images.device)].cpu().unbind(1)):
                counts[channel] += torch.bincount(pixels.flatten(), minlength=256)
        values = torch.arange(256, dtype=torch.float64) / 255
        shares = counts / counts.sum(1, keepdim=True)
        mean = shares @ values
        std = (shares @ values**2 - mean**2).clamp(min=0).sqrt()
        return {
            "mean": [round(m, 6) for m in mean.tolist()],
            "std": [round(max(s, 1e-3), 6) for s in std.tolist()],
        }

    def train_dataloader(self) -> Batches:
        overfits = bool(getattr(self.trainer, "overfit_batches", 0))
        num_epochs = getattr(self.trainer, "max_epochs", None) or -1
        num_augmented = None
        if self.clean_epochs and num_epochs > 0:
            num_augmented = num_epochs - self.clean_epochs
        return self._batches(
            "train",
            self.batch_size,
            shuffle_seed=self.seed,
            reshuffle=not overfits,  # the same few batches in every epoch
            augmentation=None if overfits else self.augmentation,
            num_augmented_epochs=num_augmented,
        )

    def val_dataloader(self) -> Batches | list[Batches]:
        """One loader for each of `validation_stages`: itself if it is one, else a list."""
        loaders = [self._batches(name, self.eval_batch_size) for name in self.validation_stages]
        return loaders[0] if len(loaders) == 1 else loaders

    def test_dataloader(self) -> Batches:
        return self._batches("test", self.eval_batch_size)

    def probes(self) -> tuple[Tensor, Tensor]:
        """The first image of each class in the validation split, and their labels.

        Float images (num_classes, C, H, W) in 0..1, ordered by class. They come from the training
        split where the validation split lacks a class.
        """
        for name in ("val", "train"):
            if name == "val" and name not in self.validation_stages:
                continue
            images, labels, rows = self.split(name)
            classes, first = np.unique(labels.cpu().numpy(), return_index=True)
            if len(classes) == self.num_classes:
                chosen = torch.from_numpy(first) if rows is None else rows.cpu()[first]
                return scale(images[chosen]), labels[first]
        raise ValueError("The training images lack a class.")

    def _batches(self, name: str, batch_size: int, **options: Any) -> Batches:
        images, labels, rows = self.split(name)
        return Batches(
            images,
            labels,
            rows=rows,
            batch_size=batch_size,
            rank=0 if self.trainer is None else self.trainer.global_rank,
            world_size=1 if self.trainer is None else self.trainer.world_size,
            **options,
        )

    def _skip_validation(self) -> None:
        if self.trainer is not None and not self.validation_stages:
            self.trainer.limit_val_batches = 0  # or Lightning warns of an empty list
