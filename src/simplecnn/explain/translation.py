"""The shift report: how predictions and feature maps change when the image is shifted.

A layer is equivariant if its map shifts with the image, invariant if its map does not change.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from simplecnn.explain.findings import Findings, rounded
from simplecnn.explain.intervals import interval_over, percent_series, sample_size
from simplecnn.explain.subject import Subject, groups, mean_note, row_name, slug
from simplecnn.figures.explain.comparison import Panel, comparison_figure
from simplecnn.figures.explain.translation import (
    LayerError,
    ShiftMap,
    layers_figure,
    shift_maps_figure,
)
from simplecnn.inference.networks import logits
from simplecnn.receptive_field.fields import Field, receptive_fields
from simplecnn.receptive_field.trace import named_outputs
from simplecnn.table import table

NEAR = 4  # pixels: shifts by which MNIST digits stay inside the image
MIN_NORM = 1e-12
MAX_LAYERS = 8  # panels of the figure
CURVES = ("all_units", "interior", "unmoved")  # fields of LayerError
METRICS = {
    "accuracy": "accuracy unshifted",
    "near_accuracy": "accuracy shifted",
    "consistency": "consistency",
}


def translation(
    subjects: Sequence[Subject],
    *,
    num_images: int = 500,
    num_maps: int = 100,
    reach: int = 8,
    seed: int = 0,
) -> Findings:
    """Report the effect of shifts on one network, or compare several by their swept values.

    Predictions use `num_images` test images per network, shifted by up to `reach` pixels; the
    feature maps of the layers use `num_maps` images.
    """
    grouped = groups(subjects)
    shifts, errors = [], []  # by network
    for subject in subjects:
        images, labels = subject.sample(num_images, seed=seed)
        shifts.append(measure_shifts(subject.network, images, labels, reach=reach))
        few, _ = subject.sample(num_maps, seed=seed)
        errors.append(equivariance_errors(subject.network, few, reach=reach))
    by_network = [shift_metrics(s) for s in shifts]
    # By group and metric: (networks, images).
    metrics = {
        title: {key: np.array([by_network[i][key] for i in members]) for key in METRICS}
        for title, members in grouped.items()
    }
    layers = {t: mean_errors([errors[i] for i in members]) for t, members in grouped.items()}
    num, near = len(shifts[0]["labels"]), min(NEAR, reach)
    setting = f"{num:,} test images of {subjects[0].data_name}{mean_note(grouped)}"
    legend = (
        f"shifted: by up to {near} px in each direction; consistency: how often two such shifts "
        "get the same prediction"
    )
    maps = [
        ShiftMap(
            title,
            100 * np.mean([accuracy_by_shift(shifts[i]) for i in members], 0),
            np.mean([shifts[i]["ink"] for i in members], 0) if subjects[0].ink else None,
            100 * float(metrics[title]["consistency"].mean()),
        )
        for title, members in grouped.items()
    ]
    figures = [("accuracy_by_shift", shift_maps_figure(maps, near=near, setting=setting))]
    for title, group_errors in layers.items():
        names, note = plotted_layers(group_errors)
        if names:
            plotted = {name: group_errors[name] for name in names}
            file_name = "layers" if len(grouped) == 1 else f"layers_{slug(title)}"
            heading = ", ".join(filter(None, (title, note)))
            figure = layers_figure(plotted, title=heading, num_networks=len(grouped[title]))
            figures.append((file_name, figure))
    if len(grouped) > 1:
        panels = [
            Panel(
                title, "%", list(grouped),
                {"networks": percent_series([group[key] for group in metrics.values()])},
                from_zero=False,
            )
            for key, title in METRICS.items()
        ]  # fmt: skip
        heading = (
            f"Accuracy and consistency under shifts (higher is better)\n{legend}\n{setting}; "
            "diamond: mean; dot: one network; line: 95 % confidence interval"
        )
        figures.append(("shift_report", comparison_figure(panels, title=heading)))
    return Findings(
        lines=[setting, legend, *_lines(metrics, layers)],
        record={
            "data": subjects[0].data_name,
            "num_images": num,
            "near": near,
            "groups": {
                title or "all": {
                    "networks": [subjects[i].name for i in grouped[title]],
                    **{key: interval_over(values).record() for key, values in group.items()},
                    "layers": {
                        name: {"jump": str(error.jump)}
                        | {key: rounded(getattr(error, key)) for key in CURVES}
                        for name, error in layers[title].items()
                    },
                }
                for title, group in metrics.items()
            },
        },
        arrays={f"{i}/{key}": x for i, arrays in enumerate(shifts) for key, x in arrays.items()}
        | {
            f"{i}/{name}/{key}": getattr(error, key)
            for i, network_errors in enumerate(errors)
            for name, error in network_errors.items()
            for key in (*CURVES, "num_interior")
        },
        figures=figures,
    )


def shifted(images: Tensor, dy: int, dx: int) -> Tensor:
    """Shift images (…, H, W) down by dy and right by dx pixels, filling with zeros."""
    dy, dx = (max(-n, min(shift, n)) for n, shift in zip(images.shape[-2:], (dy, dx), strict=True))
    return functional.pad(images, (dx, -dx, dy, -dy))


def measure_shifts(
    network: nn.Module, images: Tensor, labels: Tensor, *, reach: int
) -> dict[str, NDArray]:
    """Predict the classes of images shifted by every (dy, dx) from -reach to reach pixels.

    Returns the predictions `answers` (2 reach + 1, 2 reach + 1, N), rows dy and columns dx, the
    `labels` (N,), and `ink` (2 reach + 1, 2 reach + 1), the fraction of the images' total
    brightness that is still inside.
    """
    steps = range(-reach, reach + 1)
    answers = np.empty((len(steps), len(steps), len(images)), np.int16)
    ink = np.empty(answers.shape[:2])
    total = float(images.sum()) or 1.0
    for i, dy in enumerate(steps):
        for j, dx in enumerate(steps):
            inputs = shifted(images, dy, dx)
            answers[i, j] = logits(network, inputs).argmax(1).numpy()
            ink[i, j] = float(inputs.sum()) / total
    return {"answers": answers, "labels": labels.numpy(), "ink": ink}


def accuracy_by_shift(shifts: Mapping[str, NDArray]) -> NDArray:
    """Return the accuracy (2 reach + 1, 2 reach + 1) from the result of `measure_shifts`."""
    return (shifts["answers"] == shifts["labels"]).mean(-1)


def shift_metrics(shifts: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Return three metrics of each image (N,) from the result of `measure_shifts`.

    `accuracy`: whether the unshifted image is classified correctly. `near_accuracy`: the fraction
    of shifts by up to NEAR pixels with a correct prediction. `consistency`: the probability that
    two random shifts among them get the same prediction, computed exactly as the sum of the
    squared frequencies of the predictions; Zhang, "Making Convolutional Networks Shift-Invariant
    Again", ICML 2019, samples pairs instead.
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
    """Measure the errors of every layer whose map is a grid with equal strides in both directions.

    If a shift is not a multiple of the total stride, the expected map is interpolated linearly
    between its two neighboring positions.
    """
    fields = receptive_fields(network, tuple(images.shape[1:]))
    fields = {name: field for name, field in fields.items() if _comparable(field)}
    original = _maps(network, images, fields)
    sums = {name: np.zeros((reach + 1, len(CURVES), 2)) for name in fields}
    num_interior = {name: np.zeros(reach + 1, int) for name in fields}
    for shift in range(reach + 1):
        for axis, (dy, dx) in enumerate([(shift, 0), (0, shift)]):
            after = _maps(network, shifted(images, dy, dx), fields)
            for name, field in fields.items():
                differences, num = _differences(original[name], after[name], field, axis, shift)
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
    """Whether the field's positions form a grid, larger than 1 x 1, with equal strides."""
    has_stride = bool(f.stride[0]) and f.stride[0] == f.stride[1]
    return f.on_grid and has_stride and not f.misaligned and min(f.units) > 1


