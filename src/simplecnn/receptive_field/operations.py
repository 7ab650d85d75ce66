"""What each torch operation reads: a rule by name that carries an image axis from input to output.

There are rules for what convolutional classifiers are made of. An operation made of others needs
none, and of what has none it is said that it mixes everything with everything.

A rule looks at one image axis at a time, and counts dimensions from the last, so that broadcasting
and tensors without a batch need no care.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import Tensor

from simplecnn.receptive_field.axis import Axis, Reading, joined, mixed, read


@dataclass(frozen=True)
class Call:
    """One operation as it ran: its arguments by name and one of its outputs."""

    operation: str
    arguments: Mapping[str, Any]
    outputs: Sequence[Tensor]
    index: int
    axes: Mapping[Tensor, Axis]  # one image axis, of the arguments that depend on the image

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

    def dims(self, name: str) -> list[int]:
        """The dimensions an argument lists, counted from the last; all where it is empty."""
        num_dims, value = len(self.shape), self[name]
        dims = [value] if isinstance(value, int) else list(value or range(num_dims))
        return [d % num_dims - num_dims for d in dims]


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in it; lists, tuples and mappings are opened."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(item)


def follow(call: Call, *, pointwise: bool) -> Axis:
    """The image axis of an operation's output."""
    if pointwise or call.operation in _ELEMENTWISE:
        return _elementwise(call)
    if call.operation == "cat":
        return _concatenation(call)
    rule, axis = _RULES.get(call.operation), call.axes.get(call.first)
    if rule is None or axis is None or len(call.axes) > 1:  # these rules are for one tensor
        return _unknown(call)
    return axis if axis.dim is None else rule(axis, call)


def _unknown(call: Call) -> Axis:
    return _mixed(call, f"aten.{call.operation} has no rule here: mixed with everything")


def _mixed(call: Call, reason: str) -> Axis:
    """Everything is mixed with everything: at most, unless all elements saw the same before."""
    axes = list(call.axes.values())
    result = joined([mixed(axis) for axis in axes], [None] * len(axes), 1)
    exact = all((axis.used == result.used).all() for axis in axes)
    return result if exact else replace(result, bound=result.bound or reason)


def _elementwise(call: Call) -> Axis:
    """The union of operands that lie on one another in the output."""
    dims = {axis.dim for axis in call.axes.values() if axis.dim is not None}
    num_positions = call.output.shape[min(dims)] if len(dims) == 1 else 1
    sizes = [None if axis.dim is None else t.shape[axis.dim] for t, axis in call.axes.items()]
    return joined(list(call.axes.values()), sizes, num_positions)


def _concatenation(call: Call) -> Axis:
    """Of channels, the union; tensors side by side in the image, or flattened, count as mixed."""
    dim = call["dim"] % call.output.dim() - call.output.dim()
    if any(axis.dim == dim for axis in call.axes.values()):
        return _mixed(call, "a concatenation along an image axis")
    return _elementwise(call)


# Windows.


def _pair(value: Any) -> list[int]:
    """An int or a list of one or two, as a list of two."""
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _read_image(axis: Axis, call: Call, reading: Callable[[int, int, int], Reading]) -> Axis:
    """Windows over the last two dimensions: `reading(i, num_in, num_out)` for the i-th of them."""
    if axis.dim not in (-2, -1):
        return axis
    return read(axis, reading(axis.dim + 2, call.shape[axis.dim], call.output.shape[axis.dim]))


def _windows(axis: Axis, call: Call, kernel: Sequence[int], before: Sequence[int]) -> Axis:
    strides, dilations = _pair(call["stride"] or kernel), _pair(call["dilation"] or 1)

    def reading(i: int, n: int, m: int) -> Reading:
        stride, dilation = strides[i], dilations[i]
        first = range(-before[i], -before[i] + kernel[i] * dilation, dilation)
        return Reading(n, m, lambda u: [u * stride + k for k in first], stride)

    return _read_image(axis, call, reading)


