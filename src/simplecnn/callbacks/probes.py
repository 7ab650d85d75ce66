"""Which images the pictures show, of any data, and what their classes are called."""

from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from simplecnn.data import shape

MAX_CLASSES = 10  # rows of a picture
MAX_BATCHES = 50  # of other data that are searched for one image a class


def probes(trainer: Trainer, module: LightningModule) -> tuple[Tensor, Tensor] | None:
    """One image of each class, (K, C, H, W) as the module's network takes them, and its label (K,).

    From the data module's `probes()`, else the first ones of the validation data, or of the
    training data where there are none. None where batches are not (images, labels).
    """
    if hasattr(trainer.datamodule, "probes"):
        images, labels = (part[:MAX_CLASSES] for part in trainer.datamodule.probes())
    else:
        with isolate_rng():  # a loader that shuffles must not change the run
            first = _first_of_each_class(trainer)
        if first is None:
            return None
        images, labels = first
    return images.to(module.device, module.dtype), labels


def class_names(trainer: Trainer, num_classes: int) -> tuple[str, ...]:
    """The names that the data module or its data set gives, else 0, 1, 2, …"""
    # Not by `or`, which asks for a length: an IterableDataset has none.
    loader = trainer.train_dataloader
    loader = trainer.val_dataloaders if loader is None else loader
    return shape.class_names(trainer.datamodule, loader, num_classes)


def _first_of_each_class(trainer: Trainer) -> tuple[Tensor, Tensor] | None:
    loaders: Any = trainer.val_dataloaders
    loaders = trainer.train_dataloader if loaders is None else loaders
    loader = loaders[0] if isinstance(loaders, list) else loaders
    chosen: dict[int, Tensor] = {}
    for i, batch in enumerate(loader):
        if not (isinstance(batch, list | tuple) and len(batch) == 2 and batch[0].ndim == 4):
            return None
        for image, label in zip(*batch, strict=True):
            chosen.setdefault(int(label), image)
        if i >= MAX_BATCHES or len(chosen) >= MAX_CLASSES:
            break
    labels = sorted(chosen)[:MAX_CLASSES]
    return torch.stack([chosen[label] for label in labels]), torch.tensor(labels)
