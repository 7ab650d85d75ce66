"""Receptive fields: the part of the image that one unit of a layer depends on.

The network is run, not parsed: every torch operation is intercepted, so that functional calls,
branches and loops are followed as well as modules.

A unit (i, j) comprises all channels at row i and column j of a layer's output. Pairs are (vertical,
horizontal), rows and columns count from 0 at the top left, and intervals include both ends. Padding
has negative indices and indices from the image size up.

Formulas: Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks",
Distill 2019, doi 10.23915/distill.00021.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # has no public name
from torch.utils.weak import WeakTensorKeyDictionary

from simplecnn.receptive_field.axis import Axis, Interval, ends, image_axis
from simplecnn.receptive_field.operations import WITH_RULE, Call, follow
from simplecnn.receptive_field.trace import named_outputs, tensors

Unit = int | tuple[int, int]
T = TypeVar("T")


@dataclass(frozen=True)
class Field:
    """The receptive fields of the units of one layer, each the union over its channels.

    `interval` includes padding, as if the image continued there; `used` returns the rows and
    columns of the image that a unit depends on.
    """

    axes: tuple[Axis, Axis]
    operations: frozenset[str]  # names of the torch operations between the image and the layer

    @property
    def units(self) -> tuple[int, int]:
        """Number of rows and columns of units."""
        return self._pair(lambda axis: len(axis.used))

    @property
    def on_grid(self) -> bool:
        """Whether the units form a grid: rows and columns are two dimensions of the output."""
        dims = {axis.dim for axis in self.axes}
        return None not in dims and len(dims) == 2 and all(a.inner == 1 for a in self.axes)

    @property
    def image_size(self) -> tuple[int, int]:
        return self._pair(lambda axis: axis.used.shape[1])

    @property
    def size(self) -> tuple[int, int]:
        """Size in pixels, padding included; that of the largest unit if units differ."""
        return self._pair(lambda axis: axis.size)

    @property
    def num_used(self) -> tuple[int, int]:
        """Largest number of rows and columns of the image that one unit depends on: fewer than
        `size` if dilation or stride leaves gaps, or if every unit sees padding."""
        return self._pair(lambda axis: int(axis.used.sum(1).max()))

    @property
    def stride(self) -> tuple[int | Fraction | None, int | Fraction | None]:
        """Pixels between the fields of neighboring units, also called jump: the mean if they
        differ, 0 if all units have the same field, None if units lie on no grid."""
        return self._pair(lambda axis: axis.stride)

    @property
    def start(self) -> tuple[int, int]:
        """First row and column of the field of unit (0, 0); negative in the padding."""
        return self._pair(lambda axis: axis.interval(0)[0])

    @property
    def is_uniform(self) -> bool:
        """Whether all units have the same field, as after a linear layer or global pooling."""
        return all(axis.pattern is None and axis.is_uniform for axis in self.axes)

    @property
    def misaligned(self) -> bool:
        """Whether branches that differ in stride or center were joined: the size or the center of
        the field then varies from unit to unit."""
        return any(axis.misaligned for axis in self.axes)

    @property
    def bound(self) -> str:
        """Why this field is only an upper bound; empty if it is exact."""
        return next((axis.bound for axis in self.axes if axis.bound), "")

    @property
    def visible(self) -> tuple[Interval, Interval]:
        """Intervals of the rows and columns of the image that any unit depends on."""
        return self._pair(lambda axis: ends(axis.used.max(axis=0)))

    @property
    def num_unread(self) -> tuple[int, int]:
        """Number of input rows and columns that the layer's last operation does not read."""
        return self._pair(lambda axis: axis.num_unread)

    def interval(self, unit: Unit) -> tuple[Interval, Interval]:
        """Return the intervals of the rows and columns of a unit's field, as if the image
        continued beyond its border and crops; (0, -1) if the field is empty. Pixels that circular
        padding repeats count as beyond the border."""
        i, j = self._position(unit)
        return self.axes[0].interval(i), self.axes[1].interval(j)

    def clipped(self, unit: Unit) -> tuple[Interval, Interval]:
        """Return the intervals of the rows and columns of the image that a unit depends on;
        (0, -1) if it depends on padding only."""
        i, j = self._position(unit)
        return ends(self.axes[0].used[i]), ends(self.axes[1].used[j])

    def used(self, unit: Unit) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the rows and the columns of the image that a unit depends on."""
        i, j = self._position(unit)
        rows, columns = self.axes[0].used[i], self.axes[1].used[j]
        return tuple(rows.nonzero()[0].tolist()), tuple(columns.nonzero()[0].tolist())

    def uses_same_pixels(self, other: "Field") -> bool:
        """Return whether the units of both fields depend on the same pixels."""
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
    """Compute the receptive fields of all layers, by module name, in the order of the calls.

    Runs the network once, in eval mode, on a blank image, and does not change it. Layers are named
    as by `named_outputs`; those that do not depend on the image are omitted.

    Args:
        input_size: the image's side, (height, width) or (channels, height, width); the default
            number of channels is that of the first convolution.

    Raises:
        ValueError: the network does not run on such an image, or writes into parts of a tensor.
    """
    recorder = _Recorder()
    fields: dict[str, Field] = {}

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        if output in recorder.fields:
            fields[name] = recorder.fields[output]

    image = blank_image(network, input_size)
    try:
        # Inference mode dispatches composite operations as such: `linear`, not view and mm.
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
    """Return an image of zeros (1, C, H, W) of the network's device and dtype."""
    size = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(size) not in (2, 3) or any(not isinstance(n, int) or n < 1 for n in size):
        raise ValueError(
            f"input_size is {input_size!r}: give the side, (height, width) or "
            "(channels, height, width) as positive integers."
        )
    parameters = list(network.parameters())
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in parameters):
        raise ValueError("the network has uninitialized lazy layers: run it on one image first.")
    if len(size) == 2:
        first = next((m for m in network.modules() if isinstance(m, nn.Conv2d)), None)
        size = (first.in_channels if first else 1, *size)
    like = next((p for p in parameters if p.is_floating_point()), torch.zeros(0))
    return torch.zeros(1, *size, dtype=like.dtype, device=like.device)


