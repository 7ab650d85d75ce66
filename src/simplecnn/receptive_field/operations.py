"""Rules that propagate receptive fields from the input to the output of a torch operation, by name.

There are rules for the operations of convolutional classifiers. Composite operations need none;
any other operation without a rule is assumed to make every output depend on every input.

A rule handles one image axis at a time. Dimensions are negative, counted from the last, so that
broadcasting and tensors without a batch dimension need no special treatment.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import reduce
from typing import Any

from torch import Tensor

from simplecnn.receptive_field.axis import Axis, Reading, joined, mixed, read, spread
from simplecnn.receptive_field.trace import tensors


@dataclass(frozen=True)
class Call:
    """One executed operation, one of its outputs and one image axis."""

    operation: str
    arguments: Mapping[str, Any]  # by name
    outputs: Sequence[Tensor]
    index: int  # of the output
    axes: Mapping[Tensor, Axis]  # of the arguments that depend on the image

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    @property
    def output(self) -> Tensor:
        return self.outputs[self.index]

    @property
    def first(self) -> Tensor:
        """The first tensor argument."""
        return next(tensors(self.arguments))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.first.shape)

    @property
    def axis(self) -> Axis:
        return self.axes[self.first]

    @property
    def dim(self) -> int:
        """Dimension of the axis, negative."""
        assert self.axis.dim is not None
        return self.axis.dim

    def dims(self, name: str) -> list[int]:
        """Return the dimensions that an argument lists, as negative numbers; all if it is empty."""
        num_dims, value = len(self.shape), self[name]
        dims = [value] if isinstance(value, int) else list(value or range(num_dims))
        return [d % num_dims - num_dims for d in dims]

    def along(self, name: str, default: int = 0) -> int:
        """Return the value of an argument, an integer or a list of one or two, for this axis."""
        value = self[name] or default
        return value if isinstance(value, int) else (list(value) * 2)[self.dim]

    def read(
        self,
        reads: Callable[[int], Iterable[int]],
        step: int | Fraction = 1,
        border: str = "constant",
    ) -> Axis:
        """Return the axis of the output; the arguments are those of `Reading`."""
        num_in, num_out = self.shape[self.dim], self.output.shape[self.dim]
        return read(self.axis, Reading(num_in, num_out, reads, step, border))

    def without(self, dims: Sequence[int]) -> Axis:
        """Return the axis after these dimensions were removed from the tensor."""
        return replace(self.axis, dim=self.dim + sum(d > self.dim for d in dims))


def follow(call: Call, *, pointwise: bool) -> Axis:
    """Return the image axis of an operation's output."""
    if pointwise or call.operation in _ELEMENTWISE:
        return _elementwise(call)
    if call.operation == "cat":
        return _concatenation(call)
    if call.operation not in _RULES or len(call.axes) > 1 or call.first not in call.axes:
        return _unknown(call)  # the rules below apply to one input
    if call.axis.dim is None:
        return call.axis
    if call.operation in _WINDOWS and call.dim < -2:
        # After a reshape, positions may be channels, which a convolution mixes.
        return _unknown(call) if (call.operation, call.dim) == ("conv2d", -3) else call.axis
    return _RULES[call.operation](call)


def _unknown(call: Call) -> Axis:
    return _mixed(call, f"no rule for aten.{call.operation}: assumed to depend on everything")


def _mixed(call: Call, reason: str) -> Axis:
    """Assume that every output depends on every input: an upper bound for this `reason`, unless all
    elements had the same field before."""
    axes = list(call.axes.values())
    result = reduce(joined, map(mixed, axes))
    exact = all((axis.used == result.used).all() for axis in axes)
    return result if exact else replace(result, bound=result.bound or reason)


def _elementwise(call: Call) -> Axis:
    """Return the union of the operands, whose positions correspond after broadcasting."""
    dims = {axis.dim for axis in call.axes.values() if axis.dim is not None}
    if len(dims) > 1:
        reason = "an operation combines tensors with an image axis in different dimensions"
        return _mixed(call, reason)
    num_positions = call.output.shape[dims.pop()] if dims else 1
    axes = [  # a single position is broadcast to all positions
        mixed(axis) if axis.dim is not None and t.shape[axis.dim] < num_positions else axis
        for t, axis in call.axes.items()
    ]
    if len({(a.inner, len(a.used)) for a in axes if a.dim is not None}) > 1:
        axes = [a if a.dim is None else spread(a, num_positions) for a in axes]
    return reduce(joined, axes)


def _concatenation(call: Call) -> Axis:
    """Return the union for a concatenation of channels; along an image axis, assume mixing."""
    dim = call["dim"] % call.output.dim() - call.output.dim()
    if any(axis.dim == dim for axis in call.axes.values()):
        return _mixed(call, "a concatenation along an image axis")
    return _elementwise(call)


# Windows in the last two dimensions.


def _window(call: Call, kernel: int, before: int) -> Axis:
    stride, dilation = call.along("stride", kernel), call.along("dilation", 1)
    taps = range(-before, -before + kernel * dilation, dilation)
    return call.read(lambda u: [u * stride + tap for tap in taps], stride)


