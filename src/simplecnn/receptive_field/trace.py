"""Observation of the outputs of all layers during a forward pass, by module name."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, count, islice
from typing import Any

from torch import Tensor, nn

from simplecnn.models.activations import eager_mode, evaluation_mode


@contextmanager
def named_outputs(
    network: nn.Module, receive: Callable[[str, nn.Module, Tensor], None]
) -> Iterator[None]:
    """Context manager that calls `receive(name, module, output)` for each layer of each forward
    pass. The network runs in eval mode and uncompiled; all hooks are removed at the end.

    A layer is a module without children, or one whose output differs from that of its last child,
    such as a residual block. The network itself is named `output`. The second call of a module
    `pool` is named `pool_1`, the third `pool_2`. If a module returns several tensors, the first
    one is passed to `receive`.
    """
    names = {module: name or "output" for name, module in network.named_modules()}
    calls: Counter[str] = Counter()
    last: list[Tensor] = []

    def start(module: nn.Module, args: Any) -> None:
        calls.clear()
        last.clear()

    def finish(module: nn.Module, args: Any, output: Any) -> None:
        tensor = next(tensors(output), None)
        if tensor is None:
            return
        if last and tensor is last[0] and any(True for _ in module.children()):
            return  # a container that returns the output of its last child
        last[:] = [tensor]
        name = names[module]
        used_names = names.values()
        numbered = (f"{name}_{i}" for i in count(1) if f"{name}_{i}" not in used_names)
        receive(next(islice(chain([name], numbered), calls[name], None)), module, tensor)
        calls[name] += 1

    handles = [network.register_forward_pre_hook(start)]
    handles += [module.register_forward_hook(finish) for module in names]
    try:
        with evaluation_mode(network), eager_mode(network):
            yield
    finally:
        for handle in handles:
            handle.remove()


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield all tensors in nested lists, tuples and mappings."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from tensors(item)
