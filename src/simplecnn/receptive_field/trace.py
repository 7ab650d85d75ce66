"""The outputs of a network's layers as they are made, by module name."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, count, islice
from typing import Any

from torch import Tensor, nn

from simplecnn.models.activations import evaluation_mode, uncompiled


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
        name = names[module]
        taken = names.values()
        labels = (f"{name}_{i}" for i in count(1) if f"{name}_{i}" not in taken)
        receive(next(islice(chain([name], labels), calls[name], None)), module, tensor)
        calls[name] += 1

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
