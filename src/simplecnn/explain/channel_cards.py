"""Channel cards: what activates a channel, its preferred class, and the accuracy lost without it.

Only the removal is an intervention; the rest of a card is correlational.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.explain.findings import Figures, Findings, NotApplicable, rounded
from simplecnn.explain.subject import Subject
from simplecnn.figures.explain.channel_cards import Channel, Patch, card_figure, index_figure
from simplecnn.inference.networks import BATCH_SIZE, logits
from simplecnn.models.activations import (
    ablated_channel,
    convolutions,
    feature_maps,
    reads_color,
    select_convolutions,
)
from simplecnn.receptive_field.fields import Field, receptive_fields
from simplecnn.table import table

NUM_BEST = 9  # images on a card
NUM_BINS = 40
NUM_RANKED = 40  # channels in the index figure
MAX_TIED = 3  # classes that the table names if several lose the same


def channel_cards(
    subject: Subject,
    *,
    layers: str | Sequence[str] = "all",
    num_images: int = 2000,
    num_cards: int = 128,
    seed: int = 0,
) -> Findings:
    """Draw a card for each channel of `layers`, and an index that ranks them by lost accuracy.

    The most activating images are searched among all test images; histograms, class means and
    removals use a stratified sample of `num_images`. If there are more than `num_cards` channels,
    only the most active ones of each layer are removed and get a card.
    """
    network, names = subject.network, subject.class_names
    selected = select_convolutions(network, layers)
    if not selected:
        raise NotApplicable(f"channels: {type(network).__name__} has no 2-D convolution.")
    field_by_layer = layer_fields(network, tuple(subject.images.shape[1:]))
    layer_names = [name for name in selected if name in field_by_layer]
    images, labels = subject.sample(num_images, seed=seed)
    by_layer = record_channels(network, subject.images, images, labels, layer_names, len(names))
    before = logits(network, images)
    ranked = most_active(by_layer, num_cards)
    for channel in ranked:
        measure_removal(channel, network, images, labels, before)
    ranked.sort(key=lambda channel: (channel.acc_change, -channel.loss_change))
    accuracy = float((before.argmax(1) == labels).float().mean())
    setting = f"{len(labels):,} of {len(subject.labels):,} test images of {subject.data_name}"
    all_channels = [channel for channels in by_layer.values() for channel in channels]
    num_dead = sum(channel.dead for channel in all_channels)
    num_harmless = sum(channel.acc_change >= 0 for channel in ranked)
    return Findings(
        lines=[
            f"accuracy {100 * accuracy:.2f} % on {setting}",
            "most important channels, by the accuracy lost when only this channel is set to zero,",
            f"in percentage points (one image is {100 / len(labels):.2g}):",
            *_table(ranked[:5], names),
            f"{len(ranked)} of {len(all_channels)} channels were removed, one at a time; "
            f"{num_harmless} of these removals cost no accuracy;",
            f"{num_dead} of {len(all_channels)} channels are dead (zero on all test images)",
        ],
        record={
            "subject": subject.name,
            "num_images": len(labels),
            "num_searched": len(subject.labels),
            "num_channels": len(all_channels),
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
        figures=_figures(ranked, by_layer, field_by_layer, setting, subject),
    )


def layer_fields(network: nn.Module, size: Sequence[int]) -> dict[str, Field]:
    """Return the receptive field of each convolution, at its last call if there are several."""
    layers, modules = convolutions(network), dict(network.named_modules())
    by_call = receptive_fields(network, size)
    # Repeated calls of a module are named name_1, name_2, and so on.
    by_name = {c if c in modules else c.rpartition("_")[0]: by_call[c] for c in by_call}
    return {name: field for name, field in by_name.items() if name in layers}


def record_channels(
    network: nn.Module,
    images: Tensor,
    sample: Tensor,
    labels: Tensor,
    names: Sequence[str],
    num_classes: int,
) -> dict[str, list[Channel]]:
    """Return the channels of the layers `names` with their activation statistics.

    The most activating images are found among `images`; histograms and class means are those of
    `sample` with its `labels`.
    """
    batches: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in names}
    widths = {}
    for batch in images.split(BATCH_SIZE):
        maps, _ = feature_maps(network, batch)
        for name in names:
            widths[name] = maps[name].shape[3]
            values = maps[name].flatten(2)
            batches[name].append((*values.max(2), values.amin(2)))
    # By layer, each (N, channels): the peaks, their indices in the flattened map, and the minima.
    extremes = {
        name: tuple(map(torch.cat, zip(*parts, strict=True))) for name, parts in batches.items()
    }
    ranges = {name: (low.amin(0), peaks.amax(0)) for name, (peaks, _, low) in extremes.items()}
    one_hot = functional.one_hot(labels, num_classes).float()
    class_weights = one_hot / one_hot.sum(0)  # sums over them are class means; 0 / 0 is NaN
    means = {name: torch.zeros(()) for name in names}
    counts = {name: torch.zeros(()) for name in names}
    pairs = zip(sample.split(BATCH_SIZE), class_weights.split(BATCH_SIZE), strict=True)
    for batch, weights in pairs:
        maps, _ = feature_maps(network, batch)
        for name in names:
            means[name] = means[name] + maps[name].mean((2, 3)).T @ weights
            counts[name] = counts[name] + _histograms(maps[name], *ranges[name])
    by_layer = {}
    for name in names:
        peaks, indices, _ = extremes[name]
        best = peaks.argsort(dim=0, descending=True, stable=True)[:NUM_BEST]
        peak_indices = indices.gather(0, best).T.numpy()
        low, high = ranges[name]
        arrays_by_channel = zip(
            convolutions(network)[name].weight.detach().numpy(),
            best.T.numpy(),
            peaks.gather(0, best).T.numpy(),
            np.stack(np.divmod(peak_indices, widths[name]), -1),
            means[name].numpy(),
            np.linspace(low.numpy(), high.numpy(), NUM_BINS + 1, axis=1),
            counts[name].numpy(),
            strict=True,
        )
        by_layer[name] = [Channel(name, i, *arrays) for i, arrays in enumerate(arrays_by_channel)]
    return by_layer


def _histograms(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Histograms (M, bins) of maps (N, M, H, W), from `low` to `high` (M,) of each channel."""
    width = (high - low).clamp(min=1e-30)
    values = maps.flatten(2).transpose(0, 1).flatten(1)  # (M, N * H * W)
    bins = ((values - low[:, None]) / width[:, None] * NUM_BINS).long().clamp_(0, NUM_BINS - 1)
    return torch.stack([channel.bincount(minlength=NUM_BINS) for channel in bins]).float()


