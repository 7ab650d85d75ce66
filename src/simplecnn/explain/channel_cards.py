"""One card a channel: its weights, what excites it, which class it is for, what breaks without it.

Removing a channel is an experiment; everything else on the card is what one sees beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.errors import InputError
from simplecnn.explain.findings import Figures, Findings
from simplecnn.explain.removal import logits_without
from simplecnn.explain.subject import BATCH, Subject, logits
from simplecnn.figures.unit_cards import Card, Patch, card_figure, index_figure
from simplecnn.models.activations import convolutions, feature_maps
from simplecnn.receptive_field.fields import Field, receptive_fields

NUM_BEST = 9  # images that excite a channel most
NUM_BINS = 40


@dataclass(frozen=True)
class LayerRecord:
    """What one pass over images tells of each of the M channels of a convolution.

    Activations are those after the non-linearity. The peak of a channel on an image is its
    largest activation over all positions.
    """

    weights: NDArray  # (M, C, K, L)
    best: NDArray  # (M, 9) the images with the highest peaks, different ones, best first
    peaks: NDArray  # (M, 9) their peaks
    places: NDArray  # (M, 9, 2) row and column of the peak in the map
    class_means: NDArray  # (M, classes) mean activation on the images of a class
    edges: NDArray  # (M, bins + 1) of the histogram
    counts: NDArray  # (M, bins) activations at all positions of all images

    @property
    def dead(self) -> NDArray:
        """(M,) channels that are zero everywhere on all images."""
        return (self.edges[:, 0] == 0) & (self.edges[:, -1] == 0)

    @property
    def selectivity(self) -> NDArray:
        """(M,) from 0, alike for all classes, to 1, active on one class alone; NaN if never active.

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

    acc: float
    acc_per_class: NDArray  # (classes,), NaN for a class without images
    loss: float


