"""A trained network and the test images it is looked at with, from a run's folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simplecnn.data.mnist import stratified_cut
from simplecnn.errors import InputError
from simplecnn.inference.evaluate import TestData, logits_of
from simplecnn.inference.networks import load_network, untrained_network
from simplecnn.models.activations import evaluation_mode
from simplecnn.run_directory import RunDirectory, short
from simplecnn.sweeps.jobs import short_names, value_text

BATCH = 500  # images at once: what a layer makes of them still fits the cache


@dataclass(frozen=True)
class Subject:
    """One network, trained and as it began, with its test images (N, C, H, W) and labels (N,)."""

    name: str
    network: nn.Module
    untrained: nn.Module  # the same network with the weights that its seed draws
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    data_name: str = "images"
    values: Mapping[str, Any] = field(default_factory=dict)  # what a sweep varied, seeds apart
    ink: bool = True  # gray images are drawings, not photographs

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def sample(self, num_images: int, *, seed: int) -> tuple[Tensor, Tensor]:
        """At most so many images and their labels, each class in its proportion, in data order."""
        if num_images >= len(self.labels):
            return self.images, self.labels
        places = torch.from_numpy(stratified_cut(self.labels.numpy(), num_images, seed=seed))
        return self.images[places], self.labels[places]


def groups(subjects: Sequence[Subject]) -> dict[str, list[int]]:
    """The places of networks that differ in their seed only, by what they have in common."""
    keys = list(dict.fromkeys(key for subject in subjects for key in subject.values))
    names = short_names(keys)
    members: dict[str, list[int]] = {}
    for place, subject in enumerate(subjects):
        title = ", ".join(f"{names[k]} {value_text(subject.values.get(k))}" for k in keys)
        members.setdefault(title, []).append(place)
    return members


def file_name(title: str) -> str:
    """The title of a group as a part of a file's name."""
    return "".join(c if c.isalnum() else "_" for c in title).strip("_")


def mean_over(grouped: Mapping[str, Sequence[int]]) -> str:
    """How many networks a number stands for, in the words of a title; empty where it is one."""
    sizes = [len(places) for places in grouped.values()]
    if len(sizes) > 1 and len(set(sizes)) == 1 and sizes[0] > 1:
        return f", mean over {sizes[0]} networks each"
    return f", mean over {' / '.join(map(str, sizes))} networks" if max(sizes) > 1 else ""


def load_subject(
    run: RunDirectory,
    checkpoint: Path,
    *,
    data: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Subject:
    """The network in a checkpoint of a run, with the test images of the run or of `data`.

    Raises InputError where the network does not take these images.
    """
    config = run.config()
    test = TestData(config["data"], checkpoint, data)
    test.check_classes(run.record.get("class_names"))
    network = load_network(checkpoint)
    images, labels = test.tensors()
    num_classes = logits_of(network, images[:1]).shape[1]
    if num_classes <= int(labels.max()):
        raise InputError(
            f"The network of {short(run.path)} tells {num_classes} classes apart, and the test "
            f"images have {int(labels.max()) + 1}."
        )
    return Subject(
        name=f"{short(run.path)}, {checkpoint.name}",
        network=network,
        untrained=untrained_network(checkpoint, config.get("seed") or 0, images[:1]),
        images=images,
        labels=labels,
        class_names=test.class_names(num_classes),
        data_name=test.name,
        values=values or {},
        ink=getattr(test.datamodule, "ink", True),
    )


@torch.no_grad()
def logits(network: nn.Module, images: Tensor) -> Tensor:
    """(N, classes), in evaluation mode, some hundred images at a time."""
    with evaluation_mode(network):
        return torch.cat([network(part) for part in images.split(BATCH)])
