"""What each torch operation reads: a rule by name that carries an image axis from input to output.

There are rules for what convolutional classifiers are made of. An operation made of others needs
none, and of what has none it is said that it mixes everything with everything.

A rule looks at one image axis at a time, and counts dimensions from the last, so that broadcasting
and tensors without a batch need no care.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from torch import Tensor

from simplecnn.receptive_field import readings
from simplecnn.receptive_field.axis import Axis, joined, mixed, read, spread, uniform
from simplecnn.receptive_field.readings import Reading


@dataclass(frozen=True)
class Call:
    """One operation as it ran: its arguments by name and one of its outputs."""

    operation: str
    arguments: dict[str, Any]
    outputs: Sequence[Tensor]
    index: int
    axis_of: Callable[[Any], Axis | None]  # the image axis of a tensor; None of a constant

    def __getitem__(self, name: str) -> Any:
        return self.arguments.get(name)

    @property
    def output(self) -> Tensor:
        return self.outputs[self.index]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the first tensor argument."""
        return tuple(next(tensors(list(self.arguments.values()))).shape)

    @property
    def operands(self) -> list[tuple[Tensor, Axis]]:
        """The tensors that depend on the image, with their axes."""
        given = tensors(list(self.arguments.values()))
        return [(t, axis) for t in given if (axis := self.axis_of(t)) is not None]

    def dims(self, name: str) -> list[int]:
        """The dimensions an argument lists, counted from the last; all where it is empty."""
        num_dims, value = len(self.shape), self[name]
        dims = [value] if isinstance(value, int) else list(value or range(num_dims))
        return [d % num_dims - num_dims for d in dims]


Rule = Callable[[Call], Axis]
Change = Callable[[Axis, Call], Axis]  # a rule for operations on one tensor


def rule_of(operation: str, *, pointwise: bool) -> Rule | None:
    """The rule of an aten operation, named without its trailing underscore; None without one."""
    if pointwise or operation in _ELEMENTWISE:
        return _elementwise
    return _concatenation if operation == "cat" else _on_one_tensor(_RULES.get(operation))


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in an argument, lists and tuples opened."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def unknown(call: Call) -> Axis:
    """An operation without a rule: at most, everything is mixed with everything."""
    return _all_mixed(call, f"aten.{call.operation} has no rule here: mixed with everything")


def _all_mixed(call: Call, reason: str) -> Axis:
    axes = [mixed(axis, reason) for _, axis in call.operands]
    return joined(axes, [None] * len(axes), 1)


def _on_one_tensor(change: Change | None) -> Rule | None:
    """The rule that applies `change` to one tensor; other tensor arguments must be constants."""
    if change is None:
        return None

    def rule(call: Call) -> Axis:
        axis = call.axis_of(next(tensors(list(call.arguments.values()))))
        if axis is None or len(call.operands) > 1:
            return unknown(call)
        return axis if axis.dim is None else change(axis, call)

    return rule


def _elementwise(call: Call) -> Axis:
    """The union of operands that lie on one another in the output."""
    operands = call.operands
    dims = {axis.dim for _, axis in operands if axis.dim is not None}
    num_positions = call.output.shape[min(dims)] if len(dims) == 1 else 1
    sizes = [None if axis.dim is None else t.shape[axis.dim] for t, axis in operands]
    return joined([axis for _, axis in operands], sizes, num_positions)


def _concatenation(call: Call) -> Axis:
    """Of channels, the union; tensors side by side in the image, or flattened, count as mixed."""
    dim = call["dim"] % call.output.dim() - call.output.dim()
    if any(axis.dim == dim for _, axis in call.operands):
        return _all_mixed(call, "a concatenation along an image axis")
    return _elementwise(call)


# Windows.


def _per_dim(value: Any, default: Any = None) -> list[int]:
    """An int or a list of one or two, as a list of two."""
    value = default if value is None or value == [] else value
    values = [value] if isinstance(value, int) else list(value)
    return values * 2 if len(values) == 1 else values