def unit_cards(
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
    names = chosen_layers(network, layers)
    fields = layer_fields(network, tuple(subject.images.shape[1:]))
    names = [name for name in names if name in fields]
    sample, labels = subject.sample(num_images, seed=seed)
    records = record_layers(network, subject.images, sample, labels, names, subject.num_classes)
    chosen = most_active(records, num_cards)
    before = logits(network, sample)
    effects = {
        (name, channel): effect
        for name in names
        if chosen[name]
        for channel, effect in zip(
            chosen[name],
            effects_of_removal(
                before,
                logits_without(network, sample, layer=name, channels=chosen[name]),
                labels,
                num_classes=subject.num_classes,
            ),
            strict=True,
        )
    }
    ranked = sorted(effects, key=lambda unit: (effects[unit].acc, -effects[unit].loss))
    num_units = sum(len(records[name].weights) for name in names)
    accuracy = float((before.argmax(1) == labels).float().mean())
    setting = f"{len(labels):,} of {len(subject.labels):,} test images of {subject.data_name}"
    return Findings(
        lines=_lines(ranked, effects, records, num_units, accuracy, setting, subject),
        record={
            "subject": subject.name,
            "num_images": len(labels),
            "num_searched": len(subject.labels),
            "num_units": num_units,
            "num_cards": len(ranked),
            "acc": accuracy,
            "units": [_row(u, effects[u], records[u[0]], subject.class_names) for u in ranked],
        },
        arrays=_arrays(records, effects, chosen),
        figures=_figures(ranked, effects, records, fields, num_units, setting, subject),
    )


def chosen_layers(network: nn.Module, layers: str | Sequence[str]) -> list[str]:
    """The convolutions that `layers` names: all, first, last, or a list. Raises InputError."""
    there = list(convolutions(network))
    if not there:
        raise InputError(f"{type(network).__name__} has no 2-D convolution to look at.")
    if isinstance(layers, str):
        known = {"all": there, "first": there[:1], "last": there[-1:], **{n: [n] for n in there}}
        layers = known.get(layers, [layers])
    for name in layers:
        if name not in there:
            raise InputError(
                f"There is no convolution {name}: all, first, last, or of {', '.join(there)}."
            )
    return list(layers)


def layer_fields(network: nn.Module, size: Sequence[int]) -> dict[str, Field]:
    """The receptive fields by the names of the convolutions, of the last call of each."""
    fields = receptive_fields(network, size)
    found = {}
    for name in convolutions(network):
        calls = [name, *(f"{name}_{i}" for i in range(1, len(fields)))]
        there = [call for call in calls if call in fields]
        if there:
            found[name] = fields[there[-1]]
    return found


def record_layers(
    network: nn.Module,
    images: Tensor,
    sample: Tensor,
    labels: Tensor,
    names: Sequence[str],
    num_classes: int,
) -> dict[str, LayerRecord]:
    """The best of `images`, and histograms and class means of `sample` with its `labels`."""
    best = _best_images(network, images, names)
    low = {name: torch.full((_width(network, name),), torch.inf) for name in names}
    high = {name: -low[name] for name in names}
    sums = {name: torch.zeros(_width(network, name), num_classes) for name in names}
    for part, answers in zip(sample.split(BATCH), labels.split(BATCH), strict=True):
        maps, _ = feature_maps(network, part)
        members = functional.one_hot(answers, num_classes).float()
        for name in names:
            values = maps[name].flatten(2)
            low[name] = torch.minimum(low[name], values.amin((0, 2)))
            high[name] = torch.maximum(high[name], values.amax((0, 2)))
            sums[name] += values.mean(2).T @ members
    counts = {name: torch.zeros(_width(network, name), NUM_BINS) for name in names}
    for part in sample.split(BATCH):
        maps, _ = feature_maps(network, part)
        for name in names:
            counts[name] += _histograms(maps[name], low[name], high[name])
    num_per_class = torch.bincount(labels, minlength=num_classes).clamp(min=1)
    weights = convolutions(network)
    return {
        name: LayerRecord(
            weights[name].weight.detach().numpy(),
            *best[name],
            class_means=(sums[name] / num_per_class).numpy(),
            edges=np.linspace(low[name].numpy(), high[name].numpy(), NUM_BINS + 1, axis=1),
            counts=counts[name].numpy(),
        )
        for name in names
    }


def effects_of_removal(
    before: Tensor, without: Tensor, labels: Tensor, *, num_classes: int
) -> list[Effect]:
    """From the logits (N, classes) of the whole network and (M, N, classes) without channels."""
    right = (before.argmax(1) == labels).double()
    loss = functional.cross_entropy(before, labels)
    members = functional.one_hot(labels, num_classes).double()
    counts = members.sum(0)
    effects = []
    for answers in without:
        change = (answers.argmax(1) == labels).double() - right
        per_class = (change @ members / counts).numpy()  # 0 / 0 is NaN
        worse = float(functional.cross_entropy(answers, labels) - loss)
        effects.append(Effect(float(change.mean()), per_class, worse))
    return effects


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
    patch = np.full((len(image), bottom - top + 1, right - left + 1), np.nan, np.float32)
    rows = slice(max(top, 0), min(bottom, height - 1) + 1)
    columns = slice(max(left, 0), min(right, width - 1) + 1)
    inside = image[:, rows, columns]
    y, x = max(-top, 0), max(-left, 0)
    patch[:, y : y + inside.shape[1], x : x + inside.shape[2]] = inside
    return patch


def _width(network: nn.Module, name: str) -> int:
    return convolutions(network)[name].out_channels


def _best_images(
    network: nn.Module, images: Tensor, names: Sequence[str]
) -> dict[str, tuple[NDArray, NDArray, NDArray]]:
    found: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
    widths: dict[str, int] = {}
    for start in range(0, len(images), BATCH):
        maps, _ = feature_maps(network, images[start : start + BATCH])
        for name in names:
            values = maps[name].flatten(2)
            widths[name] = maps[name].shape[3]
            peaks, places = values.max(2)  # (B, M)
            which = torch.arange(start, start + len(values))[:, None].expand_as(peaks)
            if name in found:
                before = found[name]
                peaks, which, places = (
                    torch.cat([a, b]) for a, b in zip(before, (peaks, which, places), strict=True)
                )
            order = peaks.argsort(dim=0, descending=True, stable=True)[:NUM_BEST]
            found[name] = (peaks.gather(0, order), which.gather(0, order), places.gather(0, order))
    return {
        name: (
            which.T.numpy(),
            peaks.T.numpy(),
            np.stack(np.divmod(places.T.numpy(), widths[name]), -1),
        )
        for name, (peaks, which, places) in found.items()
    }


def _histograms(maps: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Counts (M, bins) of the values (N, M, H, W) of each channel between its own ends."""
    width = (high - low).clamp(min=1e-30)
    values = maps.flatten(2).transpose(0, 1).flatten(1)  # (M, all)
    bins = ((values - low[:, None]) / width[:, None] * NUM_BINS).long().clamp_(0, NUM_BINS - 1)
    offset = torch.arange(len(bins))[:, None] * NUM_BINS
    counted = torch.bincount((bins + offset).flatten(), minlength=len(bins) * NUM_BINS)
    return counted.view(len(bins), NUM_BINS).float()


def _row(
    unit: tuple[str, int], effect: Effect, record: LayerRecord, class_names: Sequence[str]
) -> dict[str, object]:
    name, channel = unit
    selectivity = float(record.selectivity[channel])
    return {
        "layer": name,
        "channel": channel,
        "card": card_name(unit),
        "acc_change": round(effect.acc, 6),
        "loss_change": round(effect.loss, 6),
        "acc_change_per_class": {
            c: None if np.isnan(x) else round(float(x), 6)
            for c, x in zip(class_names, effect.acc_per_class, strict=True)
        },
        "dead": bool(record.dead[channel]),
        "selectivity": None if np.isnan(selectivity) else round(selectivity, 4),
        "preferred_class": class_names[int(record.class_means[channel].argmax())],
        "best_images": record.best[channel].tolist(),
    }


def card_name(unit: tuple[str, int]) -> str:
    return f"{unit[0].replace('.', '_')}_{unit[1]:03d}"


def _arrays(
    records: dict[str, LayerRecord],
    effects: dict[tuple[str, int], Effect],
    chosen: dict[str, list[int]],
) -> dict[str, NDArray]:
    arrays: dict[str, NDArray] = {}
    for name, record in records.items():
        for key in ("weights", "best", "peaks", "places", "class_means", "edges", "counts"):
            arrays[f"{name}/{key}"] = getattr(record, key)
        ours = [effects[name, channel] for channel in chosen[name]]
        arrays[f"{name}/removed"] = np.array(chosen[name])
        arrays[f"{name}/acc_change"] = np.array([e.acc for e in ours])
        arrays[f"{name}/loss_change"] = np.array([e.loss for e in ours])
        arrays[f"{name}/acc_change_per_class"] = np.array([e.acc_per_class for e in ours])
    return arrays


def _lines(
    ranked: Sequence[tuple[str, int]],
    effects: dict[tuple[str, int], Effect],
    records: dict[str, LayerRecord],
    num_units: int,
    accuracy: float,
    setting: str,
    subject: Subject,
) -> list[str]:
    lines = [f"accuracy {100 * accuracy:.2f} % on {setting}; one channel removed at a time:"]
    for unit in ranked[:5]:
        effect, record = effects[unit], records[unit[0]]
        worst = int(np.nan_to_num(effect.acc_per_class).argmin())
        lines.append(
            f"{unit[0]} {unit[1]:>3}: accuracy {100 * effect.acc:+.2f} points, "
            f"class {subject.class_names[worst]} {100 * effect.acc_per_class[worst]:+.2f}; "
            f"selectivity {record.selectivity[unit[1]]:.2f}"
        )
    dead = sum(int(record.dead.sum()) for record in records.values())
    harmless = sum(effect.acc >= 0 for effect in effects.values())
    lines.append(
        f"{len(ranked)} of {num_units} channels removed: {harmless} of them cost no accuracy; "
        f"{dead} of {num_units} are dead"
    )
    return lines


def _figures(
    ranked: Sequence[tuple[str, int]],
    effects: dict[tuple[str, int], Effect],
    records: dict[str, LayerRecord],
    fields: dict[str, Field],
    num_units: int,
    setting: str,
    subject: Subject,
) -> Figures:
    shown = ranked[:40]
    of_all = "" if len(ranked) == num_units else f", of {num_units} in all"
    yield (
        "index",
        index_figure(
            [f"{name} {channel}" for name, channel in shown],
            np.array([effects[unit].acc_per_class for unit in shown]),
            np.array([effects[unit].acc for unit in shown]),
            np.array([records[name].selectivity[channel] for name, channel in shown]),
            [
                subject.class_names[int(records[name].class_means[channel].argmax())]
                for name, channel in shown
            ],
            class_names=subject.class_names,
            title=(
                f"Which channels matter: accuracy lost without them\n"
                f"the first {len(shown)} by effect, of {len(ranked)} removed{of_all}; {setting}"
            ),
        ),
    )
    for rank, unit in enumerate(ranked, start=1):
        name, channel = unit
        record, effect = records[name], effects[unit]
        yield (
            card_name(unit),
            card_figure(
                Card(
                    title=f"{name}, channel {channel}",
                    note=f"rank {rank} of {len(ranked)} by effect; {setting}",
                    weights=record.weights[channel],
                    limit=float(np.abs(record.weights).max()),
                    patches=list(_patches(subject, record, fields[name], channel)),
                    field_size=fields[name].size,
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
            ),
        )


def _patches(subject: Subject, record: LayerRecord, field: Field, channel: int) -> Iterator[Patch]:
    for i in range(record.best.shape[1]):
        index = int(record.best[channel, i])
        yield Patch(
            crop(subject.images[index].numpy(), field, record.places[channel, i]),
            label=subject.class_names[int(subject.labels[index])],
            value=float(record.peaks[channel, i]),
        )
