"""One card a channel: its weights, what excites it, which class it is for, what breaks without it.

Removing a channel is an experiment; everything else on the card is what one sees beside it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.errors import InputError
from simplecnn.explain.findings import Figures, Findings
from simplecnn.explain.subject import BATCH, Subject, logits
from simplecnn.figures.explain.channel_cards import Card, Patch, card_figure, index_figure
from simplecnn.models.activations import convolutions, feature_maps, removed
from simplecnn.receptive_field.fields import Field, receptive_fields
from simplecnn.table import table

NUM_BEST = 9  # images that excite a channel most
NUM_BINS = 40
NUM_RANKED = 40  # channels in the index


@dataclass(frozen=True)
class LayerRecord:
    """What images tell of each of the M channels of a convolution.

    Activations are those after the non-linearity. The peak of a channel on an image is its
    largest activation over all positions.
    """

    weights: NDArray  # (M, C, K, L)
    best: NDArray  # (M, 9) the images with the highest peaks, different ones, best first
    peaks: NDArray  # (M, 9) their peaks
    places: NDArray  # (M, 9, 2) row and column of the peak in the map
    class_means: NDArray  # (M, classes) mean activation on the images of a class
    edges: NDArray  # (M, bins + 1) of the histogram, from the lowest to the highest activation
    counts: NDArray  # (M, bins) activations at all positions of the sample

    @property
    def dead(self) -> NDArray:
        """(M,) channels that are zero everywhere on all images."""
        return (self.edges[:, 0] == 0) & (self.edges[:, -1] == 0)

    @property
    def selectivity(self) -> NDArray:
        """(M,) from 0, alike for all classes, to 1, active on one class only; NaN if never active.

        (a - b) / (a + b), a the mean of the class with the highest, b the mean over the others.
        Morcos et al., "On the importance of single directions for generalization", ICLR 2018.
        """
        means = np.maximum(self.class_means, 0)
        a = means.max(1)
        b = (means.sum(1) - a) / max(1, means.shape[1] - 1)
        with np.errstate(invalid="ignore"):
            return (a - b) / (a + b)


@dataclass(frozen=True)
class Effect:
    """What changes when a channel is removed; accuracies in shares from 0 to 1."""

    layer: str
    channel: int
    acc: float
    acc_per_class: NDArray  # (classes,), NaN for a class without images
    loss: float

    @property
    def card(self) -> str:
        """The name of its picture."""
        return f"{self.layer.replace('.', '_')}_{self.channel:03d}"


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
    network = subject.network
    of_layer = layer_fields(network, tuple(subject.images.shape[1:]))
    names = [name for name in chosen_layers(network, layers) if name in of_layer]
    images, labels = subject.sample(num_images, seed=seed)
    records = record_layers(network, subject.images, images, labels, names, subject.num_classes)
    num_channels = sum(len(record.weights) for record in records.values())
    before = logits(network, images)
    effects = [
        effect_of_removal(network, images, labels, before, name, channel, subject.num_classes)
        for name, channels in most_active(records, num_cards).items()
        for channel in channels
    ]
    effects.sort(key=lambda effect: (effect.acc, -effect.loss))
    accuracy = float((before.argmax(1) == labels).float().mean())
    setting = f"{len(labels):,} of {len(subject.labels):,} test images of {subject.data_name}"
    return Findings(
        lines=[
            f"accuracy {100 * accuracy:.2f} % on {setting}; one channel removed at a time:",
            *_lines(effects, records, num_channels, subject.class_names),
        ],
        record={
            "subject": subject.name,
            "num_images": len(labels),
            "num_searched": len(subject.labels),
            "num_channels": num_channels,
            "num_cards": len(effects),
            "acc": accuracy,
            "channels": [_row(e, records[e.layer], subject.class_names) for e in effects],
        },
        arrays=_arrays(records, effects),
        figures=_figures(effects, records, of_layer, num_channels, setting, subject),
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
    all_fields = receptive_fields(network, size)
    by_layer = {}
    for name in convolutions(network):
        calls = [name, *(f"{name}_{i}" for i in range(1, len(all_fields)))]
        calls = [call for call in calls if call in all_fields]
        if calls:
            by_layer[name] = all_fields[calls[-1]]
    return by_layer


def record_layers(
    network: nn.Module,
    images: Tensor,
    sample: Tensor,
    labels: Tensor,
    names: Sequence[str],
    num_classes: int,
) -> dict[str, LayerRecord]:
    """The best of `images`, and histograms and class means of `sample` with its `labels`."""
    peaks: dict[str, list[Tensor]] = {name: [] for name in names}  # (N, M) each
    places: dict[str, list[Tensor]] = {name: [] for name in names}
    lows: dict[str, list[Tensor]] = {name: [] for name in names}
    widths = {}
    for part in images.split(BATCH):
        maps, _ = feature_maps(network, part)
        for name in names:
            widths[name] = maps[name].shape[3]
            values = maps[name].flatten(2)
            largest, place = values.max(2)
            peaks[name].append(largest)
            places[name].append(place)
            lows[name].append(values.amin((0, 2)))
    low = {name: torch.stack(lows[name]).amin(0) for name in names}
    high = {name: torch.cat(peaks[name]).amax(0) for name in names}
    sums = {name: torch.zeros(len(low[name]), num_classes) for name in names}
    counts = {name: torch.zeros(len(low[name]), NUM_BINS) for name in names}
    for part, answers in zip(sample.split(BATCH), labels.split(BATCH), strict=True):
        maps, _ = feature_maps(network, part)
        members = functional.one_hot(answers, num_classes).float()
        for name in names:
            sums[name] += maps[name].mean((2, 3)).T @ members
            counts[name] += _histograms(maps[name], low[name], high[name])
    num_per_class = torch.bincount(labels, minlength=num_classes).clamp(min=1)
    layers = convolutions(network)
    records = {}
    for name in names:
        all_peaks = torch.cat(peaks[name])
        best = all_peaks.argsort(dim=0, descending=True, stable=True)[:NUM_BEST]
        peak_at = torch.cat(places[name]).gather(0, best).T.numpy()
        records[name] = LayerRecord(
            layers[name].weight.detach().numpy(),
            best=best.T.numpy(),
            peaks=all_peaks.gather(0, best).T.numpy(),
            places=np.stack(np.divmod(peak_at, widths[name]), -1),
            class_means=(sums[name] / num_per_class).numpy(),
            edges=np.linspace(low[name].numpy(), high[name].numpy(), NUM_BINS + 1, axis=1),
            counts=counts[name].numpy(),
        )
    return records


def effect_of_removal(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    before: Tensor,
    layer: str,
    channel: int,
    num_classes: int,
) -> Effect:
    """What the network answers without a channel, compared with its logits `before`."""
    with removed(network, layer, channel):
        without = logits(network, images)
    change = (without.argmax(1) == labels).double() - (before.argmax(1) == labels).double()
    members = functional.one_hot(labels, num_classes).double()
    per_class = (change @ members / members.sum(0)).numpy()  # 0 / 0 is NaN
    worse = functional.cross_entropy(without, labels) - functional.cross_entropy(before, labels)
    return Effect(layer, channel, float(change.mean()), per_class, float(worse))


def most_active(records: dict[str, LayerRecord], num_cards: int) -> dict[str, list[int]]:
    """The channels that get a card: all, or of each layer its share, those with most activity."""
    total = sum(len(record.weights) for record in records.values())
    chosen = {}
    for name, record in records.items():
        width = len(record.weights)
        share = width if total <= num_cards else max(1, width * num_cards // total)
        activity = np.abs(record.class_means).mean(1)
        chosen[name] = sorted(np.argsort(-activity, kind="stable")[:share].tolist())
    return chosen


def crop(image: NDArray, field: Field, place: Sequence[int]) -> NDArray:
    """What the unit at `place` sees of an image (C, H, W): (C, h, w), NaN in the padding.

    A field larger than the image is cut at the image's border.
    """
    (top, bottom), (left, right) = field.interval((int(place[0]), int(place[1])))
    height, width = image.shape[1:]
    if bottom - top + 1 > height:
        top, bottom = max(top, 0), min(bottom, height - 1)
    if right - left + 1 > width:
        left, right = max(left, 0), min(right, width - 1)
    rows, columns = np.arange(top, bottom + 1), np.arange(left, right + 1)
    patch = image[:, rows.clip(0, height - 1)][:, :, columns.clip(0, width - 1)].astype(np.float32)
    patch[:, (rows < 0) | (rows >= height)] = np.nan
    patch[:, :, (columns < 0) | (columns >= width)] = np.nan
    return patch


def _histograms(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Counts (M, bins) of the values (N, M, H, W) of each channel between its own ends."""
    width = (high - low).clamp(min=1e-30)
    values = maps.flatten(2).transpose(0, 1).flatten(1)  # (M, all)
    bins = ((values - low[:, None]) / width[:, None] * NUM_BINS).long().clamp_(0, NUM_BINS - 1)
    offset = torch.arange(len(bins))[:, None] * NUM_BINS
    counted = torch.bincount((bins + offset).flatten(), minlength=len(bins) * NUM_BINS)
    return counted.view(len(bins), NUM_BINS).float()


