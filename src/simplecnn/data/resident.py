"""Base class of simplecnn's data modules, which keep their images on the training device."""

from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from simplecnn.data.augmentation import RandomAffine
from simplecnn.data.batches import MAX_CHUNK_BYTES, Batches, scale


class Split(NamedTuple):
    """uint8 images (N, C, H, W), labels (M,) and the indices (M,) of their images; None for all."""

    images: Tensor
    labels: Tensor
    rows: Tensor | None = None


def stratified_sample(labels: np.ndarray, size: int, *, seed: int) -> np.ndarray:
    """Return the sorted indices (size,) of a random sample with the class proportions of `labels`.

    A class with n of the N labels gets size * n / N of the sample, rounded by the largest remainder
    method. Deterministic in its arguments.
    """
    classes, counts = np.unique(labels, return_counts=True)
    quotas = counts * size / len(labels)
    class_sizes = np.floor(quotas).astype(int)
    rounded_up = np.argsort(class_sizes - quotas, kind="stable")[: size - class_sizes.sum()]
    class_sizes[rounded_up] += 1
    rng = np.random.default_rng(seed)
    chosen = [
        rng.permutation(np.flatnonzero(labels == label))[:class_size]
        for label, class_size in zip(classes, class_sizes, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def mixed_order(labels: np.ndarray) -> np.ndarray:
    """Return a fixed random order (N,) for images sorted by class, the same order for any others.

    Otherwise the first batches, which `limit_val_batches` selects, would be of a few classes.
    """
    order = np.arange(len(labels))
    is_sorted = (labels[:-1] <= labels[1:]).all()
    return np.random.default_rng(0).permutation(order) if is_sorted else order


class ResidentDataModule(LightningDataModule):
    """Splits of uint8 images on the training device, loaded by `Batches`.

    A subclass sets `name`, `image_shape` (C, H, W) and `class_names`, and implements `read`, which
    fills `splits` with (images, labels) by split name.

    Args:
        validation: whether there is a validation split.
        batch_size, eval_batch_size: images per batch, over all processes, in training and in
            validation and test.
        seed: seed of the order of the batches and of the augmentation, nothing else.
        split_seed: seed of the choice of validation images, nothing else.
        test_each_epoch: also run the test set in every validation, as a second loader;
            `validation_stages` names the loaders.
        augmentation: random augmentation of the training images.
        clean_epochs: number of final epochs without augmentation.
        normalize: have the network standardize images by the mean and standard deviation of the
            training images.
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
        self.validation_stages = tuple(stage for stage, enabled in stages if enabled)
        self.splits: dict[str, tuple[Tensor, Tensor]] = {}

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def read(self, stage: str | None) -> None:
        """Add the splits that `stage` needs to `splits`, unless already read; None for all."""
        raise NotImplementedError

    def add_split(self, name: str, images: np.ndarray, labels: np.ndarray) -> None:
        """Add images (N, C, H, W) and labels (N,); the order of "train" is that of its batches."""
        if name != "train":
            order = mixed_order(labels)
            images, labels = images[order], labels[order]
        self.splits[name] = torch.tensor(images), torch.tensor(labels, dtype=torch.int64)

    def add_train_and_val(self, images: np.ndarray, labels: np.ndarray, val_size: int) -> None:
        """Add a stratified sample as the split "val", and all other images as "train"."""
        val = stratified_sample(labels, val_size, seed=self.split_seed)
        self.add_split("val", images[val], labels[val])
        self.add_split("train", np.delete(images, val, axis=0), np.delete(labels, val))

    def setup(self, stage: str | None = None) -> None:
        """Read the splits that `stage` ("fit", "validate" or "test") needs onto the device.

        Without a Trainer, prepares the data first.
        """
        if self.trainer is None:
            self.prepare_data()
        self.read(stage)
        if self.trainer is not None:
            if not self.validation_stages:
                self.trainer.limit_val_batches = 0  # Lightning would warn of an empty list
            device = self.trainer.strategy.root_device
            self.splits = {k: (x.to(device), y.to(device)) for k, (x, y) in self.splits.items()}

    def split(self, name: str) -> Split:
        """Return the split "train", "val" or "test". Raises RuntimeError if it is not read yet."""
        if name not in self.splits:
            stage = "test" if name == "test" else "fit"
            raise RuntimeError(f'The {name} images have not been read: call setup("{stage}").')
        return Split(*self.splits[name])

    def class_counts(self, name: str) -> list[int]:
        """Return the number of images of each class in a split."""
        return torch.bincount(self.split(name).labels.cpu(), minlength=self.num_classes).tolist()

    def normalization(self) -> dict[str, list[float]] | None:
        """Return `mean` and `std` of the training images per channel; None without `normalize`."""
        if not self.normalize:
            return None
        images, labels, rows = self.split("train")
        rows = torch.arange(len(labels)) if rows is None else rows.cpu()
        sums = torch.zeros(2, self.image_shape[0], dtype=torch.float64)
        chunk_size = max(1, MAX_CHUNK_BYTES // (8 * images[0].numel()))
        for chunk in rows.split(chunk_size):
            values = images[chunk.to(images.device)].cpu().double() / 255
            sums += torch.stack([values.sum((0, 2, 3)), values.square().sum((0, 2, 3))])
        mean, mean_square = sums / (len(rows) * images[0, 0].numel())
        std = (mean_square - mean**2).clamp(min=1e-6).sqrt()
        return {
            "mean": [round(m, 6) for m in mean.tolist()],
            "std": [round(s, 6) for s in std.tolist()],
        }

    def train_dataloader(self) -> Batches:
        is_overfitting = bool(getattr(self.trainer, "overfit_batches", 0))
        num_epochs = getattr(self.trainer, "max_epochs", None) or -1
        num_augmented = None
        if self.clean_epochs and num_epochs > 0:
            num_augmented = num_epochs - self.clean_epochs
        return self._batches(
            "train",
            self.batch_size,
            shuffle_seed=self.seed,
            reshuffle=not is_overfitting,  # the same batches in every epoch
            augmentation=None if is_overfitting else self.augmentation,
            num_augmented_epochs=num_augmented,
        )

    def val_dataloader(self) -> Batches | list[Batches]:
        """Return the loader of the one validation stage, or a list with a loader per stage."""
        loaders = [self._batches(name, self.eval_batch_size) for name in self.validation_stages]
        return loaders[0] if len(loaders) == 1 else loaders

    def test_dataloader(self) -> Batches:
        return self._batches("test", self.eval_batch_size)

    def probes(self) -> tuple[Tensor, Tensor]:
        """Return the first image of each class in the validation split, and the labels.

        Float images (num_classes, C, H, W) in [0, 1], ordered by class. Falls back to the training
        split if the validation split lacks a class.
        """
        for name in ("val", "train") if "val" in self.validation_stages else ("train",):
            images, labels, rows = self.split(name)
            classes, first = np.unique(labels.cpu().numpy(), return_index=True)
            if len(classes) == self.num_classes:
                indices = torch.from_numpy(first) if rows is None else rows.cpu()[first]
                return scale(images[indices]), labels[first]
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
