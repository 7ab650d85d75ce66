"""A trained network with its test images, loaded from a run directory."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from simplecnn.data.resident import stratified_sample
from simplecnn.inference.evaluate import TestData
from simplecnn.inference.networks import logits, untrained_network
from simplecnn.inference.trained_run import TrainedRun
from simplecnn.sweeps.jobs import short_names, value_text


@dataclass(frozen=True)
class Subject:
    """A trained network and its initial state, with test images (N, C, H, W) and labels (N,)."""

    name: str
    network: nn.Module
    untrained: nn.Module  # the same network with the initial weights that its seed draws
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    data_name: str = "images"
    values: Mapping[str, Any] = field(default_factory=dict)  # of the swept keys, without the seed
    ink: bool = True  # gray images are drawings, shown as dark ink on white, not photographs

    def sample(self, num_images: int, *, seed: int) -> tuple[Tensor, Tensor]:
        """Return a stratified sample of at most `num_images` images and labels, in data order."""
        if num_images >= len(self.labels):
            return self.images, self.labels
        indices = torch.from_numpy(stratified_sample(self.labels.numpy(), num_images, seed=seed))
        return self.images[indices], self.labels[indices]


def groups(subjects: Sequence[Subject]) -> dict[str, list[int]]:
    """Group networks that differ only in their seed: title (`width 8, pool max`) to indices."""
    keys = list(dict.fromkeys(key for subject in subjects for key in subject.values))
    names = short_names(keys)
    members: dict[str, list[int]] = {}
    for index, subject in enumerate(subjects):
        title = ", ".join(f"{names[k]} {value_text(subject.values.get(k))}" for k in keys)
        members.setdefault(title, []).append(index)
    return members


def slug(title: str) -> str:
    """The title of a group as part of a file name."""
    return "".join(c if c.isalnum() else "_" for c in title).strip("_")


def row_name(title: str, num_networks: int) -> str:
    """The name of a group in a table: its title, or else how many networks it consists of."""
    return title or ("this network" if num_networks == 1 else f"mean of {num_networks} networks")


def mean_note(grouped: Mapping[str, Sequence[int]]) -> str:
    """A suffix for titles, for example `, mean over 3 networks`; empty without several seeds."""
    sizes = [len(indices) for indices in grouped.values()]
    if len(sizes) > 1 and len(set(sizes)) == 1 and sizes[0] > 1:
        return f", mean over {sizes[0]} networks each"
    return f", mean over {' / '.join(map(str, sizes))} networks" if max(sizes) > 1 else ""


def load_subject(
    run: TrainedRun,
    *,
    data: Mapping[str, Any] | None = None,
    values: Mapping[str, Any] | None = None,
) -> Subject:
    """Load the network of a run, with its test images or those of `data`.

    Raises InputError if the network does not accept these images or has fewer classes.
    """
    test = TestData(run, data)
    images, labels = test.tensors()
    num_classes = logits(run.network, images[:1]).shape[1]
    return Subject(
        name=run.name,
        network=run.network,
        untrained=untrained_network(run.checkpoint, run.config.get("seed") or 0, images[:1]),
        images=images,
        labels=labels,
        class_names=test.class_names(num_classes, labels),
        data_name=test.name,
        values=values or {},
        ink=getattr(test.datamodule, "ink", True),
    )