def _row(effect: Effect, record: LayerRecord, class_names: Sequence[str]) -> dict[str, object]:
    selectivity = float(record.selectivity[effect.channel])
    return {
        "layer": effect.layer,
        "channel": effect.channel,
        "card": effect.card,
        "acc_change": round(effect.acc, 6),
        "loss_change": round(effect.loss, 6),
        "acc_change_per_class": {
            c: None if np.isnan(x) else round(float(x), 6)
            for c, x in zip(class_names, effect.acc_per_class, strict=True)
        },
        "dead": bool(record.dead[effect.channel]),
        "selectivity": None if np.isnan(selectivity) else round(selectivity, 4),
        "preferred_class": _preferred(record, effect.channel, class_names),
        "best_images": record.best[effect.channel].tolist(),
    }


def _preferred(record: LayerRecord, channel: int, class_names: Sequence[str]) -> str:
    return class_names[int(record.class_means[channel].argmax())]


def _arrays(records: dict[str, LayerRecord], effects: Sequence[Effect]) -> dict[str, NDArray]:
    arrays: dict[str, NDArray] = {}
    for name, record in records.items():
        arrays |= {f"{name}/{f.name}": getattr(record, f.name) for f in fields(record)}
        ours = sorted((e for e in effects if e.layer == name), key=lambda e: e.channel)
        arrays[f"{name}/removed"] = np.array([e.channel for e in ours])
        arrays[f"{name}/acc_change"] = np.array([e.acc for e in ours])
        arrays[f"{name}/loss_change"] = np.array([e.loss for e in ours])
        arrays[f"{name}/acc_change_per_class"] = np.array([e.acc_per_class for e in ours])
    return arrays


