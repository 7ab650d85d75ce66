"""What is to be known of any data: size and channels of an image, how many classes, their names."""

import os
from typing import Any, NamedTuple

import torch
from pytorch_lightning import LightningDataModule
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from simplecnn.errors import InputError


class DataShape(NamedTuple):
    in_channels: int
    image_size: int
    num_classes: int


def data_shape(datamodule: LightningDataModule) -> DataShape:
    """From the data module's `image_shape` (C, H, W) and `num_classes`, or from its training data.

    What it does not say is looked up: `classes` of the data module or of its data set, else one
    pass over the training labels. Raises InputError where batches are not (images, labels).
    """
    shape = getattr(datamodule, "image_shape", None)
    num_classes = _num_classes(datamodule)
    if shape is None or num_classes is None:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            datamodule.prepare_data()
        datamodule.setup("fit")
        loader: Any = datamodule.train_dataloader()
        num_classes = num_classes or _num_classes(getattr(loader, "dataset", None))
        with isolate_rng():  # a loader that shuffles must not change the run
            shape, num_classes = _from_batches(loader, num_classes)
    channels, height, width = shape
    return DataShape(channels, max(height, width), num_classes)


def class_names(datamodule: Any, loader: Any, num_classes: int) -> tuple[str, ...]:
    """The names that a data module or its data set gives; 0, 1, 2, … where there are none."""
    dataset = getattr(loader, "dataset", None)
    for source, attribute in ((datamodule, "class_names"), (datamodule, "classes"),
                              (dataset, "classes")):  # fmt: skip
        names = getattr(source, attribute, None)
        if isinstance(names, list | tuple) and len(names) == num_classes:
            return tuple(map(str, names))
    return tuple(map(str, range(num_classes)))


def _num_classes(source: Any) -> int | None:
    number = getattr(source, "num_classes", None)
    classes = getattr(source, "classes", None)
    return int(number) if number else len(classes) if isinstance(classes, list | tuple) else None


def _from_batches(loader: Any, num_classes: int | None) -> tuple[torch.Size, int]:
    shape: torch.Size | None = None
    largest = -1
    for batch in loader:
        match batch:
            case (Tensor(ndim=4) as images, labels):
                shape, largest = images.shape[1:], max(largest, int(labels.max()))
            case _:
                break
        if num_classes is not None:
            break
    if shape is None:
        raise InputError(
            "data: its training batches are not (images (N, C, H, W), labels (N,)), so that the "
            "network cannot be fitted to them. Type model.network.in_channels, image_size and "
            "num_classes."
        )
    return shape, num_classes or largest + 1
