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

    A subclass sets `name`, `image_shape` (C, H, W) and `class_names`, and fills `splits`, (images,
    labels) by name, in `read`.

    validation: whether there are validation images.
    batch_size, eval_batch_size: images in a batch of all processes together.
    seed: drives the order and the augmentation of the epochs, and nothing else.
    split_seed: drives which images validate, and nothing else.
    test_each_epoch: run the test set too whenever the validation set is run, as a second loader;
        `validation_stages` names the loaders.
    augmentation: small random changes of the training images.
    clean_epochs: so many of the last epochs see the training images as they are nevertheless.
    normalize: the network subtracts the training images' mean and divides by their deviation.
    """

    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    def __init__(
        self,
        *,
        validation: bool = True,
        batch_size: int = 64,
        eval_batch_size: int = 500,
        seed: int = 42,
        split_seed: int = 0,
        test_each_epoch: bool = False,
        augmentation: RandomAffine | None = None,
        clean_epochs: int = 0,
        normalize: bool = False,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.split_seed = split_seed
        self.augmentation = augmentation
        self.clean_epochs = clean_epochs
        self.normalize = normalize
        stages = [("val", validation), ("test", test_each_epoch)]
        self.validation_stages = tuple(stage for stage, wanted in stages if wanted)
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def read(self, stage: str | None) -> None:
        """Fill `splits` with what `stage` needs and is not there yet; None: with all of them."""
        raise NotImplementedError

    def setup(self, stage: str | None = None) -> None:
        """Read what `stage` ("fit", "validate", "test") needs, and have it on the device."""
        if self.trainer is None:  # nobody else calls it
            self.prepare_data()
        self.read(stage)
        if self.trainer is not None:
            if not self.validation_stages:
                self.trainer.limit_val_batches = 0  # or Lightning warns of an empty list
            device = self.trainer.strategy.root_device
            self.splits = {k: (x.to(device), y.to(device)) for k, (x, y) in self.splits.items()}

    def split(self, name: str) -> Split:
        """The images of "train", "val" or "test". Raises RuntimeError before they are read."""
        if name not in self.splits:
            stage = "test" if name == "test" else "fit"
            raise RuntimeError(f'The {name} images have not been read: call setup("{stage}").')
        return Split(*self.splits[name])

    def class_counts(self, name: str) -> list[int]:
        """How many images of a split each class has."""
        return torch.bincount(self.split(name).labels.cpu(), minlength=self.num_classes).tolist()

    def normalization(self) -> dict[str, list[float]] | None:
        """Mean and deviation of each channel of the training images, where asked for."""
        if not self.normalize:
            return None
        images, labels, rows = self.split("train")
        rows = torch.arange(len(labels)) if rows is None else rows.cpu()
        sums = torch.zeros(2, self.image_shape[0], dtype=torch.float64)
        for part in rows.split(1024):
            values = images[part.to(images.device)].cpu().double() / 255
            sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        mean, square = sums / (len(rows) * images[0, 0].numel())
        std = (square - mean**2).clamp(min=1e-6).sqrt()
        return {
            "mean": [round(m, 6) for m in mean.tolist()],
            "std": [round(s, 6) for s in std.tolist()],
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
        for name in ("val", "train") if "val" in self.validation_stages else ("train",):
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
            rank=getattr(self.trainer, "global_rank", 0),
            world_size=getattr(self.trainer, "world_size", 1),
            **options,
        )
