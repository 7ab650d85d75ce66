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
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from simplecnn.receptive_field.axis import Axis, Reading, joined, mixed, read, spread, uniform
from simplecnn.receptive_field.readings import (
    adaptive,
    interpolated,
    padded,
    sliced,
    transposed,
    window,
)


@dataclass(frozen=True)
class Call:
    """One operation as it ran: its arguments by name and one of its outputs."""

    operation: str
    arguments: dict[str, Any]
    outputs: Sequence[Tensor]
    index: int
    axis_of: Callable[[Any], Axis | None]  # the image axis of a tensor; None of a constant
    other_axis_of: Callable[[Any], Axis | None]  # the other image axis

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


Rule = Callable[[Call], Axis]


def rule_of(operation: str, *, pointwise: bool) -> Rule | None:
    """The rule of an aten operation, named without its trailing underscore; None without one."""
    return _elementwise if pointwise else RULES.get(operation)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in an argument, lists and tuples opened."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def unknown(call: Call) -> Axis:
    """An operation without a rule: at most, everything is mixed with everything."""
    reason = f"aten.{call.operation} has no rule here: mixed with everything"
    axes = [mixed(axis, reason) for _, axis in call.operands]
    return joined(axes, [None] * len(axes), 1)


def _single(change: Callable[[Axis, Call], Axis]) -> Rule:
    """A rule for operations on one tensor; other tensor arguments must be constants."""

    def rule(call: Call) -> Axis:
        axis = call.axis_of(next(tensors(list(call.arguments.values()))))
        if axis is None or len(call.operands) > 1:
            return unknown(call)
        return change(axis, call)

    return rule


def _elementwise(call: Call) -> Axis:
    """The union of operands that lie on one another in the output."""
    operands = call.operands
    dims = {axis.dim for _, axis in operands if axis.dim is not None}
    num_positions = call.output.shape[min(dims)] if len(dims) == 1 else 1
    sizes = [None if axis.dim is None else t.shape[axis.dim] for t, axis in operands]
    return joined([axis for _, axis in operands], sizes, num_positions)


def _concatenation(call: Call) -> Axis:
    """Along the channels, or along an image axis."""
    dim = call["dim"] % call.output.dim() - call.output.dim()
    axes = [axis for _, axis in call.operands]
    if all(axis.dim != dim for axis in axes):
        result = _elementwise(call)
        others = [call.other_axis_of(t) for t, _ in call.operands]
        side_by_side = any(other is not None and other.dim == dim for other in others)
        if side_by_side and not all(map(axes[0].equals, axes)):
            reason = "a concatenation puts fields of different size side by side"
            result = replace(result, bound=result.bound or reason)
        return result
    if any(axis.dim not in (dim, None) for axis in axes):
        reason = "a concatenation of one image axis lying in two dimensions"
        return joined([mixed(a, reason) for a in axes], [None] * len(axes), 1)
    used = []
    for tensor in call["tensors"]:
        axis, size = call.axis_of(tensor), tensor.shape[dim]
        if axis is None:
            used.append(np.zeros((size, axes[0].used.shape[1]), dtype=bool))
        elif axis.dim is None:
            used.append(axis.used.repeat(size, axis=0))
        else:
            used.append(spread(axis, size).used)
    bound = next((axis.bound for axis in axes if axis.bound), "")
    misaligned = any(axis.misaligned for axis in axes)
    cut = np.ones(call.output.shape[dim], dtype=bool)
    return Axis(np.concatenate(used), cut, None, dim, misaligned=misaligned, bound=bound)


# Windows.


def _per_dim(value: Any, num_dims: int, default: Any = None) -> list[int]:
    """An int or a list of one or all, as a list of `num_dims`."""
    value = default if value is None or value == [] else value
    values = [value] if isinstance(value, int) else list(value)
    return values * num_dims if len(values) == 1 else values


def _read_last(
    axis: Axis, call: Call, num_dims: int, reading: Callable[[int, int, int], Reading]
) -> Axis:
    """Windows over the last `num_dims` dimensions: `reading(i, num_in, num_out)` for the i-th."""
    dim = axis.dim
    if dim is None or dim < -num_dims:
        return axis
    num_in, num_out = call.shape[dim], call.output.shape[dim]
    return read(spread(axis, num_in), reading(dim + num_dims, num_in, num_out))