@torch.no_grad()
def _maps(network: nn.Module, images: Tensor, fields: Mapping[str, Field]) -> dict[str, Tensor]:
    """Return the outputs of the layers named in `fields`, with the spatial dimensions last."""
    maps: dict[str, Tensor] = {}

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if name in fields:
            dims = [axis.dim for axis in fields[name].axes if axis.dim is not None]
            maps[name] = output.movedim(dims, (-2, -1)).clone()  # an in-place ReLU may follow

    with named_outputs(network, receive):
        network(images)
    return maps


def _differences(
    original: Tensor, after: Tensor, field: Field, axis: int, shift: int
) -> tuple[NDArray, int]:
    """Sums (curves, 2) of the squared differences and of the squared reference for each of CURVES,
    for a shift of the image along `axis`, and the number of interior positions."""
    along, across = field.axes[axis], field.axes[1 - axis]
    if axis == 0:
        original, after = original.mT, after.mT  # the axis of the shift is last
    stride = Fraction(field.stride[axis] or 1)
    whole, fraction = divmod(shift / stride, 1)
    first = int(whole) + (fraction > 0)  # the first position whose expected value is in the map
    actual = after[..., first:]
    length = actual.shape[-1]
    expected = original[..., first - int(whole) :][..., :length]
    if fraction:
        expected = (1 - float(fraction)) * expected + float(fraction) * original[..., :length]
    # The farther of the two neighbors that are interpolated must not see the padding either.
    inside = torch.from_numpy(~along.cut)
    interior = torch.from_numpy(~across.cut)[:, None] & inside[first:] & inside[:length]
    pairs = [
        (actual, expected),
        (actual[..., interior], expected[..., interior]),
        (after, original),
    ]
    sums = [[float((a - b).square().sum()), float(b.square().sum())] for a, b in pairs]
    return np.array(sums), int(interior.sum())