def _read_image(axis: Axis, call: Call, reading: Callable[[int, int, int], Reading]) -> Axis:
    """Windows over the last two dimensions: `reading(i, num_in, num_out)` for the i-th of them."""
    if axis.dim not in (-2, -1):
        return axis
    num_in, num_out = call.shape[axis.dim], call.output.shape[axis.dim]
    return read(spread(axis, num_in), reading(axis.dim + 2, num_in, num_out))


def _windows(axis: Axis, call: Call, kernel: list[int], before: list[int]) -> Axis:
    stride, dilation = _per_dim(call["stride"], kernel), _per_dim(call["dilation"], 1)

    def reading(i: int, n: int, m: int) -> Reading:
        options = {"kernel": kernel[i], "stride": stride[i], "dilation": dilation[i]}
        return readings.window(n, m, **options, before=before[i])

    return _read_image(axis, call, reading)


def _convolution(axis: Axis, call: Call) -> Axis:
    kernel, padding = list(call["weight"].shape[2:]), call["padding"]
    if axis.dim == -3:  # positions that a reshape made channels
        return mixed(axis, "" if call["groups"] == 1 else "a grouped convolution")
    if padding == "same":  # what is odd goes to the right
        dilation = _per_dim(call["dilation"])
        before = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
    else:
        before = _per_dim(0 if padding == "valid" else padding)
    return _windows(axis, call, kernel, before)


def _pooling(axis: Axis, call: Call) -> Axis:
    return _windows(axis, call, _per_dim(call["kernel_size"]), _per_dim(call["padding"]))


def _adaptive_pooling(axis: Axis, call: Call) -> Axis:
    if axis.dim in (-2, -1) and call.output.shape[axis.dim] == 1:
        return mixed(axis)  # global pooling
    return _read_image(axis, call, lambda i, n, m: readings.adaptive(n, m))


def _interpolation(axis: Axis, call: Call) -> Axis:
    if call["align_corners"]:
        return unknown(call)

    def reading(i: int, n: int, m: int) -> Reading:
        scale = Fraction(n, m)
        if call["scale_factors"]:  # torch steps by the factor asked for, not by the sizes
            scale = 1 / Fraction(call["scale_factors"][i]).limit_denominator(1000)
        return readings.interpolated(n, m, mode=_INTERPOLATIONS[call.operation], scale=scale)

    return _read_image(axis, call, reading)


def _pad(axis: Axis, call: Call) -> Axis:
    sides, mode = list(call["pad"]), call["mode"] or "constant"  # listed from the last dimension
    assert axis.dim is not None
    if -axis.dim > len(sides) // 2:
        return axis
    num_in, num_out = call.shape[axis.dim], call.output.shape[axis.dim]
    before = sides[2 * (-axis.dim - 1)]
    return read(spread(axis, num_in), readings.padded(num_in, num_out, before=before, mode=mode))


# Dimensions that are mixed.


def _mix_last(axis: Axis, num_dims: int) -> Axis:
    return mixed(axis) if axis.dim in range(-num_dims, 0) else axis


def _mix_listed(axis: Axis, call: Call) -> Axis:
    return mixed(axis) if axis.dim in call.dims("dim") else axis


def _reduction(axis: Axis, call: Call) -> Axis:
    axis = _mix_listed(axis, call)
    return axis if call["keepdim"] else _without(axis, call.dims("dim"))


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
    assert axis.dim is not None
    return replace(axis, dim=order.index(axis.dim) - len(order))


def _transpose(axis: Axis, call: Call) -> Axis:
    (a,), (b,) = call.dims("dim0"), call.dims("dim1")
    return replace(axis, dim=b if axis.dim == a else a if axis.dim == b else axis.dim)