def measure_removal(
    channel: Channel, network: nn.Module, images: Tensor, labels: Tensor, before: Tensor
) -> None:
    """Set the channel's changes in accuracy and loss when it is removed from the network.

    `before` are the logits (N, classes) of the complete network on `images`.
    """
    with ablated_channel(network, channel.layer, channel.index):
        after = logits(network, images)
    change = (after.argmax(1) == labels).double() - (before.argmax(1) == labels).double()
    one_hot = functional.one_hot(labels, len(channel.class_means)).double()
    channel.acc_change = float(change.mean())
    channel.acc_change_per_class = (change @ one_hot / one_hot.sum(0)).numpy()  # 0 / 0 is NaN
    channel.loss_change = float(
        functional.cross_entropy(after, labels) - functional.cross_entropy(before, labels)
    )


def most_active(by_layer: Mapping[str, Sequence[Channel]], num_cards: int) -> list[Channel]:
    """Return all channels, or the most active ones of each layer in proportion to its width.

    Every layer keeps at least one channel.
    """
    total = sum(map(len, by_layer.values()))
    selected: list[Channel] = []
    for channels in by_layer.values():
        width = len(channels)
        num = width if total <= num_cards else max(1, width * num_cards // total)
        selected += sorted(channels, key=lambda c: -np.nanmean(np.abs(c.class_means)))[:num]
    return selected


def crop(image: NDArray, field: Field, position: Sequence[int]) -> NDArray:
    """Crop an image (C, H, W) to the receptive field of a position: (C, h, w), NaN in the padding.

    A receptive field larger than the image is clipped to the image. If all positions see the whole
    image, as after a group normalization, the field has a single unit.
    """
    patch = image.astype(np.float32)
    row, column = (min(int(p), n - 1) for p, n in zip(position, field.units, strict=True))
    intervals = field.interval((row, column))
    for axis, (first, last) in enumerate(intervals, start=1):
        size = image.shape[axis]
        if last - first + 1 > size:
            first, last = max(first, 0), min(last, size - 1)
        pixels = np.arange(first, last + 1)
        patch = patch.take(pixels, axis, mode="clip")
        patch.swapaxes(0, axis)[(pixels < 0) | (pixels >= size)] = np.nan
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
    rows = [
        ("channel", "accuracy lost", "class that loses most", "lost by this class",
         "selectivity (1: one class only)")
    ]  # fmt: skip
    for channel in channels:
        lost_per_class = -100 * np.nan_to_num(channel.acc_change_per_class)
        lost = lost_per_class.max()
        loses = round(lost, 2) > 0
        most = [name for name, x in zip(class_names, lost_per_class, strict=True) if x == lost]
        tied = ", ".join(most[:MAX_TIED]) + ", …" * (len(most) > MAX_TIED)
        rows.append(
            (
                f"{channel.layer} {channel.index}",
                f"{-100 * channel.acc_change:z.2f}",
                tied if loses else "-",
                f"{lost:.2f}" if loses else "-",
                "-" if np.isnan(channel.selectivity) else f"{channel.selectivity:.2f}",
            )
        )
    return table(rows).splitlines()


def _figures(
    ranked: Sequence[Channel],
    by_layer: Mapping[str, Sequence[Channel]],
    field_by_layer: Mapping[str, Field],
    setting: str,
    subject: Subject,
) -> Figures:
    num_channels = sum(map(len, by_layer.values()))
    total = "" if len(ranked) == num_channels else f" ({num_channels} in total)"
    changing = [c for c in ranked if np.nan_to_num(c.acc_change_per_class).any()]
    shown = (changing or ranked)[:NUM_RANKED]
    some = f"{len(shown)} of " * (len(shown) < len(changing))
    which = f"{some}the {len(changing)} whose removal changes the accuracy of a class"
    if not changing:
        which = "no removal changes the accuracy of a class"
    title = (
        "Which channels matter: accuracy lost in total and by class when a channel is removed\n"
        f"{len(ranked)} channels removed one at a time{total}: {which}; {setting}"
    )
    yield "index", index_figure(shown, subject.class_names, title)
    searched = f" (searched for the activating images: all {len(subject.labels):,})"
    limits = {
        name: float(max(np.abs(channel.weights).max() for channel in channels)) or 1.0
        for name, channels in by_layer.items()
    }
    layers = convolutions(subject.network)
    for rank, channel in enumerate(ranked, start=1):
        field = field_by_layer[channel.layer]
        peaks = zip(channel.best, channel.places, channel.peaks, strict=True)
        patches = [
            Patch(
                crop(subject.images[index].numpy(), field, position),
                subject.class_names[int(subject.labels[index])],
                float(peak),
            )
            for index, position, peak in peaks
        ]
        costs = f"rank {rank} of {len(ranked)} by the accuracy lost without it"
        if channel.acc_change >= 0:
            costs = "no accuracy is lost without it"
        title = (
            f"{channel.layer}, channel {channel.index}: {costs}\n{setting}{searched}; "
            "selectivity: 0 is all classes equally, 1 one class only"
        )
        yield channel.card, card_figure(
            channel, patches, subject.class_names,
            field_size=field.size, limit=limits[channel.layer], title=title,
            in_color=reads_color(subject.network, layers[channel.layer]),
        )  # fmt: skip
