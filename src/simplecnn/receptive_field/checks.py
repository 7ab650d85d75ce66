"""Two experiments that verify the computed receptive fields.

Both perturb some pixels of an image and observe which units of each layer respond. `gradient`
computes the derivative in the direction of these pixels, in float64 with random positive weights,
through activations and max-pooling whose derivatives do not vanish. `nan` sets these pixels to NaN
and runs the unchanged network; every unit that depends on one of them becomes NaN.
"""

import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from simplecnn.receptive_field.axis import ends, spread
from simplecnn.receptive_field.fields import Field, blank_image, receptive_fields
from simplecnn.receptive_field.trace import named_outputs

NUM_PIXELS = 128  # random pixels that are perturbed one at a time
CHUNK_PIXELS = 65_536  # in one batch of images

# Operations through which a dependency is invisible: without a (full) gradient, or whose output
# for a NaN is a number.
HIDES = {
    "gradient": {
        "amax", "amin", "max", "min", "maximum", "minimum", "argmax", "argmin", "topk", "sort",
        "median", "round", "floor", "ceil", "sign", "gt", "lt", "ge", "le", "eq", "ne",
    },
    "nan": {
        "gt", "lt", "ge", "le", "eq", "ne", "isnan", "isfinite", "nan_to_num", "argmax", "argmin",
        "topk", "sort", "nansum", "nanmean",
    },
}  # fmt: skip
# Operations that multiply neighbors by zero: NaN times zero is NaN.
SPREADS = {"gradient": set(), "nan": {"upsample_bilinear2d", "upsample_bicubic2d"}}


@dataclass(frozen=True)
class Check:
    """The result of one experiment for one layer."""

    layer: str
    experiment: str  # "gradient" or "nan"
    agrees: bool
    num_units: int  # compared units; 0 if the experiment does not apply
    remark: str = ""  # where it disagrees, or why it applies only in part or not at all

    def __str__(self) -> str:
        if not self.agrees:
            return f"{self.layer}: the {self.experiment} experiment disagrees: {self.remark}"
        if not self.num_units:
            return f"{self.layer}: no {self.experiment} experiment: {self.remark}"
        remark = f" ({self.remark})" if self.remark else ""
        return f"{self.layer}: {self.experiment} agrees for {self.num_units} units{remark}"


def all_agree(checks: Sequence[Check]) -> bool:
    """Return whether no check disagrees and each experiment applies to at least one layer."""
    applied = {c.experiment for c in checks if c.num_units}
    return all(c.agrees for c in checks) and applied == {c.experiment for c in checks}


def check_fields(
    network: nn.Module,
    input_size: int | Sequence[int],
    *,
    fields: dict[str, Field] | None = None,
    layers: Collection[str] | None = None,
) -> list[Check]:
    """Verify the receptive fields of a network by both experiments: two checks per layer.

    All units are compared, for every row, every column, and 128 random pixels of the image.

    Args:
        input_size: as for `receptive_fields`.
        fields: the fields to verify; by default those of `receptive_fields`.
        layers: names of the layers to check; by default all.
    """
    image = blank_image(network, input_size)
    fields = receptive_fields(network, tuple(image.shape[1:])) if fields is None else fields
    unknown = sorted(set(layers or ()) - set(fields))
    if unknown:
        raise ValueError(f"layers names {', '.join(unknown)}: choose from {', '.join(fields)}.")
    fields = {name: field for name, field in fields.items() if layers is None or name in layers}
    by_experiment = [
        _checks("gradient", _gradient(network, image), _has_derivative, network, fields, image),
        _checks("nan", _nan(network, image), Tensor.isnan, network, fields, image),
    ]
    return [check for pair in zip(*by_experiment, strict=True) for check in pair]


