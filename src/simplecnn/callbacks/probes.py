"""The probe images that figures show, one per class, and the names of the classes."""

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from simplecnn.data import shape

MAX_CLASSES = 10  # rows of a figure
MAX_BATCHES = 50  # searched for an image of each class


def probes(trainer: Trainer, module: LightningModule) -> tuple[Tensor, Tensor] | None:
    """One image per class (K, C, H, W), as the module's network expects it, and its label (K,).

    They come from the data module's `probes()` if it has one, otherwise from the validation data,
    or from the training data if there is no validation. None if batches are not (images, labels).
    """
    if hasattr(trainer.datamodule, "probes"):
        images, labels = (part[:MAX_CLASSES] for part in trainer.datamodule.probes())
    else:
        with isolate_rng():  # a shuffling loader must not change the run
            first_images = _first_of_each_class(trainer)
        if first_images is None:
            return None
        images, labels = first_images
    return images.to(module.device, module.dtype), labels


def class_names(trainer: Trainer, num_classes: int) -> tuple[str, ...]:
    """The class names of the data module or its data set, otherwise 0, 1, 2, …"""
    loaders = shape.all_loaders([trainer.train_dataloader, trainer.val_dataloaders])
    return shape.class_names(trainer.datamodule, loaders[0] if loaders else None, num_classes)


def _first_of_each_class(trainer: Trainer) -> tuple[Tensor, Tensor] | None:
    loaders = shape.all_loaders([trainer.val_dataloaders, trainer.train_dataloader])
    first: dict[int, Tensor] = {}
    for i, batch in enumerate(loaders[0]):
        if not (isinstance(batch, list | tuple) and len(batch) == 2 and batch[0].ndim == 4):
            return None
        for image, label in zip(*batch, strict=True):
            first.setdefault(int(label), image)
        if i >= MAX_BATCHES or len(first) >= MAX_CLASSES:
            break
    labels = sorted(first)[:MAX_CLASSES]
    return torch.stack([first[label] for label in labels]), torch.tensor(labels)