def _convolution(axis: Axis, call: Call) -> Axis:
    kernel, padding = call["weight"].shape[2:], call["padding"]
    if axis.dim == -3:  # positions that a reshape made channels
        return _unknown(call)
    if padding == "same":  # what is odd goes to the right
        dilations = _pair(call["dilation"])
        padding = [d * (k - 1) // 2 for d, k in zip(dilations, kernel, strict=True)]
    return _windows(axis, call, kernel, _pair(0 if padding == "valid" else padding))


def _pooling(axis: Axis, call: Call) -> Axis:
    return _windows(axis, call, _pair(call["kernel_size"]), _pair(call["padding"]))


def _adaptive_pooling(axis: Axis, call: Call) -> Axis:
    if axis.dim in (-2, -1) and call.output.shape[axis.dim] == 1:
        return mixed(axis)  # global pooling

    def reading(i: int, n: int, m: int) -> Reading:
        return Reading(n, m, lambda u: range(u * n // m, -(-(u + 1) * n // m)), Fraction(n, m))

    return _read_image(axis, call, reading)


def _interpolation(axis: Axis, call: Call) -> Axis:
    """Neighbors of weight zero are not read."""
    if call["align_corners"]:
        return _unknown(call)
    shift, neighbors = _INTERPOLATIONS[call.operation]

    def reading(i: int, n: int, m: int) -> Reading:
        scale = Fraction(n, m)
        if call["scale_factors"]:  # torch steps by the factor asked for, not by the sizes
            scale = 1 / Fraction(call["scale_factors"][i]).limit_denominator(1000)

        def reads(unit: int) -> Iterable[int]:
            position = (unit + shift) * scale - (shift if neighbors else 0)
            low = math.floor(position)
            beyond = neighbors if position != low else 0
            return range(low - max(beyond - 1, 0), low + beyond + 1)

        return Reading(n, m, reads, scale, border="replicate")

    return _read_image(axis, call, reading)


def _pad(axis: Axis, call: Call) -> Axis:
    sides, dim = call["pad"], axis.dim  # sides are listed from the last dimension
    if dim is None or -dim > len(sides) // 2:
        return axis
    before, mode = sides[2 * (-dim - 1)], call["mode"] or "constant"
    num_in, num_out = call.shape[dim], call.output.shape[dim]
    return read(axis, Reading(num_in, num_out, lambda u: [u - before], border=mode))


# Dimensions that are mixed.


def _mix_last(axis: Axis, num_dims: int) -> Axis:
    return mixed(axis) if axis.dim in range(-num_dims, 0) else axis


def _mix_listed(axis: Axis, call: Call) -> Axis:
    dims = call.dims("dim")
    axis = mixed(axis) if axis.dim in dims else axis
    return axis if call.output.dim() == len(call.shape) else _without(axis, dims)


def _without(axis: Axis, dims: Sequence[int]) -> Axis:
    """The axis after dimensions were taken out of the tensor."""
    dim = axis.dim
    return axis if dim is None else replace(axis, dim=dim + sum(d > dim for d in dims))


def _batch_norm(axis: Axis, call: Call) -> Axis:
    channels = 1 - len(call.shape)
    return mixed(axis) if call["training"] and axis.dim != channels else axis


# Dimensions that are moved, and parts of them.


def _permute(axis: Axis, call: Call) -> Axis:
    order = call.dims("dims")
    return replace(axis, dim=order.index(axis.dim or 0) - len(order))


def _transpose(axis: Axis, call: Call) -> Axis:
    (a,), (b,) = call.dims("dim0"), call.dims("dim1")
    return replace(axis, dim={a: b, b: a}.get(axis.dim or 0, axis.dim))


def _reshape(axis: Axis, call: Call) -> Axis:
    """Follows the units through a reshape, by the distance between them in row-major order."""
    distance = axis.inner * math.prod(call.shape[len(call.shape) + (axis.dim or 0) + 1 :])
    shape = tuple(call.output.shape)
    for i, size in enumerate(shape):
        inner, rest = divmod(distance, math.prod(shape[i + 1 :]))
        if rest == 0 and inner and size % (inner * len(axis.used)) == 0:
            return replace(axis, dim=i - len(shape), inner=inner)
    return mixed(axis, f"a reshape to {shape} cuts across the image")


def _part(axis: Axis, call: Call, start: int, step: int = 1) -> Axis:
    (dim,) = call.dims("dim")
    if axis.dim != dim:
        return axis
    num_in, num_out = call.shape[dim], call.output.shape[dim]
    return read(axis, Reading(num_in, num_out, lambda u: [start + u * step], step))


def _slice(axis: Axis, call: Call) -> Axis:
    size = call.shape[call.dims("dim")[0]]
    start, _, step = slice(call["start"], call["end"], call["step"]).indices(size)
    return _part(axis, call, start, step)


def _split(axis: Axis, call: Call) -> Axis:
    (dim,) = call.dims("dim")
    return _part(axis, call, sum(t.shape[dim] for t in call.outputs[: call.index]))


def _select(axis: Axis, call: Call) -> Axis:
    dims = call.dims("dim")
    return _unknown(call) if axis.dim in dims else _without(axis, dims)


# Elementwise, though torch does not tag them so.
_ELEMENTWISE = {
    "hardswish", "log_sigmoid", "prelu", "rrelu", "dropout", "native_dropout", "feature_dropout",
    "alpha_dropout", "feature_alpha_dropout", "contiguous", "clone", "detach", "alias", "to",
    "_to_copy", "type_as", "copy", "fill", "zero", "masked_fill", "where", "expand",
}  # fmt: skip
_INTERPOLATIONS = {
    # where in a pixel a position lies, and how many neighbors count on each side of it
    "upsample_nearest2d": (0, 0), "_upsample_nearest_exact2d": (Fraction(1, 2), 0),
    "upsample_bilinear2d": (Fraction(1, 2), 1), "upsample_bicubic2d": (Fraction(1, 2), 2),
}  # fmt: skip
_GROUPS: list[tuple[Callable[[Axis, Call], Axis], Iterable[str]]] = [
    (_convolution, ("conv2d",)),
    (_pooling, ("max_pool2d", "max_pool2d_with_indices", "avg_pool2d")),
    (_adaptive_pooling, ("adaptive_avg_pool2d", "adaptive_max_pool2d")),
    (_interpolation, _INTERPOLATIONS),
    (_pad, ("pad", "constant_pad_nd")),
    (_mix_listed, ("softmax", "log_softmax", "mean", "sum", "amax", "amin", "prod", "var", "std",
                   "linalg_vector_norm")),
    (_reshape, ("view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze")),
    (_split, ("split", "split_with_sizes", "chunk")),
    (lambda axis, call: _mix_last(axis, 1), ("linear",)),
    (lambda axis, call: _mix_last(axis, len(call["normalized_shape"])), ("layer_norm",)),
    (lambda axis, call: _mix_last(axis, len(call.shape) - 1), ("group_norm",)),
    (lambda axis, call: _mix_last(axis, len(call.shape) - 2), ("instance_norm",)),
    (_batch_norm, ("batch_norm",)),
    (_permute, ("permute",)),
    (_transpose, ("transpose",)),
    (_slice, ("slice",)),
    (_select, ("select",)),
]  # fmt: skip
_RULES = {name: rule for rule, names in _GROUPS for name in names}
WITH_RULE = {"cat", *_ELEMENTWISE, *_RULES}
