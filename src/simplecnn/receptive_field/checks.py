"""Two experiments that must find the fields that the formulas give.

Both change some pixels of an image, and look which units of each layer answer. `gradient`: the
derivative in the direction of these pixels, through a copy in float64 with random positive weights,
activations and max-pooling that cut no derivative off. `nan`: the network as it is, with these
pixels set to NaN; whatever depends on one becomes NaN.
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from simplecnn.receptive_field.axis import ends
from simplecnn.receptive_field.fields import Field, blank_image, receptive_fields
from simplecnn.receptive_field.trace import named_outputs

NUM_PIXELS = 128  # that are changed each for itself, chosen by chance
CHUNK_PIXELS = 65_536  # in one batch of images

# Operations with no or almost no gradient, and those that answer a NaN with a number.
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
# Operations that multiply neighbors by zero, which makes NaN of a NaN.
SPREADS_NAN = {"upsample_bilinear2d", "upsample_bicubic2d"}


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
    by_experiment = [
        _checks("gradient", _gradient(network, image), _moves, network, fields, image),
        _checks("nan", _nan(network, image), Tensor.isnan, network, fields, image),
    ]
    return [check for pair in zip(*by_experiment, strict=True) for check in pair]


def _checks(
    experiment: str,
    run: Callable[[Tensor], object],
    answers: Callable[[Tensor], Tensor],
    network: nn.Module,
    fields: dict[str, Field],
    image: Tensor,
) -> list[Check]:
    """`run` makes a pass over as many images as its masks (B, 1, H, W), in each of which the marked
    pixels are changed; `answers` marks the numbers of an output that depend on them."""
    wrong: dict[str, str] = {}
    num_units: dict[str, int] = {}
    pixels = torch.zeros(0)  # (B, H, W), the masks under way
    reserves = {name: _reserves(experiment, field) for name, field in fields.items()}

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if name not in fields or name in wrong:
            return
        # a reshape may have put more than the images into the first dimension
        answered = answers(output).unflatten(0, (len(pixels), -1))
        expected = _expected(fields[name], pixels, answered.shape)
        num_units[name] = expected[0].numel()
        others = [d for d, size in enumerate(expected.shape) if size == 1]
        answered = (answered.amax(others, keepdim=True) if others else answered).cpu()
        differs = answered != expected
        upper, lower = reserves[name]
        if upper:
            differs &= answered
        if lower:
            differs &= expected
        if differs.any():
            which, *place = differs.nonzero()[0].tolist()
            dims = sorted({axis.dim for axis in fields[name].axes if axis.dim is not None})
            verb = "depends" if answered[which, *place] else "does not depend"
            wrong[name] = (
                f"unit {tuple(place[d] for d in dims)} {verb} on {_place(pixels[which])}, "
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
        upper, lower = reserves[name]
        mistake, remark = wrong.get(name, ""), upper or lower
        if not mistake and not remark:
            mistake, remark = _interval_difference(field)
        checks.append(Check(name, experiment, not mistake, num_units[name], mistake or remark))
    return checks


def _reserves(experiment: str, field: Field) -> tuple[str, str]:
    """Why a unit may not answer though it depends on a pixel, and why it may though it does not;
    empty where it must, and must not."""
    hidden = _named(field.operations & HIDES[experiment])
    missing = field.bound or (hidden and f"{hidden} hides a part of the answer")
    spread = _named(field.operations & SPREADS_NAN) if experiment == "nan" else ""
    return (
        missing and f"as an upper bound: {missing}",
        spread and f"as a lower bound: {spread} spreads NaN by weights of zero",
    )


def _named(operations: Iterable[str]) -> str:
    return ", ".join(f"aten.{name}" for name in sorted(operations))


def _expected(field: Field, pixels: Tensor, shape: Sequence[int]) -> Tensor:
    """By the formulas, which positions of an output of this shape depend on which masks (B, H, W):
    boolean (B, ...), with size 1 in dimensions that carry no image axis. The pixels of a mask are
    rows x columns, as is what a position sees."""
    result = torch.tensor(True)
    for axis, lines in zip(field.axes, (pixels.any(2), pixels.any(1)), strict=True):
        used = torch.from_numpy(axis.used).float()
        sizes = [1] * len(shape)
        if axis.dim is not None:
            sizes[axis.dim] = shape[axis.dim]
            used = used[torch.arange(shape[axis.dim]) // axis.inner % len(used)]
        depends = lines.float() @ used.T > 0
        result = result & depends.view(len(pixels), *sizes[1:])
    return result


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
    (row, column), *others = mask.nonzero().tolist()
    if not others:
        return f"pixel ({row}, {column})"
    return f"row {row}" if others[0][0] == row else f"column {column}"


def _interval_difference(field: Field) -> tuple[str, str]:
    """Where the closed form, `interval`, differs from `used` for a unit that sees no border, and a
    remark where there is no such unit; in words."""
    remark = ""
    for axis, lines in zip(field.axes, ("rows", "columns"), strict=True):
        units = (~axis.cut).nonzero()[0].tolist()
        for unit in units:
            interval, pixels = axis.interval(unit), ends(axis.used[unit])
            if interval != pixels:
                return f"unit {unit} depends on {lines} {pixels}, its interval is {interval}", ""
        if axis.pattern is not None and not units:
            remark = "every unit sees a border: size and start rest on the formulas alone"
    return "", remark


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    """Random numbers from 0.5 to 1.5, of the same shape and on the same device."""
    values = torch.rand(like.shape, generator=generator, dtype=torch.float64) + 0.5
    return values.to(like.device)


# The gradient experiment.


def _gradient(network: nn.Module, image: Tensor) -> Callable[[Tensor], object]:
    generator = torch.Generator().manual_seed(0)
    state = {name: _float64(buffer) for name, buffer in network.named_buffers()}
    state |= {k: torch.ones_like(v) for k, v in state.items() if k.endswith("running_var")}
    for name, value in network.named_parameters():  # weights that average, and count
        fan_in = value.numel() / len(value) if value.dim() > 1 else 1
        state[name] = _random(value, generator) / fan_in
    image, direction = (_random(image, generator) for _ in range(2))

    def run(pixels: Tensor) -> None:
        images = image.expand(len(pixels), -1, -1, -1).clone()
        # of attention, only the plain formula has a forward derivative
        attention = sdpa_kernel(SDPBackend.MATH)
        with warnings.catch_warnings(), attention, forward_ad.dual_level(), _Smooth():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, from its own formulas
            moving = forward_ad.make_dual(images, direction * pixels)
            functional_call(network, state, (moving,))

    return run


def _moves(output: Tensor) -> Tensor:
    derivative = forward_ad.unpack_dual(output).tangent
    return torch.zeros_like(output, dtype=torch.bool) if derivative is None else derivative != 0


class _Smooth(TorchFunctionMode):
    """No derivative is cut off: activations pass it on as it is, max-pooling the largest in each
    window. And none is made up: weights of zero in an interpolation are zero."""

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
        pools = name.startswith(("max_pool", "adaptive_max_pool"))
        if not pools and name not in self.ACTIVATIONS:
            return func(*args, **kwargs)
        first, *others = args or (kwargs.pop("input"),)
        value, derivative = forward_ad.unpack_dual(first)
        result = func(value.clone(), *others, **kwargs)
        if derivative is None:
            return result
        passed = func(derivative.abs(), *others, **kwargs) if pools else derivative
        if isinstance(result, tuple):  # with the indices of a pooling
            return forward_ad.make_dual(result[0], passed[0]), *result[1:]
        return forward_ad.make_dual(result, passed)


def _interpolate(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Along rows and along columns by the weights that single lines of pixels show."""
    height, width = input.shape[-2:]
    rows, columns = (
        functional.interpolate(lines.to(input).expand(-1, 1, height, width), *args, **kwargs)
        for lines in (torch.eye(height)[:, None, :, None], torch.eye(width)[:, None, None])
    )
    weights = [torch.where(w.abs() > 1e-9, w, 0) for w in (rows[:, 0, :, 0], columns[:, 0, 0])]
    return torch.einsum("...hw,hi,wj->...ij", input, *weights)


# The NaN experiment.


def _nan(network: nn.Module, image: Tensor) -> Callable[[Tensor], object]:
    # in float64, since fast float32 convolutions (Winograd) carry a NaN to a whole tile
    state = {k: _float64(v) for k, v in (*network.named_parameters(), *network.named_buffers())}
    noise = _random(image, torch.Generator().manual_seed(0))
    return lambda pixels: functional_call(
        network, state, (noise.masked_fill(pixels, float("nan")),)
    )


def _float64(value: Tensor) -> Tensor:
    return value.detach().double() if value.is_floating_point() else value