def _checks(
    experiment: str,
    run: Callable[[Tensor], object],
    responds: Callable[[Tensor], Tensor],
    network: nn.Module,
    fields: dict[str, Field],
    image: Tensor,
) -> list[Check]:
    """Run one experiment and compare all layers with their fields.

    `run` is called with masks (B, 1, H, W) and runs the network on B images with the masked pixels
    perturbed; `responds` returns a mask of the elements of an output that depend on them.
    """
    mismatches: dict[str, str] = {}
    num_units: dict[str, int] = {}
    pixels = torch.zeros(0)  # (B, H, W), the masks of the current pass
    caveats = {name: _caveats(experiment, field) for name, field in fields.items()}

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if name not in fields or name in mismatches:
            return
        # A reshape may have merged other dimensions into the batch dimension.
        observed = responds(output).unflatten(0, (len(pixels), -1))
        expected = _expected(fields[name], pixels, observed.shape)
        num_units[name] = expected[0].numel()
        other_dims = [d for d, size in enumerate(expected.shape) if size == 1]
        observed = (observed.amax(other_dims, keepdim=True) if other_dims else observed).cpu()
        differs = observed != expected
        upper, lower = caveats[name]
        if upper:
            differs &= observed
        if lower:
            differs &= expected
        if differs.any():
            i, *position = differs.nonzero()[0].tolist()
            dims = sorted({axis.dim for axis in fields[name].axes if axis.dim is not None})
            verb = "depends" if observed[i, *position] else "does not depend"
            mismatches[name] = (
                f"unit {tuple(position[d] for d in dims)} {verb} on {_describe(pixels[i])}, "
                "contrary to the formulas"
            )

    try:
        with torch.no_grad(), named_outputs(network, receive):
            for pixels in _masks(image.shape[-2], image.shape[-1]):
                run(pixels[:, None].to(image.device))
    except RuntimeError as error:
        reason = f"the network does not run in this experiment ({str(error).splitlines()[0]})"
        return [Check(name, experiment, True, 0, reason) for name in fields]
    checks = []
    for name, field in fields.items():
        upper, lower = caveats[name]
        mismatch, remark = mismatches.get(name, ""), upper or lower
        if not mismatch and not remark:
            mismatch, remark = _check_interval(field)
        checks.append(Check(name, experiment, not mismatch, num_units[name], mismatch or remark))
    return checks


def _caveats(experiment: str, field: Field) -> tuple[str, str]:
    """Return why units may not respond to all pixels of their field, so that it is verified as an
    upper bound only, and why they may respond to others, so that it is a lower bound only."""
    hiding, spreading = (
        ", ".join(f"aten.{name}" for name in sorted(field.operations & names[experiment]))
        for names in (HIDES, SPREADS)
    )
    upper = field.bound or (hiding and f"{hiding} hides some dependencies")
    return (
        upper and f"as an upper bound: {upper}",
        spreading and f"as a lower bound: {spreading} spreads NaN through weights of zero",
    )


def _expected(field: Field, pixels: Tensor, shape: Sequence[int]) -> Tensor:
    """Return which positions of an output of this shape depend on each mask by the formulas.

    `pixels` are masks (B, H, W), each a product of rows and columns, like the field of a unit. The
    result is boolean (B, ...), with size 1 in dimensions that carry no image axis.
    """
    result = torch.tensor(True)
    for axis, lines in zip(field.axes, (pixels.any(2), pixels.any(1)), strict=True):
        sizes = [1] * len(shape)
        if axis.dim is not None:
            sizes[axis.dim] = shape[axis.dim]
            axis = spread(axis, shape[axis.dim])
        depends = lines.float() @ torch.from_numpy(axis.used).float().T > 0
        result = result & depends.view(len(pixels), *sizes[1:])
    return result