def plotted_layers(errors: Mapping[str, LayerError]) -> tuple[list[str], str]:
    """Select at most MAX_LAYERS layers, without ReLUs and without repetitions of the same errors.

    Also returns a note such as `8 of 20 layers`, empty if no layer had to be left out.
    """
    names: list[str] = []
    for name, error in errors.items():
        repeated = names and np.array_equal(errors[names[-1]].all_units, error.all_units)
        if not repeated and not name.startswith("relu"):
            names.append(name)
    if len(names) <= MAX_LAYERS:
        return names, ""
    indices = np.linspace(0, len(names) - 1, MAX_LAYERS).astype(int)
    return [names[i] for i in indices], f"{MAX_LAYERS} of {len(names)} layers"


def mean_errors(by_network: Sequence[Mapping[str, LayerError]]) -> dict[str, LayerError]:
    """Average each curve over networks with the same layers."""
    return {
        name: LayerError(
            error.jump, *(np.mean([getattr(e[name], key) for e in by_network], 0) for key in CURVES)
        )
        for name, error in by_network[0].items()
    }


def _lines(
    metrics: Mapping[str, Mapping[str, NDArray]], layers: Mapping[str, Mapping[str, LayerError]]
) -> list[str]:
    rows: list[tuple[str, ...]] = [("in % [95 % interval]", *METRICS.values(), "interval over")]
    for title, group in metrics.items():
        numbers = [interval_over(values).text(factor=100) for values in group.values()]
        accuracy = group["accuracy"]
        rows.append((row_name(title, len(accuracy)), *numbers, sample_size(accuracy)))
    lines = table(rows).splitlines()
    for title, errors in layers.items():
        names, note = plotted_layers(errors)
        interior = {name: errors[name].interior[errors[name].whole_steps] for name in names}
        largest = [
            f"{name} {np.nanmax(error):.1g}"
            for name, error in interior.items()
            if np.isfinite(error).any()
        ]
        if largest:
            prefix, suffix = f"{title}: " if title else "", f", {note}" if note else ""
            lines += [
                f"{prefix}largest relative equivariance error away from the border, for shifts by "
                "multiples of the stride",
                f"(0: maps shift with the image exactly){suffix}: {', '.join(largest)}",
            ]
    return lines
