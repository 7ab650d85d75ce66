"""What each torch operation reads: a rule by name that carries an image axis from input to output.

A rule looks at one image axis at a time, and counts dimensions from the last, so that broadcasting
and tensors without a batch need no care. An operation made of others needs no rule.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import Tensor

from simplecnn.receptive_field import footprint
from simplecnn.receptive_field.footprint import Axis, Reading


@dataclass(frozen=True)
class Call:
    """One operation as it ran: its arguments by name and one of its outputs."""

    operation: str
    arguments: dict[str, Any]
    outputs: Sequence[Tensor]
    index: int
    axis_of: Callable[[Any], Axis | None]  # the image axis of a tensor; None of a constant
    other_of: Callable[[Any], Axis | None]  # the other image axis

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
    def inputs(self) -> list[Tensor]:
        """The tensors that depend on the image."""
        given = tensors(list(self.arguments.values()))
        return [t for t in given if self.axis_of(t) is not None]


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


def _single(change: Callable[[Axis, Call], Axis]) -> Rule:
    """A rule for operations on one tensor; other tensor arguments must be constants."""

    def rule(call: Call) -> Axis:
        first = next(tensors(list(call.arguments.values())))
        axis = call.axis_of(first)
        if axis is None or len(call.inputs) > 1:
            return unknown(call)
        return change(axis, call)

    return rule


def unknown(call: Call) -> Axis:
    """An operation without a rule: at most, everything is mixed with everything."""
    reason = f"aten.{call.operation} has no closed form here"
    axes = [footprint.mixed(a, reason) for a in map(call.axis_of, call.inputs) if a is not None]
    return footprint.joined(axes, [None] * len(axes), 1)


def _elementwise(call: Call) -> Axis:
    return _joined([(t.shape, axis) for t in call.inputs if (axis := call.axis_of(t))], call)


def _joined(operands: Sequence[tuple[Sequence[int], Axis]], call: Call) -> Axis:
    """The union of operands (shape, axis) that lie on one another in the output."""
    dims = {axis.dim for _, axis in operands if axis.dim is not None}
    num_positions = call.output.shape[min(dims)] if len(dims) == 1 else 1
    sizes = [None if axis.dim is None else shape[axis.dim] for shape, axis in operands]
    return footprint.joined([axis for _, axis in operands], sizes, num_positions)


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
    return footprint.read(footprint.spread(axis, num_in), reading(dim + num_dims, num_in, num_out))


def _convolution(axis: Axis, call: Call) -> Axis:
    kernel = list(call["weight"].shape[2:])
    num_dims = len(kernel)
    if axis.dim == -num_dims - 1:  # positions that a reshape made channels
        return footprint.mixed(axis, "" if call["groups"] == 1 else "a grouped convolution")
    stride = _per_dim(call["stride"], num_dims)
    dilation = _per_dim(call["dilation"], num_dims)
    padding = call["padding"]
    if padding == "same":  # what is odd goes to the right
        before = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
    else:
        before = _per_dim(0 if padding == "valid" else padding, num_dims)
    kind = footprint.transposed if "transpose" in call.operation else footprint.window
    return _windows(axis, call, kind, kernel, stride, before, dilation)


def _pooling(axis: Axis, call: Call, num_dims: int) -> Axis:
    kernel = _per_dim(call["kernel_size"], num_dims)
    stride = _per_dim(call["stride"], num_dims, kernel)
    before = _per_dim(call["padding"], num_dims)
    dilation = _per_dim(call["dilation"], num_dims, 1)
    return _windows(axis, call, footprint.window, kernel, stride, before, dilation)


def _windows(
    axis: Axis,
    call: Call,
    kind: Callable[..., Reading],
    kernel: list[int],
    stride: list[int],
    before: list[int],
    dilation: list[int],
) -> Axis:
    def reading(i: int, num_in: int, num_out: int) -> Reading:
        return kind(
            num_in,
            num_out,
            kernel=kernel[i],
            stride=stride[i],
            before=before[i],
            dilation=dilation[i],
        )

    return _read_last(axis, call, len(kernel), reading)


def _adaptive_pooling(axis: Axis, call: Call, num_dims: int) -> Axis:
    if axis.dim is not None and axis.dim >= -num_dims and call.output.shape[axis.dim] == 1:
        return footprint.mixed(axis)  # global pooling
    return _read_last(axis, call, num_dims, lambda i, n, m: footprint.adaptive(n, m))


def _interpolation(axis: Axis, call: Call, num_dims: int, mode: str) -> Axis:
    def reading(i: int, num_in: int, num_out: int) -> Reading:
        scale = Fraction(num_in, num_out)
        if call["align_corners"]:
            scale = Fraction(num_in - 1, max(num_out - 1, 1))
        elif call["scale_factors"]:  # torch steps by the factor asked for, not by the sizes
            scale = 1 / Fraction(call["scale_factors"][i]).limit_denominator(1000)
        return footprint.resampled(
            num_in, num_out, mode=mode, scale=scale, align_corners=bool(call["align_corners"])
        )

    return _read_last(axis, call, num_dims, reading)


def _pad(axis: Axis, call: Call) -> Axis:
    padding = list(call["pad"])
    mode = call["mode"] or "constant"
    return _read_last(
        axis,
        call,
        len(padding) // 2,
        # sides are listed from the last dimension
        lambda i, n, m: footprint.bordered(
            n, m, before=padding[len(padding) - 2 * (i + 1)], mode=mode
        ),
    )


def _pixel_shuffle(axis: Axis, call: Call) -> Axis:
    """Each position becomes a square of `upscale_factor` positions."""
    dim = axis.dim
    if dim is None:
        return axis
    if dim < -2:
        return footprint.mixed(axis, "a pixel shuffle")
    repeated = replace(footprint.spread(axis, call.shape[dim]), inner=call["upscale_factor"])
    return footprint.spread(repeated, call.output.shape[dim])


def _pixel_unshuffle(axis: Axis, call: Call) -> Axis:
    """Each square of `downscale_factor` positions becomes channels of one."""
    factor = [call["downscale_factor"]] * 2
    return _windows(axis, call, footprint.window, factor, factor, [0, 0], [1, 1])


def _channel_shuffle(axis: Axis, call: Call) -> Axis:
    channels = -len(call.shape) + 1
    return footprint.mixed(axis, "a channel shuffle") if axis.dim == channels else axis


def _dims(call: Call, name: str) -> set[int]:
    """The dimensions an argument lists, counted from the last; all of them where it is empty."""
    num_dims, value = len(call.shape), call[name]
    dims = [value] if isinstance(value, int) else list(value or range(num_dims))
    return {d % num_dims - num_dims for d in dims}


def _mix(axis: Axis, dims: set[int]) -> Axis:
    return footprint.mixed(axis) if axis.dim in dims else axis


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


def _mix_last(axis: Axis, call: Call, num_dims: int) -> Axis:
    return _mix(axis, set(range(-num_dims, 0)))


def _mix_all_but_first(axis: Axis, call: Call, num_kept: int) -> Axis:
    return _mix_last(axis, call, len(call.shape) - num_kept)


def _batch_norm(axis: Axis, call: Call) -> Axis:
    if not (call["training"] or call["use_input_stats"]):
        return axis
    kept = -len(call.shape) + 1
    return footprint.mixed(axis) if axis.dim != kept else axis


def _layer_norm(axis: Axis, call: Call) -> Axis:
    return _mix_last(axis, call, len(call["normalized_shape"]))


def _softmax(axis: Axis, call: Call) -> Axis:
    return _mix(axis, _dims(call, "dim"))


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
    num_units = len(axis.inside)
    distance = axis.inner * math.prod(call.shape[axis.dim + 1 :] if axis.dim < -1 else ())
    shape = tuple(call.output.shape)
    behind = [math.prod(shape[i + 1 :]) for i in range(len(shape))]
    for i, size in enumerate(shape):  # all units within one dimension
        inner, rest = divmod(distance, behind[i])
        if rest == 0 and inner and size % (inner * num_units) == 0:
            return replace(axis, dim=i - len(shape), inner=inner)
    for i in reversed(range(len(shape))):  # groups of units in one dimension, the rest behind it
        group, rest = divmod(behind[i], distance)
        if rest == 0 and group and num_units % group == 0 == shape[i] % (num_units // group):
            num_groups = num_units // group
            grouped = footprint.window(
                num_units, num_groups, kernel=group, stride=group, before=0, dilation=1
            )
            axis = footprint.read(axis, grouped)
            reason = f"a reshape to {shape} parts the image into groups of {group}"
            return replace(axis, dim=i - len(shape), inner=1, bound=axis.bound or reason)
    return footprint.mixed(axis, f"a reshape to {shape} cuts across the image")


def _expand(axis: Axis, call: Call) -> Axis:
    if axis.dim is None or call.shape[axis.dim] == call.output.shape[axis.dim]:
        return axis
    return footprint.uniform(axis, axis.inside[0])


def _repeat(axis: Axis, call: Call) -> Axis:
    if axis.dim is None or call.shape[axis.dim] == call.output.shape[axis.dim]:
        return axis
    axis = footprint.spread(axis, call.shape[axis.dim])
    return replace(axis, inside=axis.inside * call["repeats"][axis.dim], endless=None)


def _moved(axis: Axis, call: Call, dim: int, start: int, step: int = 1) -> Axis:
    """A part of the tensor along `dim`."""
    if axis.dim is None or axis.dim != dim:
        return axis
    axis = footprint.spread(axis, call.shape[dim])
    num_out = call.output.shape[dim]
    return footprint.read(axis, footprint.moved(len(axis.inside), num_out, start=start, step=step))


def _dim(call: Call) -> int:
    num_dims = len(call.shape)
    return (call["dim"] or 0) % num_dims - num_dims


def _slice(axis: Axis, call: Call) -> Axis:
    dim = _dim(call)
    start, _, step = slice(call["start"], call["end"], call["step"]).indices(call.shape[dim])
    return _moved(axis, call, dim, start, step)


def _split(axis: Axis, call: Call) -> Axis:
    dim = _dim(call)
    before = call.outputs[: call.index]
    return _moved(axis, call, dim, sum(t.shape[dim] for t in before))


def _select(axis: Axis, call: Call) -> Axis:
    dim = _dim(call)
    if axis.dim == dim:
        index = call.index if call.operation == "unbind" else call["index"]
        axis = footprint.spread(axis, call.shape[dim])
        return footprint.uniform(axis, axis.inside[index])
    return _without(axis, {dim})


def _flip(axis: Axis, call: Call) -> Axis:
    if axis.dim not in _dims(call, "dims"):
        return axis
    return _moved(axis, call, axis.dim, call.shape[axis.dim] - 1, -1)


def _roll(axis: Axis, call: Call) -> Axis:
    if axis.dim is None:
        return axis
    if not call["dims"]:
        return footprint.mixed(axis, "a roll over all dimensions")
    num_dims = len(call.shape)
    dims = [d % num_dims - num_dims for d in _per_dim(call["dims"], 1)]
    shift = sum(s for d, s in zip(dims, _per_dim(call["shifts"], 1), strict=True) if d == axis.dim)
    if shift == 0:
        return axis
    axis = footprint.spread(axis, call.shape[axis.dim])
    n = len(axis.inside)
    return footprint.read(axis, footprint.bordered(n, n, before=shift, mode="circular"))


def _gather(axis: Axis, call: Call) -> Axis:
    """`x[..., index, ...]` with one constant list of positions."""
    if call.operation == "index_select":
        dim, index = _dim(call), call["index"]
    else:
        given = [(i, t) for i, t in enumerate(call["indices"]) if t is not None]
        if len(given) != 1 or given[0][1].dim() != 1 or given[0][1].dtype == torch.bool:
            return footprint.mixed(axis, "indexing by several tensors")
        dim, index = given[0][0] - len(call.shape), given[0][1]
    if axis.dim != dim:
        return axis
    axis = footprint.spread(axis, call.shape[dim])
    inside = tuple(axis.inside[i] for i in index.tolist())
    return replace(axis, inside=inside, endless=None)


def _glu(axis: Axis, call: Call) -> Axis:
    dim = _dim(call)
    half = call.shape[dim] // 2
    halves = [_moved(axis, call, dim, start) for start in (0, half)]
    return footprint.joined(halves, [half] * 2, half) if axis.dim == dim else axis


def _stack(call: Call) -> Axis:
    dim = _output_dim(call)
    operands = []
    for tensor in call.inputs:
        axis = call.axis_of(tensor)
        assert axis is not None
        if axis.dim is not None and axis.dim <= dim:  # the new dimension moves those before it
            axis = replace(axis, dim=axis.dim - 1)
        shape = list(tensor.shape)
        shape.insert(dim + len(shape) + 1, 1)
        operands.append((shape, axis))
    return _joined(operands, call)


def _concatenation(call: Call) -> Axis:
    tensors, dim = list(call["tensors"]), _output_dim(call)
    operands = [(t, axis) for t in call.inputs if (axis := call.axis_of(t))]
    if all(axis.dim != dim for _, axis in operands):
        beside = any(other.dim == dim for t, _ in operands if (other := call.other_of(t)))
        if beside and len({axis.inside for _, axis in operands}) > 1:
            reason = "a concatenation puts fields of different size side by side"
            operands = [(t, replace(axis, bound=axis.bound or reason)) for t, axis in operands]
        return _joined([(t.shape, axis) for t, axis in operands], call)
    if any(axis.dim not in (dim, None) for _, axis in operands):
        reason = "a concatenation of one image axis lying in two dimensions"
        return _joined([(t.shape, footprint.mixed(axis, reason)) for t, axis in operands], call)
    before = 0
    inside: list[footprint.Columns] = []
    laid: list[Axis] = []
    for tensor in tensors:
        axis, size = call.axis_of(tensor), tensor.shape[dim] if tensor.dim() > 1 else 0
        if axis is None:
            inside += [footprint.Columns()] * size
            before += 0 if laid else size
        elif axis.dim is None:
            inside += axis.inside * size
            laid.append(axis)
        else:
            laid.append(footprint.spread(axis, size))
            inside += laid[-1].inside
    if len(operands) == 1 and len(operands[0][1].inside) == operands[0][0].shape[dim]:
        n = len(laid[0].inside)  # constants beside one image are padding
        return footprint.read(
            laid[0], footprint.bordered(n, len(inside), before=before, mode="constant")
        )
    return replace(
        next(axis for axis in laid if axis.dim is not None),
        inside=tuple(inside),
        endless=None,
        misaligned=any(axis.misaligned for axis in laid),
        bound=next((axis.bound for axis in laid if axis.bound), ""),
    )


def _output_dim(call: Call) -> int:
    return (call["dim"] or 0) % call.output.dim() - call.output.dim()


def _product(call: Call) -> Axis:
    """Matrix product (..., n, k) x (..., k, m): k is summed over."""
    a, b = (t for t in list(call.arguments.values())[:2])
    if a.dim() < 2 or b.dim() < 2:
        return unknown(call)
    operands = []
    for tensor, summed in ((a, -1), (b, -2)):
        axis = call.axis_of(tensor)
        if axis is not None:
            operands.append((tensor.shape, _mix(axis, {summed})))
    return _joined(operands, call)


def _attention(call: Call) -> Axis:
    """Query, key and value (..., positions, features): each position sees all of them."""
    operands = [(t.shape, _mix(axis, {-1, -2})) for t in call.inputs if (axis := call.axis_of(t))]
    return _joined(operands, call)


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
_ONE_TENSOR: dict[str, Callable[[Axis, Call], Axis]] = {
    "pad": _pad,
    "constant_pad_nd": _pad,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "channel_shuffle": _channel_shuffle,
    "linear": partial(_mix_last, num_dims=1),
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "batch_norm": _batch_norm,
    "instance_norm": partial(_mix_all_but_first, num_kept=2),
    "group_norm": partial(_mix_all_but_first, num_kept=1),
    "softmax": _softmax,
    "log_softmax": _softmax,
    "permute": _permute,
    "transpose": _transpose,
    "expand": _expand,
    "repeat": _repeat,
    "slice": _slice,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _split,
    "select": _select,
    "unbind": _select,
    "flip": _flip,
    "roll": _roll,
    "index_select": _gather,
    "index": _gather,
    "glu": _glu,
}
for _n in (1, 2, 3):
    _ONE_TENSOR |= {f"conv{_n}d": _convolution, f"conv_transpose{_n}d": _convolution}
    for _name in ("max_pool{}d", "max_pool{}d_with_indices", "avg_pool{}d"):
        _ONE_TENSOR[_name.format(_n)] = partial(_pooling, num_dims=_n)
    for _name in ("adaptive_avg_pool{}d", "adaptive_max_pool{}d"):
        _ONE_TENSOR[_name.format(_n)] = partial(_adaptive_pooling, num_dims=_n)
    for _name, _mode in (
        ("upsample_nearest{}d", "nearest"),
        ("_upsample_nearest_exact{}d", "nearest-exact"),
        (("upsample_linear{}d", "upsample_bilinear{}d", "upsample_trilinear{}d")[_n - 1], "linear"),
        ("upsample_bicubic{}d", "cubic"),
    ):
        _ONE_TENSOR[_name.format(_n)] = partial(_interpolation, num_dims=_n, mode=_mode)
for _name in ("view", "reshape", "_unsafe_view", "flatten", "squeeze", "unsqueeze"):
    _ONE_TENSOR[_name] = _reshape
for _name in ("mean", "sum", "amax", "amin", "prod", "var", "std", "norm",
              "linalg_vector_norm", "logsumexp"):  # fmt: skip
    _ONE_TENSOR[_name] = _reduction

RULES: dict[str, Rule] = {name: _single(change) for name, change in _ONE_TENSOR.items()} | {
    "max": _extremum,
    "min": _extremum,
    "cat": _concatenation,
    "concat": _concatenation,
    "stack": _stack,
    "matmul": _product,
    "mm": _product,
    "bmm": _product,
    "scaled_dot_product_attention": _attention,
    "_native_multi_head_attention": _attention,
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
}