def _masks(height: int, width: int) -> Iterator[Tensor]:
    """Yield batches of masks (B, H, W) of the pixels to perturb: each row, each column, and 128
    single pixels."""
    rows = torch.eye(height, dtype=torch.bool)[:, :, None].expand(-1, -1, width)
    columns = torch.eye(width, dtype=torch.bool)[:, None, :].expand(-1, height, -1)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(height * width, generator=generator)[:NUM_PIXELS]
    pixels = functional.one_hot(chosen, height * width).bool().view(-1, height, width)
    yield from torch.cat([rows, columns, pixels]).split(max(1, CHUNK_PIXELS // (height * width)))


def _describe(mask: Tensor) -> str:
    """Return `row 3`, `column 3` or `pixel (3, 5)`."""
    (row, column), *others = mask.nonzero().tolist()
    if not others:
        return f"pixel ({row}, {column})"
    return f"row {row}" if others[0][0] == row else f"column {column}"


def _check_interval(field: Field) -> tuple[str, str]:
    """Compare the closed form, `interval`, with `used` for units whose field no border cuts off.

    Returns a mismatch, and a remark if there is no such unit; both are empty if all agree.
    """
    remark = ""
    for axis, lines in zip(field.axes, ("rows", "columns"), strict=True):
        units = (~axis.cut).nonzero()[0].tolist()
        for unit in units:
            interval, pixels = axis.interval(unit), ends(axis.used[unit])
            if interval != pixels:
                return f"unit {unit} depends on {lines} {pixels}, its interval is {interval}", ""
        if axis.pattern is not None and not units:
            remark = "every unit sees a border: size and start are not verified"
    return "", remark


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return float64 random numbers from 0.5 to 1.5 of the same shape and on the same device."""
    values = torch.rand(like.shape, generator=generator, dtype=torch.float64) + 0.5
    return values.to(like.device)


# The gradient experiment.


def _gradient(network: nn.Module, image: Tensor) -> Callable[[Tensor], object]:
    generator = torch.Generator().manual_seed(0)
    state = {name: _float64(buffer) for name, buffer in network.named_buffers()}
    state |= {k: torch.ones_like(v) for k, v in state.items() if k.endswith("running_var")}
    for name, value in network.named_parameters():  # positive, and scaled to average their inputs
        fan_in = value.numel() / len(value) if value.dim() > 1 else 1
        state[name] = _random(value, generator) / fan_in
    image, direction = (_random(image, generator) for _ in range(2))

    def run(pixels: Tensor) -> None:
        images = image.expand(len(pixels), -1, -1, -1).clone()
        # The fused attention kernels do not support forward-mode differentiation.
        attention = sdpa_kernel(SDPBackend.MATH)
        with warnings.catch_warnings(), attention, forward_ad.dual_level(), _Smooth():
            warnings.simplefilter("ignore", FutureWarning)  # raised by torch's own decompositions
            dual = forward_ad.make_dual(images, direction * pixels)
            functional_call(network, state, (dual,))

    return run


def _has_derivative(output: Tensor) -> Tensor:
    derivative = forward_ad.unpack_dual(output).tangent
    return torch.zeros_like(output, dtype=torch.bool) if derivative is None else derivative != 0


class _Smooth(TorchFunctionMode):
    """Replace the derivatives of operations that would hide or invent dependencies.

    Activations pass the derivative on unchanged, max-pooling the largest one in each window.
    Weights of an interpolation that are zero but for rounding become zero.
    """

    ACTIVATIONS = {
        "relu", "relu6", "hardtanh", "hardswish", "hardsigmoid", "hardshrink", "softshrink",
        "threshold", "sigmoid", "tanh", "clamp", "clamp_min", "clamp_max", "clip",
    }  # fmt: skip

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "").strip("_")
        if name == "interpolate":
            return _interpolate(*args, **kwargs)
        is_pooling = name.startswith(("max_pool", "adaptive_max_pool"))
        if not is_pooling and name not in self.ACTIVATIONS:
            return func(*args, **kwargs)
        first, *others = args or (kwargs.pop("input"),)
        value, derivative = forward_ad.unpack_dual(first)
        result = func(value.clone(), *others, **kwargs)
        if derivative is None:
            return result
        tangent = func(derivative.abs(), *others, **kwargs) if is_pooling else derivative
        if isinstance(result, tuple):  # with the indices of a pooling
            return forward_ad.make_dual(result[0], tangent[0]), *result[1:]
        return forward_ad.make_dual(result, tangent)


def _interpolate(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Interpolate rows and columns by weights that are measured on images of a single line."""
    height, width = input.shape[-2:]
    rows, columns = (
        functional.interpolate(lines.to(input).expand(-1, 1, height, width), *args, **kwargs)
        for lines in (torch.eye(height)[:, None, :, None], torch.eye(width)[:, None, None])
    )
    weights = [torch.where(w.abs() > 1e-9, w, 0) for w in (rows[:, 0, :, 0], columns[:, 0, 0])]
    return torch.einsum("...hw,hi,wj->...ij", input, *weights)


# The NaN experiment.


def _nan(network: nn.Module, image: Tensor) -> Callable[[Tensor], object]:
    # float64, because fast float32 convolutions (Winograd) spread a NaN over a whole tile.
    state = {k: _float64(v) for k, v in (*network.named_parameters(), *network.named_buffers())}
    noise = _random(image, torch.Generator().manual_seed(0))
    return lambda pixels: functional_call(
        network, state, (noise.masked_fill(pixels, float("nan")),)
    )


def _float64(value: Tensor) -> Tensor:
    return value.detach().double() if value.is_floating_point() else value
