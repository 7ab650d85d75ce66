"""Checks: two experiments that must find the fields that the formulas give.

`gradient`: the support of the gradient through a copy in float64 with positive weights,
activations made linear and max-pooling made a mean, so that nothing cancels and nothing is cut
off. `nan`: the network as it is, with one pixel set to NaN; whatever depends on it becomes NaN.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from simplecnn.receptive_field.axis import Axis
from simplecnn.receptive_field.fields import Field, blank_image, receptive_fields
from simplecnn.receptive_field.trace import named_outputs

MAX_NAN_PIXELS = 1024  # larger images get their NaN in every row and column, not in every pixel
CHUNK_PIXELS = 65_536  # in one batch of images


@dataclass(frozen=True)
class Check:
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


def all_agree(checks: Sequence[Check]) -> bool:
    """Whether no check disagrees, and each experiment applies to some layer."""
    applied = {c.experiment for c in checks if c.num_units}
    return all(c.agrees for c in checks) and applied == {c.experiment for c in checks}


def check_fields(
    network: nn.Module,
    input_size: int | Sequence[int],
    *,
    fields: dict[str, Field] | None = None,
    layers: Collection[str] | None = None,
    max_units: int = 32,
) -> list[Check]:
    """Two checks for each layer, or for each of `layers`.

    `fields` are the ones to be checked, by default those of `receptive_fields`. The gradient is
    taken for up to `max_units` units a layer, evenly spaced from the first to the last; the NaN
    experiment compares all units.
    """
    image = blank_image(network, input_size)
    fields = receptive_fields(network, tuple(image.shape[1:])) if fields is None else fields
    unknown = sorted(set(layers or ()) - set(fields))
    if unknown:
        raise ValueError(f"layers names {', '.join(unknown)}: choose from {', '.join(fields)}.")
    fields = {name: field for name, field in fields.items() if layers is None or name in layers}
    by_gradient = _gradient_checks(network, image, fields, max_units)
    by_nan = _nan_checks(network, image, fields)
    return [check for pair in zip(by_gradient, by_nan, strict=True) for check in pair]


class _Positions:
    """The positions of a layer's output along the dimensions that carry the image axes.

    `places` (positions, dims) are their indices, `rows` (positions, H) and `columns`
    (positions, W) what the formulas say that each depends on.
    """

    def __init__(self, field: Field, shape: Sequence[int]) -> None:
        self.dims = tuple(sorted({a.dim for a in field.axes if a.dim is not None}))
        indices = list(product(*(range(shape[d]) for d in self.dims)))
        self.places = torch.tensor(indices, dtype=torch.long)
        self.rows, self.columns = map(self._seen, field.axes)

    def _seen(self, axis: Axis) -> Tensor:
        used = torch.from_numpy(axis.used)
        if axis.dim is None:
            return used.expand(len(self.places), -1)
        return used[self.places[:, self.dims.index(axis.dim)] // axis.inner % len(used)]

    def name(self, position: int) -> tuple[int, ...]:
        return tuple(self.places[position].tolist())


def _by_image(output: Tensor, num_images: int) -> Tensor:
    """(B, ...) where a reshape may have put more than the images into the first dimension."""
    return output.reshape(num_images, len(output) // num_images, *output.shape[1:])


def _listed(operations: Sequence[str]) -> str:
    return ", ".join(f"aten.{name}" for name in operations)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


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
    "fractional_max_pool2d", "max_pool1d", "max_pool3d",
}  # fmt: skip


class _Positive(TorchFunctionMode):
    """Activations pass their input on; max-pooling gives the mean of its window; interpolation
    has positive weights."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in _ACTIVATIONS:
            return (args[0] if args else kwargs["input"]).clone()
        if name == "interpolate":
            return _positive_interpolation(*args, **kwargs)
        result = func(*args, **kwargs)
        if not name.startswith(("max_pool2d", "adaptive_max_pool2d")):
            return result
        output = result[0] if isinstance(result, tuple) else result
        if name.startswith("adaptive"):
            output = functional.adaptive_avg_pool2d(args[0], output.shape[-2:])
        else:
            output = _mean_pool(*args, **kwargs, output_size=output.shape[-2:])
        return (output, *result[1:]) if isinstance(result, tuple) else output


def _mean_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    *args: Any,
    output_size: Sequence[int],
    **kwargs: Any,
) -> Tensor:
    """The mean over the windows of a max-pooling, which may be dilated."""

    kernel, before, gaps = map(_pair, (kernel_size, padding, dilation))
    steps = _pair(stride or kernel_size)
    sides: list[int] = []
    for i in (1, 0):  # with ceil_mode, windows reach beyond the padding
        reach = (output_size[i] - 1) * steps[i] + gaps[i] * (kernel[i] - 1) + 1
        sides += [before[i], reach - before[i] - input.shape[i - 2]]
    channels = input.shape[-3]
    weight = input.new_full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1]))
    return functional.conv2d(functional.pad(input, sides), weight, None, steps, 0, gaps, channels)


