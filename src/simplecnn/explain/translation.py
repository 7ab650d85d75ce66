"""The shift report: what becomes of a network's answers, and of its maps, when the image moves.

Equivariant means that a map moves along with the image; invariant, that it stays as it is.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simplecnn.explain.findings import Findings, rounded
from simplecnn.explain.intervals import interval_over, over, percent_series
from simplecnn.explain.subject import Subject, file_name, groups, logits, mean_over
from simplecnn.figures.explain.comparison import Panel, comparison_figure
from simplecnn.figures.explain.translation import (
    LayerError,
    ShiftMap,
    layers_figure,
    shift_maps_figure,
)
from simplecnn.receptive_field.axis import Axis
from simplecnn.receptive_field.fields import Field, receptive_fields
from simplecnn.receptive_field.trace import named_outputs
from simplecnn.table import table

NEAR = 4  # pixels: shifts in which an image of MNIST loses no ink
MIN_NORM = 1e-12
MAX_LAYERS = 8  # panels
CURVES = ("all_units", "interior", "unmoved")  # of a LayerError
MEASURES = {
    "accuracy": "accuracy, unmoved",
    "near_accuracy": f"accuracy, shifts to ±{NEAR}",
    "consistency": f"consistency, shifts to ±{NEAR}",
}


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
    grouped = groups(subjects)
    shifts, errors = [], []  # of each network
    for subject in subjects:
        images, labels = subject.sample(num_images, seed=seed)
        shifts.append(measure_shifts(subject.network, images, labels, reach=reach))
        few, _ = subject.sample(num_maps, seed=seed)
        errors.append(equivariance_errors(subject.network, few, reach=reach))
    # By group and measure: (networks, images).
    measured = {
        title: {key: np.array([measures(shifts[i])[key] for i in members]) for key in MEASURES}
        for title, members in grouped.items()
    }
    layers = {
        title: mean_errors([errors[i] for i in members]) for title, members in grouped.items()
    }
    num = len(shifts[0]["labels"])
    setting = f"n = {num:,} test images of {subjects[0].data_name}{mean_over(grouped)}"
    maps = [
        ShiftMap(
            title,
            100 * np.mean([accuracy_by_shift(shifts[i]) for i in members], 0),
            np.mean([shifts[i]["ink"] for i in members], 0) if subjects[0].ink else None,
            100 * float(measured[title]["consistency"].mean()),
        )
        for title, members in grouped.items()
    ]
    figures = [("accuracy_by_shift", shift_maps_figure(maps, near=NEAR, setting=setting))]
    for title, of_group in layers.items():
        chosen, among = growing(of_group)
        if shown := {name: of_group[name] for name in chosen}:
            name = "layers" if len(grouped) == 1 else f"layers_{file_name(title)}"
            heading = ", ".join(filter(None, (title, among)))
            figure = layers_figure(shown, title=heading, num_networks=len(grouped[title]))
            figures.append((name, figure))
    if len(grouped) > 1:
        panels = [
            Panel(
                title, "%", list(grouped),
                {"networks": percent_series([shares[key] for shares in measured.values()])},
                from_zero=False,
            )
            for key, title in MEASURES.items()
        ]  # fmt: skip
        heading = f"What moving costs each network; dot: network; line: 95 % interval\n{setting}"
        figures.append(("shift_report", comparison_figure(panels, title=heading)))
    return Findings(
        lines=_lines(measured, layers, setting),
        record={
            "num_images": num,
            "near": NEAR,
            "groups": {
                title or "all": {
                    "networks": [subjects[i].name for i in grouped[title]],
                    **{key: interval_over(shares).record() for key, shares in measures.items()},
                    "layers": {
                        name: {"jump": str(error.jump)}
                        | {key: rounded(getattr(error, key)) for key in CURVES}
                        for name, error in layers[title].items()
                    },
                }
                for title, measures in measured.items()
            },
        },
        arrays={f"{i}/{key}": x for i, found in enumerate(shifts) for key, x in found.items()}
        | {
            f"{i}/{name}/{key}": getattr(error, key)
            for i, of_network in enumerate(errors)
            for name, error in of_network.items()
            for key in (*CURVES, "num_interior")
        },
        figures=figures,
    )


def shifted(images: Tensor, dy: int, dx: int) -> Tensor:
    """Images (…, H, W) moved down by dy and to the right by dx pixels; zeros come in."""
    height, width = images.shape[-2:]
    moved = torch.zeros_like(images)
    if abs(dy) < height and abs(dx) < width:
        moved[..., max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)] = images[
            ..., max(-dy, 0) : height + min(-dy, 0), max(-dx, 0) : width + min(-dx, 0)
        ]
    return moved


def measure_shifts(
    network: nn.Module, images: Tensor, labels: Tensor, *, reach: int
) -> dict[str, NDArray]:
    """A network's answers to images moved by every (dy, dx) from -reach to reach pixels.

    `answers` (2 reach + 1, 2 reach + 1, N), rows are dy, columns dx; `labels` (N,); and `ink`
    (2 reach + 1, 2 reach + 1), the share of the ink that is still in the image.
    """
    steps = range(-reach, reach + 1)
    answers = np.empty((len(steps), len(steps), len(images)), np.int16)
    ink = np.empty(answers.shape[:2])
    total = float(images.sum()) or 1.0
    for i, dy in enumerate(steps):
        for j, dx in enumerate(steps):
            moved = shifted(images, dy, dx)
            answers[i, j] = logits(network, moved).argmax(1).numpy()
            ink[i, j] = float(moved.sum()) / total
    return {"answers": answers, "labels": labels.numpy(), "ink": ink}


def accuracy_by_shift(shifts: Mapping[str, NDArray]) -> NDArray:
    """(2 reach + 1, 2 reach + 1)"""
    return (shifts["answers"] == shifts["labels"]).mean(-1)


def measures(shifts: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """By image, each (N,): whether it is right unmoved, the share of near shifts (at most NEAR
    pixels to either side) that are right, and how often two random near shifts get one answer.

    The last is exact: the sum of squared shares of each answer. Zhang, "Making Convolutional
    Networks Shift-Invariant Again", ICML 2019, draws the pairs instead.
    """
    answers, labels = shifts["answers"], shifts["labels"]
    reach = len(answers) // 2
    window = slice(max(0, reach - NEAR), reach + NEAR + 1)
    near = answers[window, window].reshape(-1, len(labels))
    return {
        "accuracy": answers[reach, reach] == labels,
        "near_accuracy": (near == labels).mean(0),
        "consistency": np.sum([(near == c).mean(0) ** 2 for c in np.unique(near)], 0),
    }


def equivariance_errors(network: nn.Module, images: Tensor, *, reach: int) -> dict[str, LayerError]:
    """For every layer whose units lie on a grid with one step in both directions.

    Where a shift is no multiple of the step, a map can only move by a fraction: it is compared
    with the unmoved map interpolated between its two neighbouring places.
    """
    fields = receptive_fields(network, tuple(images.shape[1:]))
    fields = {name: field for name, field in fields.items() if _comparable(field)}
    still = _maps(network, images, fields)
    sums = {name: np.zeros((reach + 1, len(CURVES), 2)) for name in fields}
    num_interior = {name: np.zeros(reach + 1, int) for name in fields}
    for shift in range(reach + 1):
        for axis, move in enumerate([(shift, 0), (0, shift)]):
            moved = _maps(network, shifted(images, *move), fields)
            for name, field in fields.items():
                differences, num = _differences(still[name], moved[name], field, axis, shift)
                sums[name][shift] += differences
                num_interior[name][shift] += num
    errors = {}
    for name, field in fields.items():
        squares, norms = np.moveaxis(sums[name], -1, 0)
        all_units, interior, unmoved = np.sqrt(squares / np.maximum(norms, MIN_NORM)).T
        interior[num_interior[name] == 0] = np.nan
        jump = field.stride[0]
        assert jump is not None
        errors[name] = LayerError(jump, all_units, interior, unmoved, num_interior[name])
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
    still: Tensor, moved: Tensor, field: Field, axis: int, shift: int
) -> tuple[NDArray, int]:
    """(curves, 2): sums of the squared differences and of the squares of the reference, and the
    number of interior positions, for a shift along an axis."""
    along, across = field.axes[axis], field.axes[1 - axis]
    if axis == 0:
        still, moved = still.mT, moved.mT  # the units along the shift are last
    units, rest = divmod(Fraction(shift) / Fraction(field.stride[axis] or 1), 1)
    first = int(units) + (rest > 0)  # the first unit whose old places exist
    ours = moved[..., first:]
    length = ours.shape[-1]
    reference = still[..., first - int(units) :][..., :length]
    if rest:
        reference = (1 - float(rest)) * reference + float(rest) * still[..., :length]
    interior = _inside(across, 0)[:, None] & _inside(along, shift)[first:]
    pairs = [(ours, reference), (ours[..., interior], reference[..., interior]), (moved, still)]
    sums = [[float((a - b).square().sum()), float(b.square().sum())] for a, b in pairs]
    return np.array(sums), int(interior.sum())


def _inside(axis: Axis, shift: int) -> Tensor:
    """Which units saw nothing but the image before the shift, and see nothing else after it."""
    num_units, num_pixels = axis.used.shape
    low, high = np.array([axis.interval(unit) for unit in range(num_units)]).T
    return torch.from_numpy((low >= shift) & (high < num_pixels))


def growing(errors: Mapping[str, LayerError]) -> tuple[list[str], str]:
    """The layers worth a panel: the first of those with equal errors, at most eight; and of how
    many they are, where there are more."""
    names: list[str] = []
    for name, error in errors.items():
        same = names and np.array_equal(errors[names[-1]].all_units, error.all_units)
        if not same and not name.startswith("relu"):
            names.append(name)
    if len(names) <= MAX_LAYERS:
        return names, ""
    places = np.linspace(0, len(names) - 1, MAX_LAYERS).astype(int)
    return [names[i] for i in places], f"{MAX_LAYERS} of {len(names)} layers"


def mean_errors(by_network: Sequence[Mapping[str, LayerError]]) -> dict[str, LayerError]:
    """The mean of each curve over networks of one kind."""
    return {
        name: LayerError(
            error.jump, *(np.mean([getattr(e[name], key) for e in by_network], 0) for key in CURVES)
        )
        for name, error in by_network[0].items()
    }


def _lines(
    measured: Mapping[str, Mapping[str, NDArray]],
    layers: Mapping[str, Mapping[str, LayerError]],
    setting: str,
) -> list[str]:
    head = "in %, with 95 % intervals", "accuracy unmoved", "accuracy moved", "consistency"
    rows: list[tuple[str, ...]] = [(*head, "interval over")]
    for title, measures in measured.items():
        numbers = [interval_over(shares).text(factor=100) for shares in measures.values()]
        rows.append((title or "this network", *numbers, over(measures["accuracy"])))
    lines = [f"{setting}; moved: shifts of up to {NEAR} pixels to either side"]
    lines += table(rows).splitlines()
    for title, errors in layers.items():
        chosen, among = growing(errors)
        interior = {n: errors[n].interior[errors[n].whole_steps] for n in chosen}
        exact = [
            f"{name} {np.nanmax(error):.0e}"
            for name, error in interior.items()
            if np.isfinite(error).any()
        ]
        if exact:
            of, some = f"{title}: " if title else "", f", {among}" if among else ""
            lines.append(
                f"{of}interior error at whole steps (0: maps move along){some}: {', '.join(exact)}"
            )
    return lines
