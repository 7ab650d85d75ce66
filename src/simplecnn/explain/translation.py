"""What happens to a network's answers, and to its maps, when the image moves: the ledger.

Equivariant means that a map moves along with the image; invariant, that it stays as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simplecnn.explain.findings import Findings
from simplecnn.explain.intervals import Interval, mean_interval, share_interval
from simplecnn.explain.subject import Subject, file_name, groups, logits, mean_over
from simplecnn.figures.translation import (
    LayerLine,
    ShiftMap,
    layers_figure,
    ledger_figure,
    shift_maps_figure,
)
from simplecnn.receptive_field.fields import Field, receptive_fields
from simplecnn.receptive_field.trace import named_outputs

NEAR = 4  # pixels: shifts in which an image of MNIST loses no ink
MIN_NORM = 1e-12


@dataclass(frozen=True)
class Shifts:
    """The answers to images moved by every (dy, dx) from -reach to reach pixels."""

    reach: int
    answers: NDArray  # (2 reach + 1, 2 reach + 1, N) predicted class; rows are dy, columns dx
    labels: NDArray  # (N,)
    ink: NDArray  # (2 reach + 1, 2 reach + 1) share of the ink that is still in the image

    @property
    def accuracy(self) -> NDArray:
        """(2 reach + 1, 2 reach + 1)"""
        return (self.answers == self.labels).mean(-1)

    def near(self, distance: int = NEAR) -> NDArray:
        """(shifts, N) the answers to shifts of at most so many pixels to either side."""
        window = slice(max(0, self.reach - distance), self.reach + min(distance, self.reach) + 1)
        return self.answers[window, window].reshape(-1, self.answers.shape[-1])

    def consistencies(self, distance: int = NEAR) -> NDArray:
        """(N,) how often two random shifts of an image by at most `distance` get one answer.

        Exact: the sum of squared shares of each answer. Zhang, "Making Convolutional Networks
        Shift-Invariant Again", ICML 2019, draws the pairs instead.
        """
        near = self.near(distance)
        return sum((near == c).mean(0) ** 2 for c in np.unique(near))

    def consistency(self, distance: int = NEAR) -> float:
        """The mean of `consistencies`."""
        return float(self.consistencies(distance).mean())

    def near_accuracies(self, distance: int = NEAR) -> NDArray:
        """(N,) the share of shifts by at most `distance` with the right answer."""
        return (self.near(distance) == self.labels).mean(0)


@dataclass(frozen=True)
class LayerError:
    """By how much a layer's map differs from the unmoved one, for horizontal and vertical shifts
    of 0 to reach pixels: norm of the difference to norm of the map, over all images."""

    jump: int | Fraction  # pixels between units
    all_units: NDArray  # (reach + 1,) against the map moved along, borders included
    interior: NDArray  # the same for units that see no border before or after; NaN without any
    unmoved: NDArray  # against the map left where it was: 0 would be invariance
    num_interior: NDArray  # (reach + 1,) positions


@dataclass
class Ledger:
    """The measurements of one network."""

    subject: Subject
    shifts: Shifts
    layers: dict[str, LayerError] = field(default_factory=dict)


def translation(
    subjects: Sequence[Subject],
    *,
    num_images: int = 500,
    num_maps: int = 100,
    reach: int = 8,
    seed: int = 0,
) -> Findings:
    """The ledger of one network, or of several that are compared by what a sweep varied.

    Accuracies take `num_images` test images of each network, the maps of the layers `num_maps`.
    """
    ledgers = [
        measure(s, num_images=num_images, num_maps=num_maps, reach=reach, seed=seed)
        for s in subjects
    ]
    return findings(ledgers)


def measure(subject: Subject, *, num_images: int, num_maps: int, reach: int, seed: int) -> Ledger:
    """All that the ledger says of one network."""
    images, labels = subject.sample(num_images, seed=seed)
    few, _ = subject.sample(num_maps, seed=seed)
    return Ledger(
        subject,
        measure_shifts(subject.network, images, labels, reach=reach),
        equivariance_errors(subject.network, few, reach=reach),
    )


def shifted(images: Tensor, dy: int, dx: int) -> Tensor:
    """Images (N, C, H, W) moved down by dy and to the right by dx pixels; zeros come in."""
    height, width = images.shape[-2:]
    moved = torch.zeros_like(images)
    if abs(dy) < height and abs(dx) < width:
        moved[..., max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = images[
            ..., max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
        ]
    return moved


def measure_shifts(network: nn.Module, images: Tensor, labels: Tensor, *, reach: int) -> Shifts:
    """The network's answers to every shift of `images` up to `reach` pixels."""
    steps = range(-reach, reach + 1)
    answers = np.empty((len(steps), len(steps), len(images)), np.int16)
    ink = np.empty(answers.shape[:2])
    total = float(images.sum()) or 1.0
    for i, dy in enumerate(steps):
        for j, dx in enumerate(steps):
            moved = shifted(images, dy, dx)
            answers[i, j] = logits(network, moved).argmax(1).numpy()
            ink[i, j] = float(moved.sum()) / total
    return Shifts(reach, answers, labels.numpy(), ink)


