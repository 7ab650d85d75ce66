"""Receptive fields: which part of the image one unit of a layer sees.

The network is run, not parsed: every torch operation is seen as it happens, so functional calls,
branches and loops are followed like modules are.

A unit (i, j) is all channels at row i and column j of a layer's output. Pairs are (vertical,
horizontal), rows and columns count from 0 at the top left, and intervals hold their first and their
last member. Padding lies at negative numbers and from the image size up. Formulas: Araujo, Norris
and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019,
doi 10.23915/distill.00021.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # it has no public name
from torch.utils.weak import WeakTensorKeyDictionary

from simplecnn.receptive_field.axis import Axis, Interval, ends, image_axis
from simplecnn.receptive_field.operations import WITH_RULE, Call, follow, tensors
from simplecnn.receptive_field.trace import named_outputs

Unit = int | tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Field:
    """What the units of one layer see of the image: each the union over its channels.

    `interval` counts padding as if the image went on; `used` gives the rows and columns of the
    image that the unit really depends on.
    """

    axes: tuple[Axis, Axis]
    operations: frozenset[str]  # names of the torch operations between the image and the layer

    @property
    def units(self) -> tuple[int, int]:
        """How many rows and columns of units the layer has."""
        return self._pair(lambda axis: len(axis.used))

    @property
    def image_size(self) -> tuple[int, int]:
        return self._pair(lambda axis: axis.used.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Pixels from the first to the last one seen; of the largest unit where they differ."""
        return self._pair(lambda axis: axis.size)

    @property
    def num_used(self) -> tuple[int, int]:
        """The most rows and columns of the image that one unit depends on: fewer than `size` where
        dilation or stride leaves gaps, or where every unit sees padding."""
        return self._pair(lambda axis: int(axis.used.sum(1).max()))

    @property
    def stride(self) -> tuple[int | Fraction | None, int | Fraction | None]:
        """Pixels between the fields of neighboring units, also called jump. A mean where the
        steps differ; 0 where all units see the same; None where units lie on no grid."""
        return self._pair(lambda axis: axis.stride)

    @property
    def start(self) -> tuple[int, int]:
        """First row and column that unit (0, 0) sees; negative in the padding."""
        return self._pair(lambda axis: axis.interval(0)[0])

    @property
    def is_uniform(self) -> bool:
        """Whether all units see the same: after flatten and linear, or global pooling."""
        return all(axis.pattern is None and axis.is_uniform for axis in self.axes)

    @property
    def misaligned(self) -> bool:
        """Whether branches that differ in stride or center meet on the way here: the field's size
        or center then changes from unit to unit."""
        return any(axis.misaligned for axis in self.axes)

    @property
    def bound(self) -> str:
        """Why the field may be smaller than given here; empty where it is exact."""
        return next((axis.bound for axis in self.axes if axis.bound), "")

    @property
    def visible(self) -> tuple[Interval, Interval]:
        """First and last row, first and last column of the image that any unit depends on."""
        return self._pair(lambda axis: ends(axis.used.max(axis=0)))

    @property
    def num_unread(self) -> tuple[int, int]:
        """Rows and columns of its input that the layer's last operation drops."""
        return self._pair(lambda axis: axis.num_unread)

    def interval(self, unit: Unit) -> tuple[Interval, Interval]:
        """First and last row, first and last column that the unit sees, as if the image went on:
        with padding, and with what a crop cut off. They are (0, -1) for a unit that sees nothing.
        What circular padding brings from the other side counts as beyond the border."""
        i, j = self._position(unit)
        return self.axes[0].interval(i), self.axes[1].interval(j)

    def clipped(self, unit: Unit) -> tuple[Interval, Interval]:
        """First and last row, first and last column of the image that the unit depends on; they
        are (0, -1) for a unit that sees nothing but padding."""
        i, j = self._position(unit)
        return ends(self.axes[0].used[i]), ends(self.axes[1].used[j])

    def used(self, unit: Unit) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The rows and the columns of the image that the unit depends on."""
        i, j = self._position(unit)
        rows, columns = self.axes[0].used[i], self.axes[1].used[j]
        return tuple(rows.nonzero()[0].tolist()), tuple(columns.nonzero()[0].tolist())

    def sees_like(self, other: "Field") -> bool:
        """Whether the units of both depend on the same pixels."""
        pairs = zip(self.axes, other.axes, strict=True)
        return all(np.array_equal(a.used, b.used) for a, b in pairs)

    def _pair(self, value_of: Callable[[Axis], T]) -> tuple[T, T]:
        return value_of(self.axes[0]), value_of(self.axes[1])

    def _position(self, unit: Unit) -> tuple[int, int]:
        i, j = (unit, unit) if isinstance(unit, int) else unit
        rows, columns = self.units
        if not (0 <= i < rows and 0 <= j < columns):
            raise ValueError(f"unit is {unit}: the layer has {rows} x {columns} units from (0, 0).")
        return i, j


def receptive_fields(network: nn.Module, input_size: int | Sequence[int]) -> dict[str, Field]:
    """The field of every layer of a network, by module name, in the order of the calls.

    `input_size` is the image's side, (height, width) or (channels, height, width); without
    channels, the first convolution's are taken. The network runs once, in eval mode, on one
    blank image, and is left as it was. A module called a second time gets the name `pool_1`; a
    module with children has a field of its own where it works on after its last child (a residual
    block that adds), and the network's own name is `output`. Layers that do not depend on the
    image are left out.
    """
    recorder = _Recorder()
    fields: dict[str, Field] = {}

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if output in recorder.fields:
            fields[name] = recorder.fields[output]

    image = blank_image(network, input_size)
    try:
        # in inference mode operations are seen whole: one `linear`, not view and mm
        with torch.inference_mode(), named_outputs(network, receive):
            image = image.clone()
            axes = image_axis(-2, image.shape[-2]), image_axis(-1, image.shape[-1])
            recorder.fields[image] = Field(axes, frozenset())
            with recorder:
                network(image)
    except RuntimeError as error:
        raise ValueError(
            f"the network does not run on one image of shape {tuple(image.shape)}: {error}"
        ) from error
    return fields


def blank_image(network: nn.Module, input_size: int | Sequence[int]) -> Tensor:
    """One image of zeros (1, C, H, W) on the network's device, in its dtype."""
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) not in (2, 3) or any(not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(
            f"input_size is {input_size!r}: give the side, (height, width) or "
            "(channels, height, width) in positive integers."
        )
    parameters = list(network.parameters())
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters):
        raise ValueError("the network has lazy layers without weights: run one image first.")
    if len(size) == 2:
        first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
        size = (first.in_channels if first else 1, *size)
    like = next((p for p in parameters if p.is_floating_point()), torch.zeros(0))
    return torch.zeros(1, *size, dtype=like.dtype, device=like.device)