class _Recorder(TorchDispatchMode):
    """Compute `fields` for every tensor that depends on a tensor in `fields`."""

    def __init__(self) -> None:
        super().__init__()
        self.fields = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        operation, arguments = _bind(func, args, kwargs or {})
        pointwise = torch.Tag.pointwise in func.tags
        if not pointwise and operation not in WITH_RULE:
            with self:  # follow the operations that a composite operation consists of
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        inputs = {t: self.fields[t] for t in tensors(arguments) if t in self.fields}
        result = func(*args, **(kwargs or {}))
        if not inputs or operation.endswith("_like") or operation.startswith("new_"):
            return result  # does not depend on the values of the image
        outputs = list(tensors(result))
        axes = [
            {t: replace(field.axes[i], num_unread=0) for t, field in inputs.items()} for i in (0, 1)
        ]
        names = frozenset({operation}).union(*(field.operations for field in inputs.values()))
        for index, output in enumerate(outputs):
            vertical, horizontal = (
                follow(Call(operation, arguments, outputs, index, by_input), pointwise=pointwise)
                for by_input in axes
            )
            if _is_cross(vertical, horizontal, list(inputs.values())):
                reason = "branches see different rows and columns: less than the full rectangle"
                vertical = replace(vertical, bound=reason)
            field = Field((vertical, horizontal), names)
            is_part = output.untyped_storage().nbytes() > output.numel() * output.element_size()
            is_written = is_part and any(output is t for t in tensors(arguments))  # in place
            if is_written and not (output in inputs and inputs[output].uses_same_pixels(field)):
                raise ValueError(
                    f"the network writes into a part of a tensor in place (aten.{operation}_ on "
                    f"shape {tuple(output.shape)}): such a write cannot be followed. "
                    "Build the tensor with torch.cat or torch.where instead."
                )
            self.fields[output] = field
        return result


def _is_cross(vertical: Axis, horizontal: Axis, inputs: Sequence[Field]) -> bool:
    """Return whether a unit depends on less than the rectangle of these rows and columns: the union
    of a 1 x 3 and a 3 x 1 field, for example, is a cross."""
    if len(inputs) == 1 or vertical.bound or horizontal.bound:
        return False
    # For each input, whether it covers all rows, and all columns.
    covers = [(f.axes[0].covers(vertical), f.axes[1].covers(horizontal)) for f in inputs]
    return not any(map(all, covers)) and not any(map(all, zip(*covers, strict=True)))


def _bind(func: Any, args: tuple, kwargs: dict) -> tuple[str, dict[str, Any]]:
    """Return an operation's name without its trailing underscore, and its arguments by name with
    defaults filled in. Only its schema, a private attribute, holds the names."""
    schema = func._schema
    passed = {a.name: value for a, value in zip(schema.arguments, args, strict=False)} | kwargs
    arguments = {a.name: passed.get(a.name, a.default_value) for a in schema.arguments}
    return schema.name.removeprefix("aten::").removesuffix("_"), arguments