def _pair(value: Any) -> list[int]:
    return [value] * 2 if isinstance(value, int) else [*value, *value][:2]


def _positive_interpolation(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The absolute weights of the interpolation, without those that are zero but for rounding."""
    weights = []
    for dim in (-2, -1):
        size = input.shape[dim]
        basis = torch.eye(size, dtype=input.dtype, device=input.device)
        images = basis[:, None, :, None].expand(-1, -1, -1, 2)  # one line is 1, two columns wide
        images = images if dim == -2 else images.transpose(-2, -1)
        answer = functional.interpolate(images, *args, **kwargs).select(-3 - dim, 0)[:, 0].abs()
        weights.append(torch.where(answer > 1e-9, answer, 0))
    return torch.einsum("...hw,hi,wj->...ij", input, *weights)


def _positive_state(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights and statistics with which every path from pixel to unit counts, and counts up:
    random positive weights that average, no biases, normalization by mean 0 and variance 1."""

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
def _gradient_checks(
    network: nn.Module, image: Tensor, fields: dict[str, Field], max_units: int
) -> list[Check]:
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
        return [Check(name, "gradient", True, 0, reason) for name in fields]
    checks = []
    for name, field in fields.items():
        hides = sorted(field.operations & _WITHOUT_GRADIENT)
        reason = (
            f"aten.{', aten.'.join(hides)} hides part of the gradient" if hides else field.bound
        )
        output = _by_image(outputs[name], num_copies)
        if not output.requires_grad:
            remark = reason or "the output has no gradient"
            checks.append(Check(name, "gradient", True, 0, remark))
            continue
        positions = _Positions(field, output.shape[1:])
        last, num_units = len(positions.places) - 1, max(2, max_units)
        chosen = sorted({round(i * last / (num_units - 1)) for i in range(num_units)})
        support = _gradient_support(output, x, positions, chosen, generator)
        wrong = _difference(positions, chosen, support, exact=not reason)
        remark = f"as an upper bound: {reason}" if reason else ""
        if not wrong and not reason:
            wrong, remark = _interval_difference(field)
        checks.append(Check(name, "gradient", not wrong, len(chosen), wrong or remark))
    return checks


def _gradient_support(
    output: Tensor, x: Tensor, positions: _Positions, chosen: list[int], generator: torch.Generator
) -> Tensor:
    """Where each chosen position of `output` (B, ...) has a gradient: (chosen, H, W)."""
    # positive, and not equal: the channels of a layer norm would cancel
    weights = torch.rand(output.shape[1:], generator=generator, dtype=torch.float64) + 0.5
    supports = []
    for start in range(0, len(chosen), len(x)):
        chunk = chosen[start : start + len(x)]
        seeds = torch.zeros(output.shape, dtype=torch.float64)
        for copy, position in enumerate(chunk):
            index: list[Any] = [slice(None)] * weights.dim()
            for dim, place in zip(positions.dims, positions.name(position), strict=True):
                index[dim] = place
            seeds[copy][tuple(index)] = weights[tuple(index)]
        # not grad_outputs=seeds, which imports a good part of torch's compiler
        answer = (output * seeds.to(output.device)).sum()
        (gradient,) = torch.autograd.grad(answer, x, retain_graph=True)
        supports.append((gradient[: len(chunk)] != 0).any(1).cpu())
    return torch.cat(supports)


def _difference(positions: _Positions, chosen: list[int], support: Tensor, *, exact: bool) -> str:
    """The first position that differs from the formulas, in words; empty where none does."""
    given = positions.rows[chosen][:, :, None] & positions.columns[chosen][:, None]
    differs = support != given if exact else support & ~given
    wrong = differs.any(2).any(1).nonzero()
    if not len(wrong):
        return ""
    first = int(wrong[0])
    return (
        f"unit {positions.name(chosen[first])} depends on {_box(support[first])}, "
        f"the formulas give {_box(given[first])}"
    )


def _interval_difference(field: Field) -> tuple[str, str]:
    """Where the closed form, `interval`, differs from `used` for a unit that sees no border, and a
    remark where there is no such unit; in words."""
    remark = ""
    for axis, lines in zip(field.axes, ("rows", "columns"), strict=True):
        if axis.pattern is None:  # the interval is what `used` says
            continue
        units = (~axis.cut).nonzero()[0].tolist()
        for unit in units:
            interval, pixels = axis.pattern.at(unit), axis.used[unit].nonzero()[0].tolist()
            if list(interval) != [*pixels[:1], *pixels[-1:]]:
                return f"unit {unit} depends on {lines} {pixels}, its interval is {interval}", ""
        if not units:
            remark = "every unit sees a border: size and start rest on the formulas alone"
    return "", remark


def _box(mask: Tensor) -> str:
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return "nothing"
    return (
        f"{int(mask.sum())} pixels in rows {rows[0]} to {rows[-1]}, "
        f"columns {columns[0]} to {columns[-1]}"
    )


# The NaN experiment.

# Operations that multiply neighbors by zero, which makes NaN of a NaN.
_SPREADS_NAN = {
    "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d",
}  # fmt: skip
# Operations that answer a NaN with a number.
_STOPS_NAN = {
    "gt", "lt", "ge", "le", "eq", "ne", "isnan", "isfinite", "nan_to_num", "argmax", "argmin",
    "topk", "sort", "nansum", "nanmean",
}  # fmt: skip


def _nan_checks(network: nn.Module, image: Tensor, fields: dict[str, Field]) -> list[Check]:
    positions: dict[str, _Positions] = {}
    wrong: dict[str, str] = {}
    pixels = torch.zeros(0)  # (B, H, W), of the batch that is under way

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if name not in fields or name in wrong:
            return
        mask = _by_image(output.isnan(), len(pixels))
        if name not in positions:
            positions[name] = _Positions(fields[name], mask.shape[1:])
        layer = positions[name]
        others = [d for d in range(1, mask.dim()) if d - mask.dim() not in layer.dims]
        became_nan = (mask.amax(others) if others else mask).reshape(len(mask), -1).cpu()
        # the pixels set to NaN are rows x columns, as is what a position sees
        given = pixels.any(2).float() @ layer.rows.float().T > 0
        given &= pixels.any(1).float() @ layer.columns.float().T > 0
        differs = became_nan != given
        if fields[name].bound or fields[name].operations & _STOPS_NAN:
            differs &= became_nan
        if fields[name].operations & _SPREADS_NAN:
            differs &= given
        if differs.any():
            which, position = (int(i) for i in differs.nonzero()[0])
            first = tuple(pixels[which].nonzero()[0].tolist())
            where = "at" if pixels[which].sum() == 1 else "in the line from"
            verb = "does not answer" if given[which, position] else "answers"
            wrong[name] = f"unit {layer.name(position)} {verb} to a NaN {where} {first}"

    generator = torch.Generator().manual_seed(0)
    plain = torch.rand(image.shape, generator=generator, dtype=torch.float64).to(image.device)
    # in float64, since fast float32 convolutions (Winograd) carry a NaN to a whole tile
    state = {name: value.detach() for name, value in network.state_dict(keep_vars=True).items()}
    state = {n: v.double() if v.is_floating_point() else v for n, v in state.items()}
    try:
        with torch.no_grad(), named_outputs(network, receive):
            for pixels in _nan_pixels(image.shape[-2], image.shape[-1]):
                mask = pixels[:, None].to(image.device)
                functional_call(network, state, plain.masked_fill(mask, float("nan")))
    except RuntimeError as error:
        reason = f"the network does not run on a batch ({_first_line(error)})"
        return [Check(name, "nan", True, 0, reason) for name in fields]
    return [
        Check(name, "nan", name not in wrong, len(p.places), wrong.get(name, _nan_remark(field)))
        for (name, field), p in zip(fields.items(), (positions[n] for n in fields), strict=True)
    ]


def _nan_remark(field: Field) -> str:
    spreads = sorted(field.operations & _SPREADS_NAN)
    stops = sorted(field.operations & _STOPS_NAN)
    if field.bound:
        return f"as an upper bound: {field.bound}"
    if spreads:
        return f"as a lower bound: {_listed(spreads)} spreads NaN by weights of zero"
    return f"as an upper bound: {_listed(stops)} stops NaN" if stops else ""


def _nan_pixels(height: int, width: int) -> Iterator[Tensor]:
    """Masks (B, H, W) of the pixels to set to NaN: each row, each column, and in small images each
    pixel by itself."""
    rows = torch.eye(height, dtype=torch.bool)[:, :, None].expand(-1, -1, width)
    columns = torch.eye(width, dtype=torch.bool)[:, None, :].expand(-1, height, -1)
    masks = torch.cat([rows, columns])
    if height * width <= MAX_NAN_PIXELS:
        pixels = torch.eye(height * width, dtype=torch.bool).reshape(-1, height, width)
        masks = torch.cat([masks, pixels])
    yield from masks.split(max(1, CHUNK_PIXELS // (height * width)))
