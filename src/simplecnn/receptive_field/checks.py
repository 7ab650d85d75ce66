"""Receipts: two experiments that must find the footprints that the formulas give.

`gradient`: the support of the gradient through a copy in float64 with positive weights,
activations made linear and max-pooling made a sum, so that nothing cancels and nothing is cut
off. `nan`: the network as it is, with one pixel set to NaN; whatever depends on it becomes NaN.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from simplecnn.receptive_field.fields import Field, blank_image, receptive_fields
from simplecnn.receptive_field.trace import named_outputs

NAN_PIXELS = 1024  # larger images get their NaN in every row and column, not in every pixel
CHUNK_PIXELS = 65_536  # in one batch of images


@dataclass(frozen=True)
class Receipt:
    """What one experiment says of one layer."""

    layer: str
    experiment: str  # "gradient" or "nan"
    agrees: bool
    num_units: int  # compared; 0 where the experiment does not apply
    remark: str = ""  # why it applies in part or not at all, or where it disagrees

    def __str__(self) -> str:
        if not self.agrees:
            return f"{self.layer}: the {self.experiment} experiment disagrees: {self.remark}"
        if not self.num_units:
            return f"{self.layer}: no {self.experiment} experiment: {self.remark}"
        remark = f" ({self.remark})" if self.remark else ""
        return f"{self.layer}: {self.experiment} agrees for {self.num_units} units{remark}"


def confirmed(results: Sequence[Receipt]) -> bool:
    """Whether no receipt disagrees, and each experiment could say something of some layer."""
    could_say = {r.experiment for r in results if r.num_units}
    return all(r.agrees for r in results) and could_say == {r.experiment for r in results}


def receipts(
    network: nn.Module,
    input_size: int | Sequence[int],
    *,
    fields: dict[str, Field] | None = None,
    layers: Collection[str] | None = None,
    max_units: int = 32,
) -> list[Receipt]:
    """Two receipts for each layer, or for each of `layers`.

    `fields` are the ones to be checked, by default those of `receptive_fields`. The gradient is
    taken for up to `max_units` units a layer, spread over all rows and columns; the NaN
    experiment compares all units.
    """
    image = blank_image(network, input_size)
    fields = receptive_fields(network, tuple(image.shape[1:])) if fields is None else fields
    unknown = sorted(set(layers or ()) - set(fields))
    if unknown:
        raise ValueError(f"layers names {', '.join(unknown)}: choose from {', '.join(fields)}.")
    fields = {name: field for name, field in fields.items() if layers is None or name in layers}
    by_gradient = _gradient_receipts(network, image, fields, max_units)
    by_nan = _nan_receipts(network, image, fields)
    return [r for pair in zip(by_gradient, by_nan, strict=True) for r in pair]


@dataclass(frozen=True)
class _Elements:
    """The positions of a layer's output that differ in footprint, in one list.

    `dims` are the dimensions that carry the image axes; `rows` (elements, H) and `columns`
    (elements, W) the footprint of each element.
    """

    dims: tuple[int, ...]
    sizes: tuple[int, ...]
    rows: Tensor
    columns: Tensor

    def __len__(self) -> int:
        return len(self.rows)


def _elements(field: Field, shape: Sequence[int]) -> _Elements:
    dims = tuple(sorted({a.dim for a in field.axes if a.dim is not None}))
    sizes = tuple(shape[d] for d in dims)
    places = torch.tensor(list(product(*map(range, sizes))), dtype=torch.long)
    tables = []
    for axis in field.axes:
        table = torch.zeros(len(axis.inside), axis.num_columns, dtype=torch.bool)
        for unit, seen in enumerate(axis.inside):
            table[unit, list(seen)] = True
        if axis.dim is None:
            tables.append(table.expand(len(places), -1))
        else:
            place = places[:, dims.index(axis.dim)]
            tables.append(table[place // axis.inner % len(axis.inside)])
    return _Elements(dims, sizes, *tables)


def _found(mask: Tensor, dims: tuple[int, ...]) -> Tensor:
    """(B, ...) True where an element answered, to (B, elements): any over all other dims."""
    others = [d for d in range(1, mask.dim()) if d - mask.dim() not in dims]
    return (mask.amax(others) if others else mask).reshape(len(mask), -1)


# The gradient experiment.

_ACTIVATIONS = {
    "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "hardswish", "hardsigmoid", "silu", "gelu",
    "elu", "elu_", "selu", "selu_", "celu", "celu_", "leaky_relu", "leaky_relu_", "prelu",
    "rrelu", "rrelu_", "mish", "softplus", "softsign", "tanhshrink", "hardshrink", "softshrink",
    "threshold", "_threshold", "threshold_", "sigmoid", "sigmoid_", "tanh", "tanh_",
    "logsigmoid", "log_sigmoid", "clamp", "clamp_", "clamp_min", "clamp_max", "clip",
}  # fmt: skip
# Operations with no or almost no gradient that the positive copy leaves as they are.
_WITHOUT_GRADIENT = {
    "amax", "amin", "max", "min", "maximum", "minimum", "argmax", "argmin", "topk", "sort",
    "median", "round", "floor", "ceil", "sign", "gt", "lt", "ge", "le", "eq", "ne",
    "fractional_max_pool2d",
}  # fmt: skip


class _Positive(TorchFunctionMode):
    """Activations pass their input on; max-pooling gives the mean of its window."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _ACTIVATIONS:
            return (args[0] if args else kwargs["input"]).clone()
        result = func(*args, **kwargs)
        if "max_pool" not in name or "fractional" in name or "unpool" in name:
            return result
        outputs = result if isinstance(result, tuple) else (result,)
        sizes = outputs[0].shape[-int(name[name.index("pool") + 4]) :]
        if name.startswith("adaptive"):
            average = name.replace("max", "avg").removesuffix("_with_indices")
            pooled = getattr(nn.functional, average)(args[0], sizes)
        else:
            names = ("kernel_size", "stride", "padding", "dilation")
            given = dict(zip(names, args[1:5], strict=False)) | kwargs
            pooled = _window_mean(args[0], sizes, given)
        return (pooled, *outputs[1:]) if isinstance(result, tuple) else pooled