def _convolution(axis: Axis, call: Call) -> Axis:
    kernel = list(call["weight"].shape[2:])
    num_dims = len(kernel)
    if axis.dim == -num_dims - 1:  # positions that a reshape made channels
        return mixed(axis, "" if call["groups"] == 1 else "a grouped convolution")
    dilation = _per_dim(call["dilation"], num_dims)
    padding = call["padding"]
    if padding == "same":  # what is odd goes to the right
        before = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
    else:
        before = _per_dim(0 if padding == "valid" else padding, num_dims)
    kind = transposed if "transpose" in call.operation else window
    return _windows(axis, call, kind, kernel, _per_dim(call["stride"], num_dims), before, dilation)


def _pooling(axis: Axis, call: Call, num_dims: int) -> Axis:
    kernel = _per_dim(call["kernel_size"], num_dims)
    stride = _per_dim(call["stride"], num_dims, kernel)
    before = _per_dim(call["padding"], num_dims)
    dilation = _per_dim(call["dilation"], num_dims, 1)
    return _windows(axis, call, window, kernel, stride, before, dilation)


def _windows(
    axis: Axis,
    call: Call,
    kind: Callable[..., Reading],
    kernel: list[int],
    stride: list[int],
    before: list[int],
    dilation: list[int],
) -> Axis:
    def reading(i: int, n: int, m: int) -> Reading:
        options = {"kernel": kernel[i], "stride": stride[i]}
        return kind(n, m, **options, before=before[i], dilation=dilation[i])

    return _read_last(axis, call, len(kernel), reading)


def _adaptive_pooling(axis: Axis, call: Call, num_dims: int) -> Axis:
    if axis.dim is not None and axis.dim >= -num_dims and call.output.shape[axis.dim] == 1:
        return mixed(axis)  # global pooling
    return _read_last(axis, call, num_dims, lambda i, n, m: adaptive(n, m))


def _interpolation(axis: Axis, call: Call, num_dims: int, mode: str) -> Axis:
    corners = bool(call["align_corners"])

    def reading(i: int, n: int, m: int) -> Reading:
        scale = Fraction(n, m)
        if corners:
            scale = Fraction(n - 1, max(m - 1, 1))
        elif call["scale_factors"]:  # torch steps by the factor asked for, not by the sizes
            scale = 1 / Fraction(call["scale_factors"][i]).limit_denominator(1000)
        return interpolated(n, m, mode=mode, scale=scale, align_corners=corners)

    return _read_last(axis, call, num_dims, reading)


def _pad(axis: Axis, call: Call) -> Axis:
    sides, mode = list(call["pad"]), call["mode"] or "constant"
    num_dims = len(sides) // 2  # listed from the last dimension

    def reading(i: int, n: int, m: int) -> Reading:
        return padded(n, m, before=sides[2 * (num_dims - i - 1)], mode=mode)

    return _read_last(axis, call, num_dims, reading)


# Dimensions that are mixed.


def _dims(call: Call, name: str) -> set[int]:
    """The dimensions an argument lists, counted from the last; all of them where it is empty."""
    num_dims, value = len(call.shape), call[name]
    dims = [value] if isinstance(value, int) else list(value or range(num_dims))
    return {d % num_dims - num_dims for d in dims}


def _mix(axis: Axis, dims: set[int]) -> Axis:
    return mixed(axis) if axis.dim in dims else axis


def _mix_last(axis: Axis, num_dims: int) -> Axis:
    return _mix(axis, set(range(-num_dims, 0)))


def _without(axis: Axis, dims: set[int]) -> Axis:
    """The axis after dimensions were taken out of the tensor."""
    if axis.dim is None:
        return axis
    return replace(axis, dim=axis.dim + sum(d > axis.dim for d in dims))


def _reduction(axis: Axis, call: Call) -> Axis:
    dims = _dims(call, "dim")
    axis = _mix(axis, dims)
    return axis if call["keepdim"] else _without(axis, dims)


def _extremum(call: Call) -> Axis:
    """`max` and `min` over a dimension, or of two tensors."""
    return _elementwise(call) if isinstance(call["other"], Tensor) else _single(_reduction)(call)


def _batch_norm(axis: Axis, call: Call) -> Axis:
    channels = -len(call.shape) + 1
    return mixed(axis) if call["training"] and axis.dim != channels else axis


# Dimensions that are moved, and parts of them.


def _permute(axis: Axis, call: Call) -> Axis:
    if axis.dim is None:
        return axis
    num_dims = len(call.shape)
    order = [d % num_dims for d in call["dims"]]
    return replace(axis, dim=order.index(axis.dim + num_dims) - num_dims)


def _transpose(axis: Axis, call: Call) -> Axis:
    num_dims = len(call.shape)
    a, b = call["dim0"] % num_dims - num_dims, call["dim1"] % num_dims - num_dims
    return replace(axis, dim={a: b, b: a}.get(axis.dim, axis.dim)) if axis.dim else axis


