"""One card a channel: its weights, what excites it, which class it is for, what breaks without it.

Removing a channel is an experiment; everything else on the card is what one sees beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.errors import InputError
from simplecnn.explain.findings import Figures, Findings, rounded
from simplecnn.explain.subject import BATCH, Subject, logits
from simplecnn.figures.explain.channel_cards import Channel, Patch, card_figure, index_figure
from simplecnn.models.activations import convolutions, feature_maps, removed
from simplecnn.receptive_field.fields import Field, receptive_fields
from simplecnn.table import table

NUM_BEST = 9  # images that excite a channel most
NUM_BINS = 40
NUM_RANKED = 40  # channels in the index


def channel_cards(
    subject: Subject,
    *,
    layers: str | Sequence[str] = "all",
    num_images: int = 2000,
    num_cards: int = 128,
    seed: int = 0,
) -> Findings:
    """A card for each channel of `layers`, and an index that ranks them by effect.

    The best images are sought among all test images; histograms, class means and removals take
    `num_images` of them, each class in its proportion. Where there are more than `num_cards`
    channels, the most active ones of each layer are removed and get a card, and it is said.
    """
    network, names = subject.network, subject.class_names
    of_layer = layer_fields(network, tuple(subject.images.shape[1:]))
    chosen = [name for name in chosen_layers(network, layers) if name in of_layer]
    images, labels = subject.sample(num_images, seed=seed)
    by_layer = record_channels(network, subject.images, images, labels, chosen, len(names))
    before = logits(network, images)
    ranked = most_active(by_layer, num_cards)
    for channel in ranked:
        measure_removal(channel, network, images, labels, before)
    ranked.sort(key=lambda channel: (channel.acc_change, -channel.loss_change))
    accuracy = float((before.argmax(1) == labels).float().mean())
    setting = f"{len(labels):,} of {len(subject.labels):,} test images of {subject.data_name}"
    everything = [channel for channels in by_layer.values() for channel in channels]
    num_dead = sum(channel.dead for channel in everything)
    num_harmless = sum(channel.acc_change >= 0 for channel in ranked)
    return Findings(
        lines=[
            f"accuracy {100 * accuracy:.2f} % on {setting}; one channel removed at a time:",
            *_table(ranked[:5], names),
            f"{len(ranked)} of {len(everything)} channels removed: {num_harmless} of them cost no "
            f"accuracy; {num_dead} of {len(everything)} are dead",
        ],
        record={
            "subject": subject.name,
            "num_images": len(labels),
            "num_searched": len(subject.labels),
            "num_channels": len(everything),
            "num_cards": len(ranked),
            "acc": accuracy,
            "channels": [_row(channel, names) for channel in ranked],
        },
        arrays={
            f"{name}/{f.name}": np.array([getattr(channel, f.name) for channel in channels])
            for name, channels in by_layer.items()
            for f in fields(Channel)
            if f.name not in ("layer", "index")
        },
        figures=_figures(ranked, by_layer, of_layer, setting, subject),
    )


def chosen_layers(network: nn.Module, layers: str | Sequence[str]) -> list[str]:
    """The convolutions that `layers` names: all, first, last, or a list. Raises InputError."""
    there = list(convolutions(network))
    if not there:
        raise InputError(f"{type(network).__name__} has no 2-D convolution to look at.")
    if isinstance(layers, str):
        layers = {"all": there, "first": there[:1], "last": there[-1:]}.get(layers, [layers])
    for name in layers:
        if name not in there:
            raise InputError(
                f"There is no convolution {name}: all, first, last, or of {', '.join(there)}."
            )
    return list(layers)


def layer_fields(network: nn.Module, size: Sequence[int]) -> dict[str, Field]:
    """The receptive fields by the names of the convolutions, of the last call of each."""
    by_call = receptive_fields(network, size)
    by_layer = {}
    for name in convolutions(network):
        for call in (name, *(f"{name}_{i}" for i in range(1, len(by_call)))):
            if call in by_call:
                by_layer[name] = by_call[call]
    return by_layer


def record_channels(
    network: nn.Module,
    images: Tensor,
    sample: Tensor,
    labels: Tensor,
    names: Sequence[str],
    num_classes: int,
) -> dict[str, list[Channel]]:
    """The channels of the layers `names`: the best of `images` for each, and histograms and class
    means of `sample` with its `labels`."""
    seen: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in names}
    widths = {}
    for part in images.split(BATCH):
        maps, _ = feature_maps(network, part)
        for name in names:
            widths[name] = maps[name].shape[3]
            values = maps[name].flatten(2)
            seen[name].append((*values.max(2), values.amin(2)))
    # By layer, each (N, M): the peaks, their places in the flat map, and the lowest values.
    extremes = {
        name: tuple(map(torch.cat, zip(*parts, strict=True))) for name, parts in seen.items()
    }
    ends = {name: (low.amin(0), peaks.amax(0)) for name, (peaks, _, low) in extremes.items()}
    members = functional.one_hot(labels, num_classes).float()
    shares = members / members.sum(0).clamp(min=1)
    means = {name: torch.zeros(()) for name in names}
    counts = {name: torch.zeros(()) for name in names}
    for part, share in zip(sample.split(BATCH), shares.split(BATCH), strict=True):
        maps, _ = feature_maps(network, part)
        for name in names:
            means[name] = means[name] + maps[name].mean((2, 3)).T @ share
            counts[name] = counts[name] + _histograms(maps[name], *ends[name])
    by_layer = {}
    for name in names:
        peaks, places, _ = extremes[name]
        best = peaks.argsort(dim=0, descending=True, stable=True)[:NUM_BEST]
        peak_at = places.gather(0, best).T.numpy()
        low, high = ends[name]
        of_channels = zip(
            convolutions(network)[name].weight.detach().numpy(),
            best.T.numpy(),
            peaks.gather(0, best).T.numpy(),
            np.stack(np.divmod(peak_at, widths[name]), -1),
            means[name].numpy(),
            np.linspace(low.numpy(), high.numpy(), NUM_BINS + 1, axis=1),
            counts[name].numpy(),
            strict=True,
        )
        by_layer[name] = [Channel(name, i, *arrays) for i, arrays in enumerate(of_channels)]
    return by_layer


def _histograms(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Counts (M, bins) of the values (N, M, H, W) of each channel between its own ends."""
    width = (high - low).clamp(min=1e-30)
    values = maps.flatten(2).transpose(0, 1).flatten(1)  # (M, all)
    bins = ((values - low[:, None]) / width[:, None] * NUM_BINS).long().clamp_(0, NUM_BINS - 1)
    return torch.stack([channel.bincount(minlength=NUM_BINS) for channel in bins]).float()


