"""Image shape, number of classes and class names of any LightningDataModule."""

import os
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor
from torch.utils.data import Subset

from simplecnn.errors import InputError


class DataShape(NamedTuple):
    in_channels: int
    height: int
    width: int
    num_classes: int

    @property
    def image_size(self) -> int:
        """The side of square images. Raises InputError if they are not square."""
        if self.height != self.width:
            raise InputError(
                f"model.network.image_size: the images have {self.height} x {self.width} pixels, "
                f"but this network accepts square ones only."
            )
        return self.height


def data_shape(datamodule: LightningDataModule) -> DataShape:
    """Return the data module's `image_shape` (C, H, W) and `num_classes`, or infer them.

    The number of classes is inferred from the `classes` of the data module or of its data set, or
    else from all training labels; the image shape from the training batches. Raises InputError if
    batches are not (images, labels).
    """
    shape = getattr(datamodule, "image_shape", None)
    num_classes = _num_classes(datamodule)
    if shape is None or num_classes is None:
        set_up_training_data(datamodule)
        loader: Any = datamodule.train_dataloader()
        num_classes = num_classes or _num_classes(_dataset(loader))
        with isolate_rng():  # shuffling here must not change the run
            shape, num_classes = _from_batches(loader, num_classes)
    channels, height, width = shape
    return DataShape(channels, height, width, num_classes)


def set_up_training_data(datamodule: LightningDataModule) -> None:
    """Set up the data module as `Trainer.fit` will, before the Trainer is built."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        datamodule.prepare_data()
    datamodule.setup("fit")


def all_loaders(loaders: Any) -> list[Any]:
    """The data loaders that a hook of a data module returns: none, one, or a collection."""
    loaders = getattr(loaders, "iterables", loaders)  # of a CombinedLoader
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        return [loader for nested in loaders for loader in all_loaders(nested)]
    return [] if loaders is None else [loaders]


def class_names(datamodule: Any, loader: Any, num_classes: int) -> tuple[str, ...]:
    """Return the class names of a data module or its data set, or else 0, 1, 2, …"""
    names = known_class_names(datamodule, loader, num_classes)
    return tuple(map(str, range(num_classes))) if names is None else names


def known_class_names(
    datamodule: Any, loader: Any, num_classes: int | None = None
) -> tuple[str, ...] | None:
    """Return the class names of a data module or its data set, or None if they have none.

    With `num_classes`, only names of so many classes.
    """
    for source, attribute in ((datamodule, "class_names"), (datamodule, "classes"),
                              (_dataset(loader), "classes")):  # fmt: skip
        names = getattr(source, attribute, None)
        if isinstance(names, list | tuple) and names and num_classes in (None, len(names)):
            return tuple(map(str, names))
    return None


def _dataset(loader: Any) -> Any:
    """The data set of a loader, or that of which it is a `Subset`."""
    dataset: Any = getattr(loader, "dataset", None)
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def _num_classes(source: Any) -> int | None:
    if num_classes := getattr(source, "num_classes", None):
        return int(num_classes)
    classes = getattr(source, "classes", None)
    return len(classes) if isinstance(classes, list | tuple) else None


def _from_batches(loader: Any, num_classes: int | None) -> tuple[torch.Size, int]:
    """Return the image shape (C, H, W) and, if not given, the number of classes."""
    shape: torch.Size | None = None
    max_label, batch = -1, None
    for batch in loader:
        match batch:
            case (Tensor(ndim=4) as images, labels):
                shape, max_label = images.shape[1:], max(max_label, int(labels.max()))
            case _:
                break
        if num_classes is not None:
            break
    if shape is None:
        raise InputError(
            f"data: its training batches are not (images (N, C, H, W), labels (N,)) but "
            f"{_describe(batch)}, so the network cannot be adapted to them. Return such batches, "
            f"or type model.network.in_channels, image_size and num_classes."
        )
    return shape, num_classes or max_label + 1


def _describe(batch: Any) -> str:
    """The shapes of the tensors of a batch, the types of its other parts."""
    if isinstance(batch, list | tuple):
        return f"({', '.join(map(_describe, batch))})"
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    return "nothing" if batch is None else type(batch).__name__