def _reshape(axis: Axis, call: Call) -> Axis:
    """Follows the units through a reshape, by the distance between them in row-major order."""
    if axis.dim is None:
        return axis
    distance = axis.inner * math.prod(call.shape[axis.dim + 1 :] if axis.dim < -1 else ())
    shape = tuple(call.output.shape)
    for i, size in enumerate(shape):
        inner, rest = divmod(distance, math.prod(shape[i + 1 :]))
        if rest == 0 and inner and size % (inner * len(axis.used)) == 0:
            return replace(axis, dim=i - len(shape), inner=inner)
    return mixed(axis, f"a reshape to {shape} cuts across the image")


def _expand(axis: Axis, call: Call) -> Axis:
    if axis.dim is None or call.shape[axis.dim] == call.output.shape[axis.dim]:
        return axis
    return uniform(axis, axis.used[0])


def _dim(call: Call) -> int:
    num_dims = len(call.shape)
    return (call["dim"] or 0) % num_dims - num_dims


def _part(axis: Axis, call: Call, start: int, step: int = 1) -> Axis:
    dim = _dim(call)
    if axis.dim != dim:
        return axis
    num_in, num_out = call.shape[dim], call.output.shape[dim]
    return read(spread(axis, num_in), sliced(num_in, num_out, start=start, step=step))


def _slice(axis: Axis, call: Call) -> Axis:
    size = call.shape[_dim(call)]
    start, _, step = slice(call["start"], call["end"], call["step"]).indices(size)
    return _part(axis, call, start, step)


def _split(axis: Axis, call: Call) -> Axis:
    before = call.outputs[: call.index]
    return _part(axis, call, sum(t.shape[_dim(call)] for t in before))


def _select(axis: Axis, call: Call) -> Axis:
    dim = _dim(call)
    if axis.dim == dim:
        return uniform(axis, spread(axis, call.shape[dim]).used[call["index"]])
    return _without(axis, {dim})


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
_RESHAPES = {"view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze"}
_REDUCTIONS = {
    "mean", "sum", "amax", "amin", "prod", "var", "std", "norm", "linalg_vector_norm", "logsumexp",
}  # fmt: skip
_ONE_TENSOR: dict[str, Callable[[Axis, Call], Axis]] = {
    "pad": _pad,
    "constant_pad_nd": _pad,
    "linear": lambda axis, call: _mix_last(axis, 1),
    "batch_norm": _batch_norm,
    "instance_norm": lambda axis, call: _mix_last(axis, len(call.shape) - 2),
    "group_norm": lambda axis, call: _mix_last(axis, len(call.shape) - 1),
    "layer_norm": lambda axis, call: _mix_last(axis, len(call["normalized_shape"])),
    "softmax": lambda axis, call: _mix(axis, _dims(call, "dim")),
    "log_softmax": lambda axis, call: _mix(axis, _dims(call, "dim")),
    "channel_shuffle": lambda axis, call: _mix(axis, {1 - len(call.shape)}),
    "permute": _permute,
    "transpose": _transpose,
    "expand": _expand,
    "slice": _slice,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _split,
    "select": _select,
    **dict.fromkeys(_RESHAPES, _reshape),
    **dict.fromkeys(_REDUCTIONS, _reduction),
}
for _n, _linear in ((1, "linear"), (2, "bilinear"), (3, "trilinear")):
    _ONE_TENSOR |= {
        f"conv{_n}d": _convolution,
        f"conv_transpose{_n}d": _convolution,
        **dict.fromkeys(
            (f"max_pool{_n}d", f"max_pool{_n}d_with_indices", f"avg_pool{_n}d"),
            partial(_pooling, num_dims=_n),
        ),
        **dict.fromkeys(
            (f"adaptive_avg_pool{_n}d", f"adaptive_max_pool{_n}d"),
            partial(_adaptive_pooling, num_dims=_n),
        ),
        f"upsample_nearest{_n}d": partial(_interpolation, num_dims=_n, mode="nearest"),
        f"_upsample_nearest_exact{_n}d": partial(_interpolation, num_dims=_n, mode="nearest-exact"),
        f"upsample_{_linear}{_n}d": partial(_interpolation, num_dims=_n, mode="linear"),
        f"upsample_bicubic{_n}d": partial(_interpolation, num_dims=_n, mode="cubic"),
    }

RULES: dict[str, Rule] = {name: _single(change) for name, change in _ONE_TENSOR.items()} | {
    "max": _extremum,
    "min": _extremum,
    "cat": _concatenation,
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
}