def _window_mean(x: Tensor, sizes: Sequence[int], given: dict[str, Any]) -> Tensor:
    """The mean over the windows of a max-pooling with output `sizes`, one axis at a time."""

    def of_axis(name: str, axis: int, default: Any) -> int:
        value = given.get(name)
        value = default if value is None or value == [] else value
        values = [value] if isinstance(value, int) else list(value)
        return values[axis % len(values)]

    for axis, num_out in enumerate(sizes):
        kernel = of_axis("kernel_size", axis, None)
        stride = of_axis("stride", axis, given["kernel_size"])
        before = of_axis("padding", axis, 0)
        dilation = of_axis("dilation", axis, 1)
        dim = axis - len(sizes)
        reach = (num_out - 1) * stride + dilation * (kernel - 1) + 1
        sides = [0] * (2 * len(sizes))
        sides[2 * (-dim - 1)], sides[2 * (-dim - 1) + 1] = before, reach - before - x.shape[dim]
        padded = nn.functional.pad(x, sides)
        taps = [t * dilation + torch.arange(num_out) * stride for t in range(kernel)]
        x = torch.stack([padded.index_select(dim, tap.to(x.device)) for tap in taps]).mean(0)
    return x


def _positive_state(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights and statistics with which every path from pixel to unit counts, and counts up:
    random positive weights that average, no biases, normalisation by mean 0 and variance 1."""

    def positive(like: Tensor) -> Tensor:
        values = torch.rand(like.shape, generator=generator, dtype=torch.float64) + 0.5
        return values.to(like.device)

    state = {}
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            state[name] = torch.zeros_like(value, dtype=torch.float64)
        elif value.dim() < 2:
            state[name] = positive(value)
        else:
            state[name] = positive(value) / (value.numel() / len(value))
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            state[name] = torch.zeros_like(buffer, dtype=torch.float64)
        elif name.endswith("running_var"):
            state[name] = torch.ones_like(buffer, dtype=torch.float64)
        elif buffer.is_floating_point():
            state[name] = buffer.double()
    return state


@torch.enable_grad()
def _gradient_receipts(
    network: nn.Module, image: Tensor, fields: dict[str, Field], max_units: int
) -> list[Receipt]:
    generator = torch.Generator().manual_seed(0)
    # one image, many times over: each copy is asked for the gradient of another unit
    num_copies = max(1, min(max_units, CHUNK_PIXELS // (image.shape[-2] * image.shape[-1])))
    x = torch.rand(image.shape, generator=generator, dtype=torch.float64) + 0.5
    x = x.to(image.device).expand(num_copies, -1, -1, -1).clone().requires_grad_()
    outputs: dict[str, Tensor] = {}

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if name in fields:  # a copy, since a later operation may write into the output
            outputs[name] = output.clone()

    state = _positive_state(network, generator)
    try:
        with named_outputs(network, receive), _Positive():
            functional_call(network, state, (x,))
    except RuntimeError as error:
        reason = f"the network does not run on a batch in float64 ({_first_line(error)})"
        return [Receipt(name, "gradient", True, 0, reason) for name in fields]
    receipts = []
    for name, field in fields.items():
        remark = field.bound
        blind = sorted(field.operations & _WITHOUT_GRADIENT)
        if blind:
            remark = f"aten.{', aten.'.join(blind)} hides part of the gradient"
        output = outputs[name]
        if not output.requires_grad:
            receipts.append(Receipt(name, "gradient", True, 0, remark or "no gradient comes out"))
            continue
        elements = _elements(field, _by_image(output, num_copies).shape[1:])
        chosen = _chosen(elements, max_units)
        middle = _unclipped_unit(field)
        if middle is not None:
            chosen.append(_element(field, elements, middle))
        found = _gradient_support(output, x, elements, chosen, generator)
        wrong = _difference(field, elements, chosen, found, missing_allowed=bool(remark))
        if not remark and middle is not None:
            wrong = wrong or _interval_difference(field, middle, found[-1])
        remark = remark and f"as an upper bound: {remark}"
        if not remark and middle is None and not _shares_dimension(field):
            remark = "every unit sees padding: size and start rest on the formulas alone"
        num_units = len(set(chosen))
        receipts.append(Receipt(name, "gradient", not wrong, num_units, wrong or remark))
    return receipts


def _by_image(output: Tensor, num_images: int) -> Tensor:
    """(B, ...) where a reshape may have put more than the images into the first dimension."""
    return output.reshape(num_images, len(output) // num_images, *output.shape[1:])


def _gradient_support(
    output: Tensor, x: Tensor, elements: _Elements, chosen: list[int], generator: torch.Generator
) -> Tensor:
    """Where each chosen element has a gradient: (elements, H, W)."""
    output = _by_image(output, len(x))
    # positive, and not equal: the channels of a layer norm would cancel
    weights = torch.rand(output.shape[1:], generator=generator, dtype=torch.float64) + 0.5
    supports = []
    for start in range(0, len(chosen), len(x)):
        chunk = chosen[start : start + len(x)]
        seeds = torch.zeros(output.shape, dtype=torch.float64)
        for copy, element in enumerate(chunk):
            index: list[Any] = [slice(None)] * weights.dim()
            for dim, place in zip(elements.dims, _place(elements, element), strict=True):
                index[dim] = place
            seeds[copy][tuple(index)] = weights[tuple(index)]
        # not grad_outputs=seeds, which imports a good part of torch's compiler
        answer = (output * seeds.to(output.device)).sum()
        (gradient,) = torch.autograd.grad(answer, x, retain_graph=True)
        supports.append((gradient[: len(chunk)] != 0).any(1).cpu())
    return torch.cat(supports)


def _chosen(elements: _Elements, max_units: int) -> list[int]:
    """Elements in every row and every column, along the diagonal, and the two other corners."""
    if len(elements) <= max_units:
        return list(range(len(elements)))
    sizes = elements.sizes
    longest = max(sizes)
    num_steps = min(longest, max_units)
    steps = [i * (longest - 1) // max(num_steps - 1, 1) for i in range(num_steps)]
    places = [tuple(min(step, n - 1) for n in sizes) for step in steps]
    if len(sizes) == 2:
        places += [(0, sizes[1] - 1), (sizes[0] - 1, 0)]
    return sorted({p[0] if len(sizes) == 1 else p[0] * sizes[1] + p[1] for p in places})


def _unclipped_unit(field: Field) -> tuple[int, int] | None:
    """The unit nearest the middle that sees no padding; None where every unit sees some, and
    where a unit is not one row and one column of positions."""
    if _shares_dimension(field):
        return None
    unit = []
    for which, num_pixels in enumerate(field.image_size):
        fitting = []
        for i in range(field.units[which]):
            first, last = field.interval((i, 0) if which == 0 else (0, i))[which]
            if 0 <= first <= last < num_pixels:
                fitting.append((abs(first + last - num_pixels + 1), i))
        if not fitting:
            return None
        unit.append(min(fitting)[1])
    return unit[0], unit[1]


def _shares_dimension(field: Field) -> bool:
    """Rows and columns lie in one dimension, as after flatten."""
    return field.axes[0].dim == field.axes[1].dim is not None


def _element(field: Field, elements: _Elements, unit: tuple[int, int]) -> int:
    places = {axis.dim: i for axis, i in zip(field.axes, unit, strict=True)}
    element = 0
    for dim, size in zip(elements.dims, elements.sizes, strict=True):
        element = element * size + places[dim]
    return element


def _interval_difference(field: Field, unit: tuple[int, int], found: Tensor) -> str:
    """Whether the closed form, `interval`, gives what was found of an unclipped unit, in words."""
    lines = [found.any(dim).nonzero().flatten().tolist() for dim in (1, 0)]
    ends = tuple((line[0], line[-1]) if line else (0, -1) for line in lines)
    if ends == field.interval(unit):
        return ""
    return f"unit {unit} depends on {_box(found)}, its interval is {field.interval(unit)}"


def _place(elements: _Elements, element: int) -> tuple[int, ...]:
    if len(elements.sizes) == 2:
        return divmod(element, elements.sizes[1])
    return (element,) if elements.sizes else ()


def _difference(
    field: Field,
    elements: _Elements,
    chosen: list[int],
    found: Tensor,
    *,
    missing_allowed: bool,
) -> str:
    """The first element that differs from the formulas, in words; empty where none does."""
    given = elements.rows[chosen][:, :, None] & elements.columns[chosen][:, None]
    wrong = (found & ~given).any((1, 2))
    if missing_allowed:
        pass
    elif field.rectangular:
        wrong |= (given & ~found).any((1, 2))
    else:  # a cross leaves pixels out, but no row and no column
        for dim in (1, 2):
            wrong |= (given.any(dim) & ~found.any(dim)).any(1)
    if not wrong.any():
        return ""
    first = int(wrong.nonzero()[0])
    return (
        f"unit {_place(elements, chosen[first])} depends on {_box(found[first])}, "
        f"the formulas give {_box(given[first])}"
    )


def _box(mask: Tensor) -> str:
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return "nothing"
    return (
        f"{int(mask.sum())} pixels in rows {rows[0]} to {rows[-1]}, "
        f"columns {columns[0]} to {columns[-1]}"
    )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


# The NaN experiment.

# Operations that multiply neighbours by zero, which makes NaN of a NaN.
_SPREADS_NAN = {
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
}  # fmt: skip
# Operations that answer a NaN with a number.
_STOPS_NAN = {
    "gt", "lt", "ge", "le", "eq", "ne", "isnan", "isfinite", "nan_to_num", "argmax", "argmin",
    "topk", "sort", "nansum", "nanmean",
}  # fmt: skip


def _nan_receipts(network: nn.Module, image: Tensor, fields: dict[str, Field]) -> list[Receipt]:
    elements: dict[str, _Elements] = {}
    wrong: dict[str, str] = {}
    remarks = {name: _nan_remark(field) for name, field in fields.items()}
    pixels = torch.zeros(0)

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if name not in fields or name in wrong:
            return
        num_images = len(pixels)
        mask = _by_image(output.isnan(), num_images)
        if name not in elements:
            elements[name] = _elements(fields[name], mask.shape[1:])
        layer = elements[name]
        found = _found(mask, layer.dims).cpu()
        # a spoilt pixel or line is rows x columns, as is what an element sees
        given = pixels.any(2).float() @ layer.rows.float().T > 0
        given &= pixels.any(1).float() @ layer.columns.float().T > 0
        differs = found != given
        if fields[name].bound:
            differs &= found
        if not fields[name].rectangular:  # a cross leaves pixels out, but no row or column
            lines = pixels.sum((1, 2)) > 1
            differs &= lines[:, None] | found
        if fields[name].operations & _SPREADS_NAN:
            differs &= given
        if fields[name].operations & _STOPS_NAN:
            differs &= found
        if differs.any():
            which, element = (int(i) for i in differs.nonzero()[0])
            place = pixels[which].nonzero()[0].tolist()
            says = "does not answer" if given[which, element] else "answers"
            wrong[name] = (
                f"unit {_place(layer, element)} {says} to a NaN "
                f"{'at' if pixels[which].sum() == 1 else 'in the line from'} {tuple(place)}"
            )

    generator = torch.Generator().manual_seed(0)
    plain = torch.rand(image.shape, generator=generator, dtype=torch.float64).to(image.device)
    # in float64, since fast float32 convolutions (Winograd) carry a NaN to a whole tile
    state = {name: value.detach() for name, value in network.state_dict(keep_vars=True).items()}
    state = {n: v.double() if v.is_floating_point() else v for n, v in state.items()}
    try:
        with torch.no_grad(), named_outputs(network, receive):
            for pixels in _nan_places(image.shape[-2], image.shape[-1]):
                spoilt = pixels[:, None].to(image.device)
                functional_call(network, state, plain.masked_fill(spoilt, float("nan")))
    except RuntimeError as error:
        reason = f"the network does not run on a batch ({_first_line(error)})"
        return [Receipt(name, "nan", True, 0, reason) for name in fields]
    return [
        Receipt(name, "nan", name not in wrong, len(elements[name]), wrong.get(name, remarks[name]))
        for name in fields
    ]


def _nan_remark(field: Field) -> str:
    if field.bound:
        return f"as an upper bound: {field.bound}"
    spreads = sorted(field.operations & _SPREADS_NAN)
    if spreads:
        return f"as a lower bound: aten.{', aten.'.join(spreads)} spreads NaN by weights of zero"
    stops = sorted(field.operations & _STOPS_NAN)
    if stops:
        return f"as an upper bound: aten.{', aten.'.join(stops)} stops NaN"
    return ""


def _nan_places(height: int, width: int) -> Iterator[Tensor]:
    """Masks (B, H, W) of the pixels to spoil: each row, each column, and in small images each
    pixel by itself."""
    rows = torch.eye(height, dtype=torch.bool)[:, :, None].expand(-1, -1, width)
    columns = torch.eye(width, dtype=torch.bool)[:, None, :].expand(-1, height, -1)
    places = torch.cat([rows, columns])
    if height * width <= NAN_PIXELS:
        pixels = torch.eye(height * width, dtype=torch.bool).reshape(-1, height, width)
        places = torch.cat([places, pixels])
    yield from places.split(max(1, CHUNK_PIXELS // (height * width)))
