"""The report on one network: its receptive fields as a table, their receipts, their pictures."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

from torch import Tensor, nn

from simplecnn.figures.receptive_field import (
    Chain,
    FieldMap,
    LayerBoxes,
    boxes_figure,
    chains_figure,
    effective_fields_figure,
)
from simplecnn.receptive_field.checks import Receipt, confirmed, receipts
from simplecnn.receptive_field.effective_field import EffectiveField, effective_fields
from simplecnn.receptive_field.fields import Field, Stack, receptive_fields, stack

NUM_DRAWN = 6  # layers in a picture; the tables hold them all
WIDTH = 16  # channels of every convolution in the tutorial's chains, as in SimpleCNN's first
CHAINS: dict[str, list[tuple[int, int]]] = {
    "One 7x7": [(7, 1)],
    "Three 3x3": [(3, 1)] * 3,
    "Two 5x5": [(5, 1)] * 2,
    "VGG-style": [(3, 1), (3, 1), (2, 2)] * 2,
}


def receptive_field_report(
    network: nn.Module, *, images: Tensor, folder: Path, trained: nn.Module | None = None
) -> bool:
    """Print a network's fields, say whether both experiments find the same, draw into `folder`.

    `network` is as initialised; `trained`, the same network after training, is measured beside
    it. `images` (N, C, H, W) are as the network takes them; boxes are drawn on the first one.
    Where no layer has a grid of units, `boxes.png` and `effective.png` are left out.
    """
    size = tuple(images.shape[1:])
    folder.mkdir(parents=True, exist_ok=True)
    fields = receptive_fields(network, size)
    print(f"{type(network).__name__} on images of {' x '.join(map(str, size))}")
    print(field_table(fields))

    results = receipts(network, size, fields=fields)
    print(f"\n{receipt_summary(results)}")

    networks = {"initial": network} | ({"trained": trained} if trained is not None else {})
    measured = {s: effective_fields(n, images, fields=fields) for s, n in networks.items()}
    figures = {}
    if measured["initial"]:
        shown = _spaced(list(measured["initial"]), NUM_DRAWN)
        print(f"\nEffective fields of the central unit, mean over {len(images)} images")
        print(effective_table(measured))
        layers = [layer_boxes(name, fields[name]) for name in shown]
        figures["boxes.png"] = boxes_figure(images[0].mean(0).cpu().numpy(), layers)
        figures["effective.png"] = effective_fields_figure(
            {state: {n: field_map(e[n]) for n in shown} for state, e in measured.items()}
        )

    chains = tutorial_chains()
    print("\nThe tutorial's chains on images of 28 x 28")
    print(chain_table(chains))
    figures["chains.png"] = chains_figure(chains)

    print()
    for name, figure in figures.items():
        figure.savefig(folder / name)
        print(folder / name)
    return confirmed(results)


def _spaced(names: Sequence[str], num_kept: int) -> list[str]:
    """The first, the last and evenly spaced ones between."""
    if len(names) <= num_kept:
        return list(names)
    return [names[i * (len(names) - 1) // (num_kept - 1)] for i in range(num_kept)]


def field_table(fields: Mapping[str, Field]) -> str:
    """One line for consecutive layers with one field; pairs in which both agree as one number."""
    groups: list[tuple[list[str], list[str]]] = []
    for name, field in fields.items():
        pairs = (field.units, field.size, field.stride, field.start, field.num_used)
        line = [*map(_pair, pairs), _remark(field)]
        if groups and groups[-1][1] == line:
            groups[-1][0].append(name)
        else:
            groups.append(([name], line))
    heading = ["layers", "units", "size", "stride", "start", "used", ""]
    lines = [[names[0] + (f" ... {names[-1]}" if names[1:] else ""), *x] for names, x in groups]
    note = "in pixels; start: the first that unit 0 sees; used: size without the holes"
    return f"{_table([heading, *lines])}\n{note}"


def _remark(field: Field) -> str:
    remarks = []
    if field.whole:
        remarks.append("whole image" if field.num_used == field.image_size else "all units alike")
    if field.misaligned:
        remarks.append("misaligned paths")
    if not field.rectangular:
        remarks.append("less than the full rectangle")
    if any(field.num_unread):
        rows, columns = field.num_unread
        remarks.append(f"rows, columns of its input left unread: {rows}, {columns}")
    if field.bound:
        remarks.append(f"at most: {field.bound}")
    return "; ".join(remarks)


def receipt_summary(results: Sequence[Receipt]) -> str:
    """What each experiment confirms, what it cannot tell and why, and the verdict."""
    lines = []
    for experiment in ("gradient", "nan"):
        ours = [r for r in results if r.experiment == experiment]
        good = [r for r in ours if r.agrees and r.num_units]
        lines.append(
            f"{experiment}: {len(good)} of {len(ours)} layers agree with the formulas, "
            f"{sum(r.num_units for r in good):,} units"
        )
        remarks: dict[str, list[str]] = {}
        for receipt in ours:
            if receipt.agrees and receipt.remark:
                remarks.setdefault(receipt.remark, []).append(receipt.layer)
        for remark, layers in remarks.items():
            where = layers[0] if len(layers) == 1 else f"{len(layers)} layers from {layers[0]} on"
            lines.append(f"  {where}: {remark}")
        lines += [f"  {receipt}" for receipt in ours if not receipt.agrees]
    lines.append(f"formulas, gradient and NaN {'agree' if confirmed(results) else 'DO NOT AGREE'}")
    return "\n".join(lines)


def effective_table(measured: Mapping[str, Mapping[str, EffectiveField]]) -> str:
    """One line for each state of the network and each layer."""
    lines = [["", "layer", "unit", "size", "sigma", "50 %", "95 %", "ratio"]]
    for state, effective in measured.items():
        for name, field in effective.items():
            size = [last - first + 1 for first, last in field.interval]
            sigma = " x ".join(f"{s:.2f}" for s in field.sigma)
            squares = [str(field.square(share)) for share in (0.5, 0.95)]
            unit = f"{field.unit[0]}, {field.unit[1]}"
            lines.append([state, name, unit, _pair(size), sigma, *squares, f"{field.ratio:.2f}"])
    note = (
        "sigma and the squares that hold 50 % and 95 % of the mass in pixels; ratio: 95 % to size"
    )
    return f"{_table(lines)}\n{note}"


def field_map(field: EffectiveField) -> FieldMap:
    """For the picture."""
    vertical, horizontal = field.sigma
    squares = [field.square(share) for share in (0.95, 0.5)]
    note = f"σ {vertical:.2f} × {horizontal:.2f} px\n95 %: {squares[0]} px, 50 %: {squares[1]} px\n"
    note += f"95 % to size: {field.ratio:.2f}"
    return FieldMap(field.mass.numpy(), field.interval, squares, note)


def layer_boxes(name: str, field: Field) -> LayerBoxes:
    """The first, the middle and the last unit of a layer, for the picture."""
    rows, columns = field.units
    units = [(0, 0), (rows // 2, columns // 2), (rows - 1, columns - 1)]
    title = f"{name}: size {_pair(field.size)}, stride {_pair(field.stride)}"
    return LayerBoxes(title, {unit: field.interval(unit) for unit in units})


def tutorial_chains() -> list[Chain]:
    """The tutorial's four architectures with what they cost.

    Its count, one weight per channel pair, is right where a layer has as many channels in as
    out; behind a grey image the first layer has one channel in, and the order turns round.
    """
    chains = []
    for name, layers in CHAINS.items():
        channels = [WIDTH if stride == 1 else None for _, stride in layers]
        inside: Stack = stack(layers, channels=channels, in_channels=WIDTH)
        behind: Stack = stack(layers, channels=channels, in_channels=1)
        costs = {
            "weights per pair": inside.num_pair_weights,
            f"parameters {WIDTH} → {WIDTH}": inside.num_parameters,
            f"parameters 1 → {WIDTH}": behind.num_parameters,
            f"MACs 1 → {WIDTH}": behind.num_macs,
        }
        chains.append(Chain(name, inside.sizes, costs, inside.profile, inside.sigma))
    return chains


def chain_table(chains: Sequence[Chain]) -> str:
    """One line a chain."""
    lines = [["", "size by layer", "sigma", *chains[0].costs]]
    for chain in chains:
        costs = [f"{cost:,}" for cost in chain.costs.values()]
        lines.append([chain.name, " ".join(map(str, chain.sizes)), f"{chain.sigma:.3f}", *costs])
    note = "per pair: one channel in, one out; → : channels into the first convolution, out of all"
    return f"{_table(lines)}\n{note}"


def _pair(pair: Sequence[int | Fraction | None]) -> str:
    vertical, horizontal = ("-" if n is None else str(n) for n in pair)
    return vertical if vertical == horizontal else f"{vertical} x {horizontal}"


def _table(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry; the first and the last to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = []
    for line in lines:
        cells = [
            cell.ljust(width) if i == 0 or not lines[0][i] else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(cells).rstrip())
    return "\n".join(text)