def _convolution(call: Call) -> Axis:
    kernel = call["weight"].shape[call.dim]
    if call["padding"] == "same":  # an odd pixel is padded on the right
        return _window(call, kernel, call.along("dilation") * (kernel - 1) // 2)
    return _window(call, kernel, 0 if call["padding"] == "valid" else call.along("padding"))


def _pooling(call: Call) -> Axis:
    return _window(call, call.along("kernel_size"), call.along("padding"))


def _adaptive_pooling(call: Call) -> Axis:
    n, m = call.shape[call.dim], call.output.shape[call.dim]
    if m == 1:  # global pooling
        return mixed(call.axis)
    return call.read(lambda u: range(u * n // m, -(-(u + 1) * n // m)), Fraction(n, m))


def _interpolation(call: Call) -> Axis:
    """Return what an interpolation reads; neighbors with a weight of zero are not read."""
    if call["align_corners"]:
        return _unknown(call)
    scale = Fraction(call.shape[call.dim], call.output.shape[call.dim])
    if call["scale_factors"]:  # torch uses the requested factor, not the ratio of the sizes
        scale = 1 / Fraction(call["scale_factors"][call.dim]).limit_denominator(1000)
    shift, neighbors = _INTERPOLATIONS[call.operation]

    def reads(unit: int) -> range:
        position = (unit + shift) * scale - (shift if neighbors else 0)
        low = math.floor(position)
        reach = neighbors if position > low else 0
        return range(low - max(reach - 1, 0), low + reach + 1)

    return call.read(reads, scale, border="replicate")


def _pad(call: Call) -> Axis:
    sides = call["pad"]  # starts with the last dimension
    if -call.dim > len(sides) // 2:
        return call.axis
    before = sides[-2 * call.dim - 2]
    return call.read(lambda u: [u - before], border=call["mode"] or "constant")


# Reductions and normalizations: dimensions whose positions are mixed.


def _mix_last(call: Call, num_dims: int) -> Axis:
    return mixed(call.axis) if call.dim >= -num_dims else call.axis


def _mix_listed(call: Call) -> Axis:
    dims = call.dims("dim")
    if call.dim in dims:
        return mixed(call.axis)
    return call.axis if call.output.dim() == len(call.shape) else call.without(dims)


def _batch_norm(call: Call) -> Axis:
    channels = 1 - len(call.shape)
    return mixed(call.axis) if call["training"] and call.dim != channels else call.axis


# Permutations, reshapes and slices.


def _permute(call: Call) -> Axis:
    order = call.dims("dims")
    return replace(call.axis, dim=order.index(call.dim) - len(order))


def _transpose(call: Call) -> Axis:
    (a,), (b,) = call.dims("dim0"), call.dims("dim1")
    return replace(call.axis, dim={a: b, b: a}.get(call.dim, call.dim))


def _reshape(call: Call) -> Axis:
    """Follow the units through a reshape by the distance between them in row-major order."""
    axis, shape = call.axis, tuple(call.output.shape)
    distance = axis.inner * math.prod(call.shape[len(call.shape) + call.dim + 1 :])
    for i, size in enumerate(shape):
        inner, rest = divmod(distance, math.prod(shape[i + 1 :]))
        if rest == 0 and inner and size % (inner * len(axis.used)) == 0:
            return replace(axis, dim=i - len(shape), inner=inner)
    return mixed(axis, f"a reshape to {shape} cuts across the image")


def _part(call: Call, start: int, step: int = 1) -> Axis:
    if call.dim not in call.dims("dim"):
        return call.axis
    return call.read(lambda u: [start + u * step], step)


def _slice(call: Call) -> Axis:
    size = call.shape[call["dim"]]
    start, _, step = slice(call["start"], call["end"], call["step"]).indices(size)
    return _part(call, start, step)


def _split(call: Call) -> Axis:
    return _part(call, sum(t.shape[call["dim"]] for t in call.outputs[: call.index]))


def _select(call: Call) -> Axis:
    dims = call.dims("dim")
    return _unknown(call) if call.dim in dims else call.without(dims)


# Elementwise operations that torch does not tag as pointwise.
_ELEMENTWISE = {
    "hardswish", "log_sigmoid", "prelu", "rrelu", "dropout", "native_dropout", "feature_dropout",
    "alpha_dropout", "feature_alpha_dropout", "contiguous", "clone", "detach", "alias", "to",
    "_to_copy", "type_as", "copy", "fill", "zero", "masked_fill", "where", "expand",
}  # fmt: skip
_INTERPOLATIONS: dict[str, tuple[Fraction, int]] = {
    # position of a sample within its pixel, number of neighbors that are read on each side
    "upsample_nearest2d": (Fraction(0), 0), "_upsample_nearest_exact2d": (Fraction(1, 2), 0),
    "upsample_bilinear2d": (Fraction(1, 2), 1), "upsample_bicubic2d": (Fraction(1, 2), 2),
}  # fmt: skip
Rule = Callable[[Call], Axis]
_WINDOWS: dict[str, Rule] = {
    "conv2d": _convolution,
    **dict.fromkeys(("max_pool2d", "max_pool2d_with_indices", "avg_pool2d"), _pooling),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive_pooling),
    **dict.fromkeys(_INTERPOLATIONS, _interpolation),
}
_REDUCTIONS = ("mean", "sum", "amax", "amin", "prod", "var", "std", "linalg_vector_norm")
_RESHAPES = ("view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze")
_RULES: dict[str, Rule] = {
    **_WINDOWS,
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys((*_REDUCTIONS, "softmax", "log_softmax"), _mix_listed),
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _split),
    "linear": lambda call: _mix_last(call, 1),
    "layer_norm": lambda call: _mix_last(call, len(call["normalized_shape"])),
    "group_norm": lambda call: _mix_last(call, len(call.shape) - 1),
    "instance_norm": lambda call: _mix_last(call, len(call.shape) - 2),
    "batch_norm": _batch_norm,
    "permute": _permute,
    "transpose": _transpose,
    "slice": _slice,
    "select": _select,
}
WITH_RULE = {"cat", *_ELEMENTWISE, *_RULES}
