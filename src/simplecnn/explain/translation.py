"""The shift report: what becomes of a network's answers, and of its maps, when the image moves.

Equivariant means that a map moves along with the image; invariant, that it stays as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor, nn

from simplecnn.explain.findings import Findings
from simplecnn.explain.intervals import Interval, mean_interval, share_interval
from simplecnn.explain.subject import Subject, file_name, groups, logits, mean_over
from simplecnn.figures.explain.comparison import Panel, Series, comparison_figure
from simplecnn.figures.explain.translation import (
    LayerLine,
    ShiftMap,
    layers_figure,
    shift_maps_figure,
)
from simplecnn.receptive_field.fields import Field, receptive_fields
from simplecnn.receptive_field.trace import named_outputs
from simplecnn.table import table

NEAR = 4  # pixels: shifts in which an image of MNIST loses no ink
MIN_NORM = 1e-12
MAX_LAYERS = 8  # panels
CURVES = ("all_units", "interior", "unmoved")  # of a LayerError


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


@dataclass(frozen=True)
class ShiftReport:
    """The measurements of one network."""

    subject: Subject
    shifts: Shifts
    layers: Mapping[str, LayerError]


def translation(
    subjects: Sequence[Subject],
    *,
    num_images: int = 500,
    num_maps: int = 100,
    reach: int = 8,
    seed: int = 0,
) -> Findings:
    """The shift report of one network, or of several that are compared by what a sweep varied.

    Accuracies take `num_images` test images of each network, the maps of the layers `num_maps`.
    """
    reports = []
    for subject in subjects:
        images, labels = subject.sample(num_images, seed=seed)
        few, _ = subject.sample(num_maps, seed=seed)
        shifts = measure_shifts(subject.network, images, labels, reach=reach)
        layers = equivariance_errors(subject.network, few, reach=reach)
        reports.append(ShiftReport(subject, shifts, layers))
    return findings(reports)


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
    totals = {n: np.zeros((len(CURVES), reach + 1, 2)) for n in fields}  # sums
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
    maps: dict[str, Tensor] = {}

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if name in fields:
            dims = [axis.dim for axis in fields[name].axes if axis.dim is not None]
            maps[name] = output.movedim(dims, (-2, -1)).clone()  # ReLU may work in place

    with named_outputs(network, receive):
        network(images)
    return maps


def _differences(
    still: Tensor, moved: Tensor, f: Field, axis: int, shift: int
) -> tuple[NDArray, int]:
    """Sums (all, interior, unmoved) x (squared differences, squared norm), interior positions."""
    jump = f.stride[axis]
    assert jump is not None
    units, rest = divmod(Fraction(shift) / Fraction(jump), 1)
    dim = still.dim() - 2 + axis
    length = still.shape[dim]
    first = int(units) + (rest > 0)  # the first unit whose old places exist
    if first >= length:
        return np.array([[0.0, 0.0], [0.0, 0.0], _squares(moved, still)]), 0
    ours = moved.narrow(dim, first, length - first)
    near = still.narrow(dim, first - int(units), length - first)
    if rest:
        far = still.narrow(dim, first - int(units) - 1, length - first)
        near = (1 - float(rest)) * near + float(rest) * far
    rows, columns = _interior(f, axis, shift, first)
    inner_ours, inner_near = (x[..., rows, :][..., columns] for x in (ours, near))
    sums = [_squares(ours, near), _squares(inner_ours, inner_near), _squares(moved, still)]
    return np.array(sums), int(rows.sum() * columns.sum())


def _squares(ours: Tensor, reference: Tensor) -> list[float]:
    return [float(((ours - reference) ** 2).sum()), float((reference**2).sum())]


def _interior(f: Field, axis: int, shift: int, first: int) -> tuple[Tensor, Tensor]:
    """Which rows and columns of units saw nothing but the image before the shift and see nothing
    else after it; along `axis` counted from `first`."""
    kept = []
    for k in (0, 1):
        fields = [
            f.interval((unit, 0) if k == 0 else (0, unit))[k]
            for unit in range(first if k == axis else 0, f.units[k])
        ]
        moved = shift if k == axis else 0
        inside = [low - moved >= 0 and high < f.image_size[k] for low, high in fields]
        kept.append(torch.tensor(inside, dtype=torch.bool))
    return kept[0], kept[1]


def findings(reports: Sequence[ShiftReport]) -> Findings:
    """Maps, errors by layer, and for several networks a figure that compares them."""
    places = groups([report.subject for report in reports])
    grouped = {title: [reports[i] for i in members] for title, members in places.items()}
    num = len(reports[0].shifts.labels)
    setting = f"n = {num:,} test images of {reports[0].subject.data_name}{mean_over(places)}"
    has_ink = all(report.subject.ink for report in reports)
    maps = [
        ShiftMap(
            title,
            100 * np.mean([m.shifts.accuracy for m in members], 0),
            np.mean([m.shifts.ink for m in members], 0) if has_ink else None,
            100 * float(np.mean([m.shifts.consistency() for m in members])),
        )
        for title, members in grouped.items()
    ]
    figures = [("accuracy_by_shift", shift_maps_figure(maps, near=NEAR, setting=setting))]
    for title, members in grouped.items():
        lines = [
            LayerLine(name, float(members[0].layers[name].jump), **_mean_curves(members, name))
            for name in growing(members[0].layers)
        ]
        if lines:
            name = "layers" if len(grouped) == 1 else f"layers_{file_name(title)}"
            figures.append((name, layers_figure(lines, title=title, num_networks=len(members))))
    numbers = {
        title: _numbers(members, over_images=len(reports) == 1)
        for title, members in grouped.items()
    }
    if len(grouped) > 1:
        figures.append(("shift_report", _compared(grouped, numbers, setting)))
    return Findings(
        lines=_lines(numbers, grouped, setting),
        record={
            "num_images": num,
            "near": NEAR,
            "groups": {
                title or "all": {
                    "networks": [m.subject.name for m in grouped[title]],
                    **{key: interval.record() for key, interval in intervals.items()},
                    "layers": {
                        name: {"jump": str(error.jump)}
                        | {k: _rounded(v) for k, v in _mean_curves(grouped[title], name).items()}
                        for name, error in grouped[title][0].layers.items()
                    },
                }
                for title, intervals in numbers.items()
            },
        },
        arrays={
            f"{i}/{key}": value
            for i, report in enumerate(reports)
            for key, value in _arrays(report).items()
        },
        figures=figures,
    )


def _measures(report: ShiftReport) -> dict[str, NDArray]:
    """Each (N,), by image: right unmoved, share of near shifts that are right, consistency."""
    shifts = report.shifts
    return {
        "accuracy": (shifts.answers[shifts.reach, shifts.reach] == shifts.labels).astype(float),
        "near_accuracy": shifts.near_accuracies(),
        "consistency": shifts.consistencies(),
    }


def _numbers(members: Sequence[ShiftReport], *, over_images: bool) -> dict[str, Interval]:
    """Intervals of the measures, over networks of several seeds, or over the images of one."""
    measures = [_measures(member) for member in members]
    if over_images:
        right = measures[0].pop("accuracy")
        intervals = {key: mean_interval(x, share=True) for key, x in measures[0].items()}
        return {"accuracy": share_interval(int(right.sum()), len(right)), **intervals}
    return {
        key: mean_interval([m[key].mean() for m in measures], share=True) for key in measures[0]
    }


def _compared(
    grouped: Mapping[str, Sequence[ShiftReport]],
    numbers: Mapping[str, Mapping[str, Interval]],
    setting: str,
) -> Figure:
    titles = {
        "accuracy": "accuracy, unmoved",
        "near_accuracy": f"accuracy, shifts to ±{NEAR}",
        "consistency": f"consistency, shifts to ±{NEAR}",
    }
    most = max(map(len, grouped.values()))
    panels = []
    for key, title in titles.items():
        values = np.full((len(grouped), most), np.nan)
        for i, members in enumerate(grouped.values()):
            values[i, : len(members)] = [100 * _measures(m)[key].mean() for m in members]
        low, high = (
            np.array([100 * getattr(n[key], end) for n in numbers.values()])
            for end in ("low", "high")
        )
        series = {"networks": Series(values, low, high)}
        panels.append(Panel(title, "%", list(grouped), series, from_zero=False))
    heading = "What moving costs each network; dot: network; line: 95 % interval"
    return comparison_figure(panels, title=f"{heading}\n{setting}")


def growing(errors: Mapping[str, LayerError]) -> list[str]:
    """The layers worth a panel: the first of those with equal errors, at most eight."""
    names: list[str] = []
    for name, error in errors.items():
        same = names and np.array_equal(errors[names[-1]].all_units, error.all_units)
        if not same and not name.startswith("relu"):
            names.append(name)
    if len(names) > MAX_LAYERS:
        places = np.linspace(0, len(names) - 1, MAX_LAYERS).astype(int)
        names = [names[i] for i in places]
    return names


def _mean_curves(members: Sequence[ShiftReport], layer: str) -> dict[str, NDArray]:
    return {key: np.mean([getattr(m.layers[layer], key) for m in members], 0) for key in CURVES}


def _rounded(values: NDArray) -> list[float | None]:
    return [None if np.isnan(v) else float(f"{v:.4g}") for v in values]


def _lines(
    numbers: Mapping[str, Mapping[str, Interval]],
    grouped: Mapping[str, Sequence[ShiftReport]],
    setting: str,
) -> list[str]:
    rows: list[tuple[str, ...]] = [
        ("in %, with 95 % intervals", "accuracy unmoved", "accuracy moved", "consistency", "n")
    ]
    rows += [
        (title or "this network", *(x.text(factor=100) for x in intervals.values()),
         f"{intervals['accuracy'].n:,}")
        for title, intervals in numbers.items()
    ]  # fmt: skip
    lines = [f"{setting}; moved: shifts of up to {NEAR} pixels to either side"]
    lines += table(rows).splitlines()
    for title, members in grouped.items():
        errors = members[0].layers
        exact = [
            f"{name} {np.nanmax(e.interior[:: int(e.jump)]):.0e}"
            for name, e in errors.items()
            if name in growing(errors) and e.jump == int(e.jump)
            and np.isfinite(e.interior[:: int(e.jump)][1:]).any()
        ]  # fmt: skip
        if exact:
            of = f"{title}: " if title else ""
            lines.append(
                f"{of}interior error at whole steps (0: maps move along): {', '.join(exact)}"
            )
    return lines


def _arrays(report: ShiftReport) -> dict[str, NDArray]:
    shifts = report.shifts
    arrays = {"answers": shifts.answers, "labels": shifts.labels, "ink": shifts.ink}
    for name, error in report.layers.items():
        for key in (*CURVES, "num_interior"):
            arrays[f"{name}/{key}"] = getattr(error, key)
    return arrays
