"""What the convolutions of any network compute, to look at and to remove. Torch only; no hook is
left behind."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# What stands between a convolution and its non-linearity without ending the layer.
TRANSPARENT = {
    functional.batch_norm,
    functional.dropout,
    functional.dropout2d,
    functional.group_norm,
    functional.instance_norm,
    functional.layer_norm,
    torch.Tensor.contiguous,
}
NON_LINEAR = {
    *(functional.relu, functional.relu_, torch.relu, torch.relu_, torch.Tensor.relu),
    *(torch.Tensor.relu_, functional.relu6, functional.hardtanh, functional.leaky_relu),
    *(functional.elu, functional.gelu, functional.silu, functional.mish, functional.hardswish),
    *(functional.softplus, functional.sigmoid, torch.sigmoid, torch.Tensor.sigmoid),
    *(functional.tanh, torch.tanh, torch.Tensor.tanh, functional.prelu, torch.clamp),
    *(torch.Tensor.clamp, torch.Tensor.clamp_, functional.hardsigmoid),
}

IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__ipow__"}


def convolutions(network: nn.Module) -> OrderedDict[str, nn.Conv2d]:
    """Every 2-D convolution of a network by its module name, in the order of definition."""
    return OrderedDict((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))


@torch.no_grad()
def feature_maps(network: nn.Module, images: Tensor) -> tuple[OrderedDict[str, Tensor], Tensor]:
    """The output (N, channels, H, W) of every convolution, after its non-linearity, and the logits.

    The non-linearity (ReLU, say) may be a module or a function call, and normalization may stand
    before it; a convolution with none behind it gives its own output. Runs in evaluation mode
    and restores the mode of every module.
    """
    maps: dict[str, Tensor] = {}

    def keep(name: str, output: Tensor) -> None:
        maps[name] = output.detach().clone()  # what follows may work in place

    with evaluation_mode(network), watched(network, keep) as names:
        logits = network(images)
    return OrderedDict((name, maps[name]) for name in names), logits


@torch.no_grad()
def layer_inputs(
    network: nn.Module, images: Tensor, kind: type[nn.Module]
) -> tuple[OrderedDict[str, Tensor], Tensor]:
    """What the last call of every layer of a kind is given, in the order of the calls, and the
    logits."""
    inputs: OrderedDict[str, Tensor] = OrderedDict()

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs[name] = args[0].detach().clone()  # what follows may work in place
            inputs.move_to_end(name)

        return hook

    layers = {name: m for name, m in network.named_modules() if isinstance(m, kind)}
    handles = [m.register_forward_pre_hook(keep(name)) for name, m in layers.items()]
    try:
        with evaluation_mode(network), uncompiled(network):
            return inputs, network(images)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watched(
    network: nn.Module,
    receive: Callable[[str, Tensor], None],
    kinds: type[nn.Module] | tuple[type[nn.Module], ...] = nn.Conv2d,
) -> Iterator[list[str]]:
    """Inside, each pass through `network` hands `receive` what every layer of `kinds` computes.

    That is its name and its output after its non-linearity, or its own output where none follows:
    then it may come only when the context ends. The tensor is lent: copy what shall be kept.
    Gives the names of the layers in the order in which they are reached.
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, kinds)}
    with _followed(network, layers, receive=receive) as follower:
        yield follower.names


@contextmanager
def removed(network: nn.Module, layer: str, channel: int) -> Iterator[None]:
    """Inside, a channel of a convolution is zero: in its output, in that of a normalization behind
    it, and in that of the non-linearity after them."""

    def remove(output: Tensor) -> None:
        output[:, channel] = 0

    with _followed(network, {layer: network.get_submodule(layer)}, change=remove):
        yield


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def uncompiled(network: nn.Module) -> AbstractContextManager[Any]:
    """Inside, a compiled network runs as it was written, so that hooks and modes see its parts."""
    if any(module._compiled_call_impl is not None for module in network.modules()):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()  # the compiler takes seconds to import


@contextmanager
def _followed(
    network: nn.Module, layers: dict[str, nn.Module], **options: Any
) -> Iterator["_Follower"]:
    follower = _Follower(**options)
    handles = [m.register_forward_hook(follower.begin(name)) for name, m in layers.items()]
    try:
        with uncompiled(network), follower:
            yield follower
        follower.finish()
    finally:
        for handle in handles:
            handle.remove()


@dataclass(eq=False)
class _Open:
    """A layer whose non-linearity has not come yet."""

    name: str
    output: Tensor  # its own
    latest: Tensor  # what was made of it since


class _Follower(TorchFunctionMode):
    """Follows the output of each layer to the first non-linear function applied to it.

    `change` may write into each tensor on the way, `receive` gets the last one.
    """

    def __init__(
        self,
        receive: Callable[[str, Tensor], None] = lambda name, output: None,
        change: Callable[[Tensor], None] = lambda output: None,
    ) -> None:
        super().__init__()
        self.receive, self.change = receive, change
        self.names: list[str] = []
        self.open: list[_Open] = []

    def begin(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        """The forward hook of the layer called `name`."""

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if name not in self.names:
                self.names.append(name)
            self.change(output)
            self.open.append(_Open(name, output, output))

        return hook

    def finish(self) -> None:
        """Hand over the layers that no non-linearity follows."""
        for layer in self.open:
            self.receive(layer.name, layer.output)
        self.open.clear()

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        source = args[0] if args else None
        layer = next((layer for layer in self.open if layer.latest is source), None)
        ends = function in NON_LINEAR
        if layer and not ends and _works_in_place(function):  # a shortcut is added, say
            self.open.remove(layer)
            self.receive(layer.name, layer.output)  # before it is overwritten
            layer = None
        output = function(*args, **(kwargs or {}))
        if layer and ends:
            self.open.remove(layer)
            self.change(output)
            self.receive(layer.name, output)
        elif layer and function in TRANSPARENT:
            self.change(output)
            layer.latest = output
        return output


def _works_in_place(function: Any) -> bool:
    """By the names that torch gives: add_, __iadd__."""
    name = getattr(function, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name in IN_PLACE