class _Recorder(TorchDispatchMode):
    """Gives every tensor that depends on an image in `fields` a field too."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        operation, arguments = _bind(func, args, kwargs or {})
        pointwise = torch.Tag.pointwise in func.tags
        if not pointwise and operation not in WITH_RULE:
            with self:  # an operation made of others is followed inside
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        before = {t: self.fields[t] for t in tensors(arguments) if t in self.fields}
        result = func(*args, **(kwargs or {}))
        if not before or operation.endswith("_like") or operation.startswith("new_"):
            return result  # it does not depend on what is in the image
        outputs = list(tensors(result))
        axes = [
            {t: replace(field.axes[which], num_unread=0) for t, field in before.items()}
            for which in (0, 1)
        ]
        names = frozenset({operation}).union(*(field.operations for field in before.values()))
        fields = []
        for index in range(len(outputs)):
            vertical, horizontal = (
                follow(Call(operation, arguments, outputs, index, known), pointwise=pointwise)
                for known in axes
            )
            if _is_cross(vertical, horizontal, list(before.values())):
                reason = "branches see different rows and columns: less than the full rectangle"
                vertical = replace(vertical, bound=reason)
            fields.append(Field((vertical, horizontal), names))
        for output, field in zip(outputs, fields, strict=True):  # an output may be an input
            is_part = output.untyped_storage().nbytes() > output.numel() * output.element_size()
            written = is_part and any(output is t for t in tensors(arguments))
            if written and not (output in before and before[output].sees_like(field)):
                raise ValueError(
                    f"the network writes into a part of a tensor in place (aten.{operation}_ on "
                    f"shape {tuple(output.shape)}): such a write cannot be followed. "
                    "Build the tensor with torch.cat or torch.where instead."
                )
            self.fields[output] = field
        return result


def _is_cross(vertical: Axis, horizontal: Axis, before: Sequence[Field]) -> bool:
    """Whether a unit sees less than these rows x columns: where a 1 x 3 and a 3 x 1 meet, it sees a
    cross."""
    if len(before) == 1 or vertical.bound or horizontal.bound:
        return False
    # by operand, whether it sees all rows, and all columns
    sees = [(f.axes[0].covers(vertical), f.axes[1].covers(horizontal)) for f in before]
    return not any(map(all, sees)) and not any(map(all, zip(*sees, strict=True)))


def _bind(func: Any, args: tuple, kwargs: dict) -> tuple[str, dict[str, Any]]:
    """An operation's name without its trailing underscore, and its arguments by name, defaults
    filled in. Its schema, which torch keeps private, is the only place that names them."""
    schema = func._schema
    given = {a.name: value for a, value in zip(schema.arguments, args, strict=False)} | kwargs
    arguments = {a.name: given.get(a.name, a.default_value) for a in schema.arguments}
    return schema.name.removeprefix("aten::").removesuffix("_"), arguments
