"""Two experiments that must find the fields that the formulas give.

Both change some pixels of an image, and look which units of each layer answer. `gradient`: the
derivative in the direction of these pixels, through a copy in float64 with positive weights,
activations made linear and max-pooling made a mean, so that nothing cancels and nothing is cut off.
`nan`: the network as it is, with these pixels set to NaN; whatever depends on one becomes NaN.
"""

import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from simplecnn.receptive_field.axis import Axis
from simplecnn.receptive_field.fields import Field, blank_image, receptive_fields
from simplecnn.receptive_field.trace import named_outputs

NUM_PIXELS = 128  # that are changed each for itself, chosen by chance
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
) -> list[Check]:
    """Two checks for each layer, or for each of `layers`.

    `fields` are the ones to be checked, by default those of `receptive_fields`. All units are
    compared, for every row, every column, and 128 single pixels of the image.
    """
    image = blank_image(network, input_size)
    fields = receptive_fields(network, tuple(image.shape[1:])) if fields is None else fields
    unknown = sorted(set(layers or ()) - set(fields))
    if unknown:
        raise ValueError(f"layers names {', '.join(unknown)}: choose from {', '.join(fields)}.")
    fields = {name: field for name, field in fields.items() if layers is None or name in layers}
    by_gradient = _checks(_Gradient(network, image), network, image, fields)
    by_nan = _checks(_NaN(network, image), network, image, fields)
    return [check for pair in zip(by_gradient, by_nan, strict=True) for check in pair]


class _Experiment(Protocol):
    name: str

    def run(self, network: nn.Module, pixels: Tensor) -> None:
        """One pass over as many images as `pixels` (B, 1, H, W), boolean, has; in each, the marked
        pixels are changed."""

    def answers(self, output: Tensor) -> Tensor:
        """Which numbers of a layer's output depend on the changed pixels."""

    def why_missing(self, field: Field) -> str:
        """Why a unit may not answer though it depends on a pixel; empty where it must."""

    def why_extra(self, field: Field) -> str:
        """Why a unit may answer though it does not depend on a pixel; empty where it must not."""


