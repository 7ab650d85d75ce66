"""Report on the receptive fields of a network: tables, checks and figures."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import groupby
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from simplecnn.figures.receptive_field import (
    Chain,
    FieldMap,
    LayerBoxes,
    boxes_figure,
    chains_figure,
    effective_fields_figure,
)
from simplecnn.receptive_field.chains import stack
from simplecnn.receptive_field.checks import Check, all_agree, check_fields
from simplecnn.receptive_field.effective_field import (
    EffectiveField,
    central_unit,
    effective_fields,
)
from simplecnn.receptive_field.fields import Field, receptive_fields
from simplecnn.table import table

NUM_DRAWN = 6  # layers in a figure; the tables contain all
WIDTH = 16  # output channels of all convolutions in the tutorial's chains, as in SimpleCNN's first
CHAINS: dict[str, list[tuple[int, int]]] = {
    "One 7x7": [(7, 1)],
    "Three 3x3": [(3, 1)] * 3,
    "Two 5x5": [(5, 1)] * 2,
    "VGG-style": [(3, 1), (3, 1), (2, 2)] * 2,
}


def receptive_field_report(
    network: nn.Module, *, images: Tensor, folder: Path, trained: nn.Module | None = None
) -> bool:
    """Print the receptive fields of a network and their checks, and save figures to `folder`.

    Returns whether both experiments agree with the formulas. Without a layer whose units lie on a
    grid, `boxes.png` and `effective.png` are not created.

    Args:
        network: with initial weights.
        images: inputs of the network (N, C, H, W); boxes are drawn on the first one.
        trained: the same network after training; its effective fields are compared.
    """
    size = tuple(images.shape[1:])
    folder.mkdir(parents=True, exist_ok=True)
    fields = receptive_fields(network, size)
    checks = check_fields(network, size, fields=fields)
    print(f"{type(network).__name__} on images of {' x '.join(map(str, size))}")
    print(f"{field_table(fields)}\n\n{check_summary(checks)}")

    networks = {"initial": network} | ({"trained": trained} if trained is not None else {})
    effective = {s: effective_fields(n, images, fields=fields) for s, n in networks.items()}
    figures = {}
    if effective["initial"]:
        drawn = _evenly_spaced(list(effective["initial"]), NUM_DRAWN)
        print(f"\nEffective fields of the central unit, mean over {len(images)} digits")
        print(effective_table(effective))
        layers = [_layer_boxes(name, fields[name]) for name in drawn]
        figures["boxes.png"] = boxes_figure(images[0].mean(0).cpu().numpy(), layers)
        figures["effective.png"] = effective_fields_figure(
            {state: {n: _field_map(e[n]) for n in drawn} for state, e in effective.items()}
        )
    chains = tutorial_chains()
    figures["chains.png"] = chains_figure(chains)
    print(f"\nThe tutorial's chains of layers on images of 28 x 28\n{chain_table(chains)}\n")
    for name, figure in figures.items():
        figure.savefig(folder / name)
        print(folder / name)
    return all_agree(checks)


def _evenly_spaced(names: Sequence[str], num_kept: int) -> list[str]:
    indices = np.linspace(0, len(names) - 1, min(num_kept, len(names))).astype(int)
    return [names[i] for i in indices]


def field_table(fields: Mapping[str, Field]) -> str:
    """Format fields as a table, with one line for consecutive layers that have the same field."""
    lines = {
        name: (*map(_pair, (f.units, f.size, f.stride, f.start, f.num_used)), _remark(f))
        for name, f in fields.items()
    }
    rows, remarks = [["layers", "units", "size", "stride", "start", "used"]], [""]
    for (*cells, remark), group in groupby(lines, key=lambda name: lines[name]):
        first, *others = group
        rows.append([first + (f" ... {others[-1]}" if others else ""), *cells])
        remarks.append(f"   {remark}" if remark else "")
    text = [f"{line}{r}" for line, r in zip(table(rows).splitlines(), remarks, strict=True)]
    notes = [
        "unit: one position of a layer's output, with all channels; other columns in pixels",
        "start: the first pixel of the field of unit 0, negative in the padding",
        "used: the largest number of rows and columns of the image that one unit depends on",
    ]
    return "\n".join([*text, *notes])


def _remark(field: Field) -> str:
    rows, columns = field.num_unread
    alike = "whole image" if field.num_used == field.image_size else "all units alike"
    remarks = {
        alike: field.is_uniform,
        "misaligned paths": field.misaligned,
        f"unread rows, columns of its input: {rows}, {columns}": any(field.num_unread),
        f"at most: {field.bound}": bool(field.bound),
    }
    return "; ".join(remark for remark, holds in remarks.items() if holds)


def check_summary(checks: Sequence[Check]) -> str:
    """Format what each experiment confirms, its remarks and disagreements, and the conclusion."""
    lines = []
    for experiment in ("gradient", "nan"):
        selected = [c for c in checks if c.experiment == experiment]
        good = [c for c in selected if c.agrees and c.num_units]
        lines.append(
            f"{experiment}: {len(good)} of {len(selected)} layers agree with the formulas, "
            f"{sum(c.num_units for c in good):,} units"
        )
        remarks: dict[str, list[str]] = {}
        for check in selected:
            if check.agrees and check.remark:
                remarks.setdefault(check.remark, []).append(check.layer)
        for remark, layers in remarks.items():
            where = layers[0] if len(layers) == 1 else f"{len(layers)} layers from {layers[0]} on"
            lines.append(f"  {where}: {remark}")
        lines += [f"  {check}" for check in selected if not check.agrees]
    lines.append(f"formulas, gradient and NaN {'agree' if all_agree(checks) else 'DO NOT AGREE'}")
    return "\n".join(lines)


def effective_table(effective: Mapping[str, Mapping[str, EffectiveField]]) -> str:
    """Format effective fields as a table, with one line per state of the network and layer."""
    lines = [["", "layer", "unit", "size", "sigma", "50 %", "95 %", "95 % / size"]]
    for state, by_layer in effective.items():
        for name, f in by_layer.items():
            size = _pair([last - first + 1 for first, last in f.interval])
            squares = [str(f.square(share)) for share in (0.5, 0.95)]
            sigma = " x ".join(f"{s:.2f}" for s in f.sigma)
            unit = ", ".join(map(str, f.unit))
            lines.append([state, name, unit, size, sigma, *squares, f"{f.ratio:.2f}"])
    note = "in pixels: standard deviation, sides of the squares with 50 % and 95 % of the gradient"
    return f"{table(lines)}\n{note}"


def _field_map(field: EffectiveField) -> FieldMap:
    vertical, horizontal = field.sigma
    large, small = (field.square(share) for share in (0.95, 0.5))
    note = f"σ {vertical:.2f} × {horizontal:.2f} px (height × width)\n"
    note += f"95 %: {large} px, 50 %: {small} px\n95 % / size: {field.ratio:.2f}"
    return FieldMap(field.mass.numpy(), field.interval, (large, small), note)


def _layer_boxes(name: str, field: Field) -> LayerBoxes:
    """Return the fields of the first, the central and the last unit of a layer."""
    rows, columns = field.units
    units = [(0, 0), central_unit(field), (rows - 1, columns - 1)]
    title = f"{name}: size {_pair(field.size)}, stride {_pair(field.stride)}"
    return LayerBoxes(title, {unit: field.interval(unit) for unit in units}, field.visible)


def tutorial_chains() -> list[Chain]:
    """Return the tutorial's four architectures with their costs.

    The tutorial compares them as if every layer had as many input as output channels. For a gray
    image, the first layer has one input channel, and the ranking by cost is different.
    """
    chains = []
    for name, layers in CHAINS.items():
        channels = [WIDTH if stride == 1 else None for _, stride in layers]
        wide, gray = (stack(layers, channels=channels, in_channels=n) for n in (WIDTH, 1))
        costs = {
            f"parameters, {WIDTH} channels in": wide.num_parameters,
            "parameters, 1 channel in": gray.num_parameters,
            "MACs, 1 channel in": gray.num_macs,
        }
        chains.append(Chain(name, gray.sizes, costs, gray.profile, gray.sigma))
    return chains


def chain_table(chains: Sequence[Chain]) -> str:
    """Format chains as a table, with one line per chain."""
    lines = [["", "size by layer", "sigma", *chains[0].costs]]
    for chain in chains:
        costs = [f"{cost:,}" for cost in chain.costs.values()]
        lines.append([chain.name, " ".join(map(str, chain.sizes)), f"{chain.sigma:.3f}", *costs])
    return (
        f"{table(lines)}\nMACs: multiply-accumulates for one image; "
        f"all convolutions have {WIDTH} output channels"
    )


def _pair(pair: Sequence[int | Fraction | None]) -> str:
    """Format (vertical, horizontal) as `3 x 5`, or as `3` if both are equal."""
    vertical, horizontal = ("-" if n is None else str(n) for n in pair)
    return vertical if vertical == horizontal else f"{vertical} x {horizontal}"