def equivariance_errors(network: nn.Module, images: Tensor, *, reach: int) -> dict[str, LayerError]:
    """For every layer whose units lie on a grid with one step in both directions.

    Where a shift is no multiple of the step, a map can only move by a fraction: it is compared
    with the unmoved map interpolated between its two neighbouring places.
    """
    fields = {
        name: f
        for name, f in receptive_fields(network, tuple(images.shape[1:])).items()
        if _comparable(f)
    }
    still = _maps(network, images, fields)
    totals = {n: np.zeros((3, reach + 1, 2)) for n in fields}  # all, interior, unmoved; sums
    counted = {n: np.zeros(reach + 1, int) for n in fields}
    for axis in (0, 1):
        for shift in range(reach + 1):
            dy, dx = (shift, 0) if axis == 0 else (0, shift)
            moved = _maps(network, shifted(images, dy, dx), fields)
            for name, f in fields.items():
                sums, num = _differences(still[name], moved[name], f, axis, shift)
                totals[name][:, shift] += sums
                counted[name][shift] += num
    errors = {}
    for name, f in fields.items():
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.sqrt(totals[name][..., 0] / np.maximum(totals[name][..., 1], MIN_NORM))
        ratio[1][counted[name] == 0] = np.nan
        jump = f.stride[0]
        assert jump is not None
        errors[name] = LayerError(jump, ratio[0], ratio[1], ratio[2], counted[name])
    return errors


def _comparable(f: Field) -> bool:
    on_grid = all(axis.dim is not None and axis.inner == 1 for axis in f.axes)
    dims = {axis.dim for axis in f.axes}
    return (
        on_grid and len(dims) == 2 and bool(f.stride[0]) and f.stride[0] == f.stride[1]
        and not f.misaligned and min(f.units) > 1
    )  # fmt: skip


@torch.no_grad()
def _maps(network: nn.Module, images: Tensor, fields: Mapping[str, Field]) -> dict[str, Tensor]:
    """Outputs with the rows of units second to last and the columns last."""
    found: dict[str, Tensor] = {}

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if name in fields:
            dims = [axis.dim for axis in fields[name].axes]
            places = [d for d in dims if d is not None]
            found[name] = output.movedim(places, (-2, -1)).clone()  # ReLU may work in place

    with named_outputs(network, receive):
        network(images)
    return found