def _checks(
    experiment: _Experiment, network: nn.Module, image: Tensor, fields: dict[str, Field]
) -> list[Check]:
    positions: dict[str, _Positions] = {}
    wrong: dict[str, str] = {}
    pixels = torch.zeros(0)  # (B, H, W), of the batch that is under way

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if name not in fields or name in wrong:
            return
        field = fields[name]
        # a reshape may have put more than the images into the first dimension
        answered = experiment.answers(output)
        answered = answered.reshape(len(pixels), len(output) // len(pixels), *output.shape[1:])
        if name not in positions:
            positions[name] = _Positions(field, answered.shape[1:])
        layer = positions[name]
        others = [d for d in range(1, answered.dim()) if d - answered.dim() not in layer.dims]
        answered = (answered.amax(others) if others else answered).reshape(len(pixels), -1).cpu()
        given = layer.depend_on(pixels)
        differs = answered != given
        if experiment.why_missing(field):
            differs &= answered
        if experiment.why_extra(field):
            differs &= given
        if differs.any():
            which, position = differs.nonzero()[0].tolist()
            verb = "does not depend" if given[which, position] else "depends"
            wrong[name] = (
                f"unit {layer.name(position)} {verb} on {_place(pixels[which])}, "
                "contrary to the formulas"
            )

    try:
        with torch.no_grad(), named_outputs(network, receive):
            for pixels in _masks(image.shape[-2], image.shape[-1]):
                experiment.run(network, pixels[:, None].to(image.device))
    except RuntimeError as error:
        reason = f"the network does not run in this experiment ({str(error).splitlines()[0]})"
        return [Check(name, experiment.name, True, 0, reason) for name in fields]
    checks = []
    for name, field in fields.items():
        remark = ""
        if reason := experiment.why_missing(field):
            remark = f"as an upper bound: {reason}"
        elif reason := experiment.why_extra(field):
            remark = f"as a lower bound: {reason}"
        if name not in wrong and not remark:
            wrong[name], remark = _interval_difference(field)
        mistake = wrong.get(name, "")
        num_units = len(positions[name].places)
        checks.append(Check(name, experiment.name, not mistake, num_units, mistake or remark))
    return checks


def _masks(height: int, width: int) -> Iterator[Tensor]:
    """Which pixels are changed together (B, H, W): those of each row, those of each column, and
    128 each for itself."""
    rows = torch.eye(height, dtype=torch.bool)[:, :, None].expand(-1, -1, width)
    columns = torch.eye(width, dtype=torch.bool)[:, None, :].expand(-1, height, -1)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(height * width, generator=generator)[:NUM_PIXELS]
    pixels = functional.one_hot(chosen, height * width).bool().view(-1, height, width)
    yield from torch.cat([rows, columns, pixels]).split(max(1, CHUNK_PIXELS // (height * width)))


def _place(mask: Tensor) -> str:
    """`row 3`, `column 3` or `pixel (3, 5)`."""
    rows, columns = (mask.any(dim).nonzero().flatten().tolist() for dim in (1, 0))
    if len(rows) == len(columns) == 1:
        return f"pixel ({rows[0]}, {columns[0]})"
    return f"row {rows[0]}" if len(rows) == 1 else f"column {columns[0]}"


class _Positions:
    """The positions of a layer's output along the dimensions that carry the image axes.

    `places` (positions, dims) are their indices, `rows` (positions, H) and `columns`
    (positions, W) what the formulas say that each depends on.
    """

    def __init__(self, field: Field, shape: Sequence[int]) -> None:
        self.dims = tuple(sorted({a.dim for a in field.axes if a.dim is not None}))
        indices = list(product(*(range(shape[d]) for d in self.dims)))
        self.places = torch.tensor(indices, dtype=torch.long)
        self.rows, self.columns = map(self._used, field.axes)

    def _used(self, axis: Axis) -> Tensor:
        used = torch.from_numpy(axis.used)
        if axis.dim is None:
            return used.expand(len(self.places), -1)
        return used[self.places[:, self.dims.index(axis.dim)] // axis.inner % len(used)]

    def depend_on(self, pixels: Tensor) -> Tensor:
        """By the formulas, which positions depend on which masks (B, positions): the pixels of a
        mask are rows x columns, as is what a position sees."""
        rows = pixels.any(2).float() @ self.rows.float().T > 0
        return rows & (pixels.any(1).float() @ self.columns.float().T > 0)

    def name(self, position: int) -> tuple[int, ...]:
        return tuple(self.places[position].tolist())


def _interval_difference(field: Field) -> tuple[str, str]:
    """Where the closed form, `interval`, differs from `used` for a unit that sees no border, and a
    remark where there is no such unit; in words."""
    remark = ""
    for axis, lines in zip(field.axes, ("rows", "columns"), strict=True):
        if axis.pattern is None:  # the interval is what `used` says
            continue
        units = (~axis.cut).nonzero()[0].tolist()
        for unit in units:
            interval, pixels = axis.interval(unit), axis.clipped(unit)
            if interval != pixels:
                return f"unit {unit} depends on {lines} {pixels}, its interval is {interval}", ""
        if not units:
            remark = "every unit sees a border: size and start rest on the formulas alone"
    return "", remark


def _named(operations: Iterable[str]) -> str:
    return ", ".join(f"aten.{name}" for name in sorted(operations))


# The gradient experiment.

# Operations with no or almost no gradient that the positive copy leaves as they are.
_WITHOUT_GRADIENT = {
    "amax", "amin", "max", "min", "maximum", "minimum", "argmax", "argmin", "topk", "sort",
    "median", "round", "floor", "ceil", "sign", "gt", "lt", "ge", "le", "eq", "ne",
}  # fmt: skip


class _Gradient:
    name = "gradient"

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        self.state = _positive_state(network, generator)
        self.image, self.direction = (_random_positive(image, generator) for _ in range(2))

    def run(self, network: nn.Module, pixels: Tensor) -> None:
        images = self.image.expand(len(pixels), -1, -1, -1).clone()
        # of attention, only the plain formula has a forward derivative
        attention = sdpa_kernel(SDPBackend.MATH)
        with warnings.catch_warnings(), attention, forward_ad.dual_level(), _Positive():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, from its own formulas
            moving = forward_ad.make_dual(images, self.direction * pixels)
            functional_call(network, self.state, (moving,))

    def answers(self, output: Tensor) -> Tensor:
        derivative = forward_ad.unpack_dual(output).tangent
        return torch.zeros_like(output, dtype=torch.bool) if derivative is None else derivative != 0

    def why_missing(self, field: Field) -> str:
        hidden = field.operations & _WITHOUT_GRADIENT
        return f"{_named(hidden)} hides part of the gradient" if hidden else field.bound

    def why_extra(self, field: Field) -> str:
        return ""


_ACTIVATIONS = {
    "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "hardswish", "hardsigmoid", "silu", "gelu",
    "elu", "elu_", "selu", "selu_", "celu", "celu_", "leaky_relu", "leaky_relu_", "prelu",
    "rrelu", "rrelu_", "mish", "softplus", "softsign", "tanhshrink", "hardshrink", "softshrink",
    "threshold", "_threshold", "threshold_", "sigmoid", "sigmoid_", "tanh", "tanh_",
    "logsigmoid", "log_sigmoid", "clamp", "clamp_", "clamp_min", "clamp_max", "clip",
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
            output = _mean_pool(*args, **kwargs)
        return (output, *result[1:]) if isinstance(result, tuple) else output


def _mean_pool(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    *_: Any,
    **__: Any,
) -> Tensor:
    """The mean over the windows of a max-pooling."""
    if dilation in (1, (1, 1), [1, 1]):
        return functional.avg_pool2d(input, kernel_size, stride or None, padding, ceil_mode)
    kernel = (kernel_size,) * 2 if isinstance(kernel_size, int) else tuple(kernel_size)
    channels = input.shape[-3]
    weight = input.new_full((channels, 1, *kernel), 1 / (kernel[0] * kernel[1]))
    return functional.conv2d(input, weight, None, stride or kernel, padding, dilation, channels)


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


def _random_positive(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers from 0.5 to 1.5, of the same shape and on the same device."""
    values = torch.rand(like.shape, generator=generator, dtype=torch.float64) + 0.5
    return values.to(like.device)


def _positive_state(network: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    """Weights and statistics with which every path from pixel to unit counts, and counts up:
    random positive weights that average, no biases, normalization by mean 0 and variance 1."""
    state = {}
    for name, value in network.named_parameters():
        if name.endswith("bias"):
            state[name] = torch.zeros_like(value, dtype=torch.float64)
        elif value.dim() < 2:
            state[name] = _random_positive(value, generator)
        else:
            state[name] = _random_positive(value, generator) / (value.numel() / len(value))
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            state[name] = torch.zeros_like(buffer, dtype=torch.float64)
        elif name.endswith("running_var"):
            state[name] = torch.ones_like(buffer, dtype=torch.float64)
        elif buffer.is_floating_point():
            state[name] = buffer.double()
    return state


# The NaN experiment.

# Operations that multiply neighbors by zero, which makes NaN of a NaN.
_SPREADS_NAN = {"upsample_bilinear2d", "upsample_bicubic2d"}
# Operations that answer a NaN with a number.
_STOPS_NAN = {
    "gt", "lt", "ge", "le", "eq", "ne", "isnan", "isfinite", "nan_to_num", "argmax", "argmin",
    "topk", "sort", "nansum", "nanmean",
}  # fmt: skip


class _NaN:
    name = "nan"

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        generator = torch.Generator().manual_seed(0)
        image_float64 = torch.rand(image.shape, generator=generator, dtype=torch.float64)
        self.image = image_float64.to(image.device)
        # in float64, since fast float32 convolutions (Winograd) carry a NaN to a whole tile
        state = {k: v.detach() for k, v in network.state_dict(keep_vars=True).items()}
        self.state = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}

    def run(self, network: nn.Module, pixels: Tensor) -> None:
        functional_call(network, self.state, (self.image.masked_fill(pixels, float("nan")),))

    def answers(self, output: Tensor) -> Tensor:
        return output.isnan()

    def why_missing(self, field: Field) -> str:
        stops = field.operations & _STOPS_NAN
        return field.bound or (f"{_named(stops)} stops NaN" if stops else "")

    def why_extra(self, field: Field) -> str:
        spreads = field.operations & _SPREADS_NAN
        return f"{_named(spreads)} spreads NaN by weights of zero" if spreads else ""