def _lines(
    effects: Sequence[Effect],
    records: dict[str, LayerRecord],
    num_channels: int,
    class_names: Sequence[str],
) -> list[str]:
    rows = [("channel", "accuracy, points", "most lost of a class", "selectivity (0 to 1)")]
    for effect in effects[:5]:
        worst = int(np.nan_to_num(effect.acc_per_class).argmin())
        rows.append(
            (
                f"{effect.layer} {effect.channel}",
                f"{100 * effect.acc:+.2f}",
                f"{class_names[worst]} {100 * effect.acc_per_class[worst]:+.2f}",
                f"{records[effect.layer].selectivity[effect.channel]:.2f}",
            )
        )
    dead = sum(int(record.dead.sum()) for record in records.values())
    harmless = sum(effect.acc >= 0 for effect in effects)
    return [
        *table(rows).splitlines(),
        f"{len(effects)} of {num_channels} channels removed: {harmless} of them cost no accuracy; "
        f"{dead} of {num_channels} are dead",
    ]


def _figures(
    effects: Sequence[Effect],
    records: dict[str, LayerRecord],
    of_layer: dict[str, Field],
    num_channels: int,
    setting: str,
    subject: Subject,
) -> Figures:
    shown = effects[:NUM_RANKED]
    of_all = "" if len(effects) == num_channels else f", of {num_channels} in all"
    yield (
        "index",
        index_figure(
            [f"{e.layer} {e.channel}" for e in shown],
            np.array([e.acc_per_class for e in shown]),
            np.array([e.acc for e in shown]),
            np.array([records[e.layer].selectivity[e.channel] for e in shown]),
            [_preferred(records[e.layer], e.channel, subject.class_names) for e in shown],
            class_names=subject.class_names,
            title=f"Which channels matter: accuracy lost without them\nthe first {len(shown)} by "
            f"effect, of {len(effects)} removed{of_all}; {setting}",
        ),
    )
    for rank, effect in enumerate(effects, start=1):
        record, field, channel = records[effect.layer], of_layer[effect.layer], effect.channel
        patches = [
            Patch(
                crop(subject.images[index].numpy(), field, place),
                subject.class_names[int(subject.labels[index])],
                float(peak),
            )
            for index, place, peak in zip(
                record.best[channel].tolist(), record.places[channel], record.peaks[channel],
                strict=True,
            )
        ]  # fmt: skip
        card = Card(
            title=f"{effect.layer}, channel {channel}: number {rank} of {len(effects)} by what "
            f"breaks without it\n{setting}; selectivity: 0 all classes alike, 1 one class only",
            weights=record.weights[channel],
            limit=float(np.abs(record.weights).max()) or 1.0,
            patches=patches,
            field_size=field.size,
            edges=record.edges[channel],
            counts=record.counts[channel],
            class_names=subject.class_names,
            class_means=record.class_means[channel],
            selectivity=float(record.selectivity[channel]),
            acc_per_class=effect.acc_per_class,
            acc=effect.acc,
            loss=effect.loss,
            dead=bool(record.dead[channel]),
        )
        yield effect.card, card_figure(card)