def _differences(
    still: Tensor, moved: Tensor, f: Field, axis: int, shift: int
) -> tuple[NDArray, int]:
    """Sums (all, interior, unmoved) x (squared differences, squared norm), interior positions."""
    jump = f.stride[axis]
    assert jump is not None
    step = Fraction(shift) / Fraction(jump)
    whole, rest = divmod(step, 1)
    dim = still.dim() - 2 + axis
    length = still.shape[dim]
    first = int(whole) + (rest > 0)  # the first unit whose old places exist
    unmoved = [float(((moved - still) ** 2).sum()), float((still**2).sum())]
    if first >= length:
        return np.array([[0.0, 0.0], [0.0, 0.0], unmoved]), 0
    ours = moved.narrow(dim, first, length - first)
    near = still.narrow(dim, first - int(whole), length - first)
    if rest:
        far = still.narrow(dim, first - int(whole) - 1, length - first)
        near = (1 - float(rest)) * near + float(rest) * far
    inside = _interior(f, axis, shift, first)
    sums = [[float(((ours - near) ** 2).sum()), float((near**2).sum())]]
    ours, near = ours[..., inside[0], :][..., inside[1]], near[..., inside[0], :][..., inside[1]]
    sums += [[float(((ours - near) ** 2).sum()), float((near**2).sum())], unmoved]
    return np.array(sums), int(inside[0].sum() * inside[1].sum())


def _interior(f: Field, axis: int, shift: int, first: int) -> list[Tensor]:
    """Which rows and columns of units saw nothing but the image before the shift and see nothing
    else after it; along `axis` counted from `first`."""
    kept = []
    for k in (0, 1):
        last_pixel = f.image_size[k] - 1
        flags = []
        for unit in range(first if k == axis else 0, f.units[k]):
            low, high = f.interval((unit, 0) if k == 0 else (0, unit))[k]
            before = low - (shift if k == axis else 0)
            flags.append(before >= 0 and high <= last_pixel)
        kept.append(torch.tensor(flags, dtype=torch.bool))
    return kept


def findings(ledgers: Sequence[Ledger]) -> Findings:
    """Maps, errors by layer, and for several networks the ledger that compares them."""
    places = groups([ledger.subject for ledger in ledgers])
    grouped = {title: [ledgers[i] for i in own] for title, own in places.items()}
    reach, num = ledgers[0].shifts.reach, len(ledgers[0].shifts.labels)
    setting = f"n = {num:,} test images of {ledgers[0].subject.data_name}{mean_over(places)}"
    maps = [
        ShiftMap(
            title,
            100 * np.mean([m.shifts.accuracy for m in members], 0),
            np.mean([m.shifts.ink for m in members], 0),
            f"consistency {100 * np.mean([m.shifts.consistency() for m in members]):.2f} %",
        )
        for title, members in grouped.items()
    ]
    figures = [
        ("accuracy_by_shift", shift_maps_figure(maps, reach=reach, near=NEAR, setting=setting))
    ]
    for title, members in grouped.items():
        lines = _layer_lines([m.layers for m in members])
        if lines:
            name = "layers" if len(grouped) == 1 else f"layers_{file_name(title)}"
            figures.append((name, layers_figure(lines, title=title, num_networks=len(members))))
    rows = {
        title: _numbers(members, over_images=len(ledgers) == 1)
        for title, members in grouped.items()
    }
    if len(grouped) > 1:
        figures.append(("ledger", ledger_figure(rows, near=NEAR, setting=setting)))
    return Findings(
        lines=_lines(rows, grouped, setting),
        record={
            "num_images": num,
            "near": NEAR,
            "groups": {
                title or "all": {
                    "networks": [m.subject.name for m in grouped[title]],
                    **{key: _as_record(i) for key, i in numbers.items()},
                    "layers": _layers_record([m.layers for m in grouped[title]]),
                }
                for title, numbers in rows.items()
            },
        },
        arrays={
            f"{i}/{key}": value
            for i, ledger in enumerate(ledgers)
            for key, value in _arrays(ledger).items()
        },
        figures=figures,
    )


