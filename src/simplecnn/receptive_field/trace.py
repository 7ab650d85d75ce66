"""One recorded forward pass: what every tensor that a network makes sees, by module name.

The network is run, not parsed: every torch operation is seen as it happens, so functional calls,
branches and loops are followed like modules are.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # it has no public name
from torch.utils.weak import WeakTensorKeyDictionary

from simplecnn.models.activations import evaluation_mode, uncompiled
from simplecnn.receptive_field.axis import Axis, covers, image_axis, spread
from simplecnn.receptive_field.operations import CONSTANT, Call, Rule, rule_of, tensors, unknown


@dataclass(frozen=True)
class Trail:
    """What is known of one tensor: its two image axes (vertical, horizontal), and the name of
    every operation on the way from the image."""

    axes: tuple[Axis, Axis]
    operations: frozenset[str] = frozenset()


@contextmanager
def named_outputs(
    network: nn.Module, receive: Callable[[str, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Calls `receive(name, module, output)` for each layer of each forward pass in the block,
    which runs in eval mode and uncompiled; no hook is left behind.

    A layer is a module without children, or one that works on after its last child; the network
    itself is called `output`. The second call of one module gets the name `pool_1`, the third
    `pool_2`. Of several outputs the first tensor counts.
    """
    names = {module: name or "output" for name, module in network.named_modules()}
    labels: dict[tuple[str, int], str] = {}  # by module name and number of the call
    calls: Counter[str] = Counter()
    last: list[Tensor] = []

    def start(module: nn.Module, args: Any) -> None:
        calls.clear()
        last.clear()

    def finish(module: nn.Module, args: Any, output: Any) -> None:
        tensor = _first_tensor(output)
        if tensor is None:
            return
        if last and tensor is last[0] and any(True for _ in module.children()):
            return  # a container that hands on what its last child made
        last[:] = [tensor]
        name, number = names[module], calls[names[module]]
        calls[name] += 1
        if (name, number) not in labels:
            known = {*names.values(), *labels.values()}
            free = (f"{name}_{i}" for i in count(number) if f"{name}_{i}" not in known)
            labels[name, number] = next(free) if number else name
        receive(labels[name, number], module, tensor)

    handles = [network.register_forward_pre_hook(start)]
    handles += [module.register_forward_hook(finish) for module in names]
    try:
        with evaluation_mode(network), uncompiled(network):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _first_tensor(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, list | tuple):
        return next((t for t in map(_first_tensor, output) if t is not None), None)
    return None


def trace(network: nn.Module, image: Tensor) -> dict[str, Trail]:
    """The trail of each layer's output for one image (1, C, H, W), in the order of the calls.
    Layers that do not depend on the image are left out."""
    height, width = image.shape[-2:]
    recorder = _Recorder()
    trails: dict[str, Trail] = {}

    def receive(name: str, module: nn.Module, output: Tensor) -> None:
        trail = recorder.trails.get(output)
        if trail is not None:
            trails[name] = replace(trail, axes=_by_position(trail.axes, output.shape))

    with (
        torch.inference_mode(),  # here operations are seen whole: one `linear`, not view and mm
        named_outputs(network, receive),
    ):
        image = image.clone()
        recorder.trails[image] = Trail((image_axis(-2, height), image_axis(-1, width)))
        with recorder:
            network(image)
    return trails


def _by_position(axes: tuple[Axis, Axis], shape: Sequence[int]) -> tuple[Axis, Axis]:
    """One unit a position of the output, where each axis has a dimension of its own."""
    if axes[0].dim == axes[1].dim:
        return axes
    vertical, horizontal = (
        spread(a, shape[a.dim])
        if a.dim is not None and len(a.used) * a.inner == shape[a.dim]
        else a
        for a in axes
    )
    return vertical, horizontal


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.trails = WeakTensorKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        operation, arguments = _bind(func, args, kwargs or {})
        rule = rule_of(operation, pointwise=torch.Tag.pointwise in func.tags)
        if rule is None:
            with self:  # an operation made of others is followed inside
                result = func.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        tracked = [t for t in tensors(list(arguments.values())) if t in self.trails]
        result = func(*args, **(kwargs or {}))
        if tracked and operation not in CONSTANT:
            self._record(operation, rule or unknown, arguments, tracked, result)
        return result

    def _record(
        self,
        operation: str,
        rule: Rule,
        arguments: dict[str, Any],
        tracked: Sequence[Tensor],
        result: Any,
    ) -> None:
        before = [self.trails[t] for t in tracked]
        operations = frozenset({operation}).union(*(trail.operations for trail in before))
        reason = ""
        if not _is_rectangular(before):
            reason = "branches see different rows and columns: less than the full rectangle"
        outputs = list(tensors(result))
        trails = {}
        for index, output in enumerate(outputs):
            axes = [
                rule(Call(operation, arguments, outputs, index, partial(self._axis, which)))
                for which in (0, 1)
            ]
            axes = [replace(a, bound=a.bound or reason) for a in axes]
            written = operation == "copy" or any(output is t for t in tracked)
            if written and _is_part(output) and not self._same(output, axes):
                raise ValueError(
                    f"the network writes into a part of a tensor in place (aten.{operation}_ on "
                    f"shape {tuple(output.shape)}): such a write cannot be followed. "
                    "Build the tensor with torch.cat or torch.where instead."
                )
            trails[index] = Trail((axes[0], axes[1]), operations)
        for index, trail in trails.items():  # after all rules: an output may be an input
            self.trails[outputs[index]] = trail

    def _axis(self, which: int, tensor: Any) -> Axis | None:
        if not isinstance(tensor, Tensor) or tensor not in self.trails:
            return None
        axis = self.trails[tensor].axes[which]
        return replace(axis, num_unread=0) if axis.num_unread else axis

    def _same(self, tensor: Tensor, axes: Sequence[Axis]) -> bool:
        trail = self.trails.get(tensor)
        return trail is not None and all(map(Axis.equals, trail.axes, axes))


def _is_rectangular(trails: Sequence[Trail]) -> bool:
    """Whether the union of these rows x columns is again rows x columns; False for a cross, where
    a 1 x 3 and a 3 x 1 meet."""
    first = trails[0].axes
    for which in (0, 1):
        if all(np.array_equal(t.axes[which].used, first[which].used) for t in trails):
            return True
    largest = max(trails, key=lambda t: t.axes[0].used.mean() * t.axes[1].used.mean())
    return all(covers(a, b) for t in trails for a, b in zip(largest.axes, t.axes, strict=True))


def _is_part(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() != tensor.numel() * tensor.element_size()


def _bind(func: Any, args: tuple, kwargs: dict) -> tuple[str, dict[str, Any]]:
    """An operation's name without its trailing underscore, and its arguments by name, defaults
    filled in. Its schema, which torch keeps private, is the only place that names them."""
    schema = func._schema
    given = {a.name: value for a, value in zip(schema.arguments, args, strict=False)} | kwargs
    arguments = {a.name: given.get(a.name, a.default_value) for a in schema.arguments}
    return schema.name.removeprefix("aten::").removesuffix("_"), arguments