def _reshape(axis: Axis, call: Call) -> Axis:
    """Follows the units through a reshape, by the distance between them in row-major order."""
    assert axis.dim is not None
    distance = axis.inner * math.prod(call.shape[len(call.shape) + axis.dim + 1 :])
    shape = tuple(call.output.shape)
    for i, size in enumerate(shape):
        inner, rest = divmod(distance, math.prod(shape[i + 1 :]))
        if rest == 0 and inner and size % (inner * len(axis.used)) == 0:
            return replace(axis, dim=i - len(shape), inner=inner)
    return mixed(axis, f"a reshape to {shape} cuts across the image")


def _expand(axis: Axis, call: Call) -> Axis:
    assert axis.dim is not None
    stretched = call.shape[axis.dim] != call.output.shape[axis.dim]
    return uniform(axis, axis.used[0]) if stretched else axis


def _part(axis: Axis, call: Call, start: int, step: int = 1) -> Axis:
    (dim,) = call.dims("dim")
    if axis.dim != dim:
        return axis
    num_in, num_out = call.shape[dim], call.output.shape[dim]
    return read(spread(axis, num_in), readings.sliced(num_in, num_out, start=start, step=step))


def _slice(axis: Axis, call: Call) -> Axis:
    size = call.shape[call.dims("dim")[0]]
    start, _, step = slice(call["start"], call["end"], call["step"]).indices(size)
    return _part(axis, call, start, step)


def _split(axis: Axis, call: Call) -> Axis:
    (dim,) = call.dims("dim")
    return _part(axis, call, sum(t.shape[dim] for t in call.outputs[: call.index]))


def _select(axis: Axis, call: Call) -> Axis:
    (dim,) = call.dims("dim")
    if axis.dim == dim:
        return uniform(axis, spread(axis, call.shape[dim]).used[call["index"]])
    return _without(axis, [dim])


# Operations whose output does not depend on what is in their input.
CONSTANT = {
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like",
    "new_zeros", "new_ones", "new_full", "new_empty",
}  # fmt: skip

# Elementwise, though torch does not tag them so.
_ELEMENTWISE = {
    "hardswish", "log_sigmoid", "prelu", "rrelu", "dropout", "native_dropout", "feature_dropout",
    "alpha_dropout", "feature_alpha_dropout", "contiguous", "clone", "detach", "alias", "to",
    "_to_copy", "type_as", "copy", "fill", "zero", "masked_fill", "where",
}  # fmt: skip
_INTERPOLATIONS = {
    "upsample_nearest2d": "nearest", "_upsample_nearest_exact2d": "nearest-exact",
    "upsample_bilinear2d": "linear", "upsample_bicubic2d": "cubic",
}  # fmt: skip
_GROUPS: list[tuple[Change, tuple[str, ...]]] = [
    (_convolution, ("conv2d",)),
    (_pooling, ("max_pool2d", "max_pool2d_with_indices", "avg_pool2d")),
    (_adaptive_pooling, ("adaptive_avg_pool2d", "adaptive_max_pool2d")),
    (_interpolation, tuple(_INTERPOLATIONS)),
    (_pad, ("pad", "constant_pad_nd")),
    (_mix_listed, ("softmax", "log_softmax")),
    (_reduction, ("mean", "sum", "amax", "amin", "prod", "var", "std", "linalg_vector_norm")),
    (_reshape, ("view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze")),
    (_split, ("split", "split_with_sizes", "chunk")),
    (lambda axis, call: _mix_last(axis, 1), ("linear",)),
    (lambda axis, call: _mix_last(axis, len(call["normalized_shape"])), ("layer_norm",)),
    (lambda axis, call: _mix_last(axis, len(call.shape) - 1), ("group_norm",)),
    (lambda axis, call: _mix_last(axis, len(call.shape) - 2), ("instance_norm",)),
    (_batch_norm, ("batch_norm",)),
    (_permute, ("permute",)),
    (_transpose, ("transpose",)),
    (_expand, ("expand",)),
    (_slice, ("slice",)),
    (_select, ("select",)),
]
_RULES = {name: change for change, names in _GROUPS for name in names}