def _numbers(members: Sequence[Ledger], *, over_images: bool) -> dict[str, Interval]:
    """Accuracy unmoved, accuracy over near shifts, consistency; over seeds, or over images."""
    if over_images:
        shifts = members[0].shifts
        n = len(shifts.labels)
        right = shifts.answers[shifts.reach, shifts.reach] == shifts.labels
        return {
            "accuracy": share_interval(int(right.sum()), n),
            "near_accuracy": mean_interval(shifts.near_accuracies(), share=True),
            "consistency": mean_interval(shifts.consistencies(), share=True),
        }
    reach = members[0].shifts.reach
    numbers = {
        "accuracy": [float(m.shifts.accuracy[reach, reach]) for m in members],
        "near_accuracy": [m.shifts.near_accuracies().mean() for m in members],
        "consistency": [m.shifts.consistency() for m in members],
    }
    return {key: mean_interval(values, share=True) for key, values in numbers.items()}


def _layer_lines(members: Sequence[Mapping[str, LayerError]]) -> list[LayerLine]:
    return [
        LayerLine(
            name,
            float(members[0][name].jump),
            *(
                np.mean([getattr(m[name], key) for m in members], 0)
                for key in ("all_units", "interior", "unmoved")
            ),
        )
        for name in growing(members[0])
    ]


def growing(errors: Mapping[str, LayerError]) -> list[str]:
    """The layers worth a panel: the first of those with equal errors, at most eight."""
    names: list[str] = []
    for name, error in errors.items():
        same = names and np.array_equal(errors[names[-1]].all_units, error.all_units)
        if not same and not name.startswith("relu"):
            names.append(name)
    if len(names) > 8:
        names = [names[i * (len(names) - 1) // 7] for i in range(8)]
    return names


def _layers_record(members: Sequence[Mapping[str, LayerError]]) -> dict[str, object]:
    def plain(values: NDArray) -> list[float | None]:
        return [None if np.isnan(v) else float(f"{v:.4g}") for v in values]

    return {
        name: {
            "jump": str(members[0][name].jump),
            **{
                key: plain(np.mean([getattr(m[name], key) for m in members], 0))
                for key in ("all_units", "interior", "unmoved")
            },
        }
        for name in members[0]
    }


def _as_record(interval: Interval) -> dict[str, float | int | None]:
    low, high = (None if np.isnan(x) else round(x, 6) for x in (interval.low, interval.high))
    return {"mean": round(interval.mean, 6), "low": low, "high": high, "n": interval.n}


def _lines(
    rows: Mapping[str, Mapping[str, Interval]],
    grouped: Mapping[str, Sequence[Ledger]],
    setting: str,
) -> list[str]:
    lines = [f"{setting}; shifts of up to {NEAR} pixels to either side:"]
    for title, numbers in rows.items():
        accuracy, near, same = (
            numbers[key].text(factor=100, unit=" %")
            for key in ("accuracy", "near_accuracy", "consistency")
        )
        lines.append(
            f"{title + ': ' if title else ''}accuracy unmoved {accuracy}, moved {near}, "
            f"consistency {same}"
        )
        errors = grouped[title][0].layers
        exact = [
            f"{name} {np.nanmax(e.interior[:: int(e.jump)]):.0e}"
            for name, e in errors.items()
            if name in growing(errors) and e.jump == int(e.jump)
            and np.isfinite(e.interior[:: int(e.jump)][1:]).any()
        ]  # fmt: skip
        if exact:
            lines.append(f"  interior equivariance error at whole steps: {', '.join(exact)}")
    return lines


def _arrays(ledger: Ledger) -> dict[str, NDArray]:
    shifts = ledger.shifts
    arrays = {"answers": shifts.answers, "labels": shifts.labels, "ink": shifts.ink}
    for name, error in ledger.layers.items():
        for key in ("all_units", "interior", "unmoved", "num_interior"):
            arrays[f"{name}/{key}"] = getattr(error, key)
    return arrays