def measure_removal(
    channel: Channel, network: nn.Module, images: Tensor, labels: Tensor, before: Tensor
) -> None:
    """Tell a channel what the network answers without it, compared with its logits `before`."""
    with removed(network, channel.layer, channel.index):
        without = logits(network, images)
    change = (without.argmax(1) == labels).double() - (before.argmax(1) == labels).double()
    members = functional.one_hot(labels, len(channel.class_means)).double()
    worse = functional.cross_entropy(without, labels) - functional.cross_entropy(before, labels)
    channel.acc_change = float(change.mean())
    channel.acc_change_per_class = (change @ members / members.sum(0)).numpy()  # 0 / 0 is NaN
    channel.loss_change = float(worse)


def most_active(by_layer: Mapping[str, Sequence[Channel]], num_cards: int) -> list[Channel]:
    """The channels that get a card: all, or of each layer its share, those with most activity."""
    total = sum(map(len, by_layer.values()))
    chosen: list[Channel] = []
    for channels in by_layer.values():
        width = len(channels)
        share = width if total <= num_cards else max(1, width * num_cards // total)
        chosen += sorted(channels, key=lambda c: -np.abs(c.class_means).mean())[:share]
    return chosen


def crop(image: NDArray, field: Field, place: Sequence[int]) -> NDArray:
    """What the unit at `place` sees of an image (C, H, W): (C, h, w), NaN in the padding.

    A field larger than the image is cut at the image's border.
    """
    patch = image.astype(np.float32)
    ends = field.interval((int(place[0]), int(place[1])))
    for axis, (first, last) in enumerate(ends, start=1):
        size = image.shape[axis]
        if last - first + 1 > size:
            first, last = max(first, 0), min(last, size - 1)
        seen = np.arange(first, last + 1)
        patch = patch.take(seen, axis, mode="clip")
        patch.swapaxes(0, axis)[(seen < 0) | (seen >= size)] = np.nan
    return patch


def _row(channel: Channel, class_names: Sequence[str]) -> dict[str, object]:
    return {
        "layer": channel.layer,
        "channel": channel.index,
        "card": channel.card,
        "acc_change": round(channel.acc_change, 6),
        "loss_change": round(channel.loss_change, 6),
        "acc_change_per_class": dict(
            zip(class_names, rounded(channel.acc_change_per_class), strict=True)
        ),
        "dead": channel.dead,
        "selectivity": rounded([channel.selectivity])[0],
        "preferred_class": class_names[channel.preferred],
        "best_images": channel.best.tolist(),
    }


def _table(channels: Sequence[Channel], class_names: Sequence[str]) -> list[str]:
    rows = [("channel", "accuracy, points", "most lost of a class", "selectivity (0 to 1)")]
    for channel in channels:
        per_class = channel.acc_change_per_class
        worst = int(np.nan_to_num(per_class).argmin())
        lost = 100 * per_class[worst]
        rows.append(
            (
                f"{channel.layer} {channel.index}",
                f"{100 * channel.acc_change:+.2f}",
                f"{class_names[worst]} {lost:+.2f}" if round(lost, 2) < 0 else "none",
                f"{channel.selectivity:.2f}",
            )
        )
    return table(rows).splitlines()


def _figures(
    ranked: Sequence[Channel],
    by_layer: Mapping[str, Sequence[Channel]],
    of_layer: Mapping[str, Field],
    setting: str,
    subject: Subject,
) -> Figures:
    num_channels = sum(map(len, by_layer.values()))
    of_all = "" if len(ranked) == num_channels else f", of {num_channels} in all"
    shown = ranked[:NUM_RANKED]
    title = (
        f"Which channels matter: accuracy lost without them\nthe first {len(shown)} by effect, of "
        f"{len(ranked)} removed{of_all}; {setting}"
    )
    yield "index", index_figure(shown, subject.class_names, title)
    limits = {
        name: float(max(np.abs(channel.weights).max() for channel in channels)) or 1.0
        for name, channels in by_layer.items()
    }
    for rank, channel in enumerate(ranked, start=1):
        field = of_layer[channel.layer]
        patches = [
            Patch(
                crop(subject.images[index].numpy(), field, place),
                subject.class_names[int(subject.labels[index])],
                float(peak),
            )
            for index, place, peak in zip(channel.best, channel.places, channel.peaks, strict=True)
        ]
        title = (
            f"{channel.layer}, channel {channel.index}: number {rank} of {len(ranked)} by what "
            f"breaks without it\n{setting}; selectivity: 0 all classes alike, 1 one class only"
        )
        yield channel.card, card_figure(
            channel, patches, subject.class_names,
            field_size=field.size, limit=limits[channel.layer], title=title,
        )  # fmt: skip
