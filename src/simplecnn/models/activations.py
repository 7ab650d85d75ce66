"""What the convolutions of any network compute, to look at and to remove. Torch only; no hook is
left behind."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
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


def network_of(module: nn.Module) -> nn.Module:
    """The network of a LightningModule: its `network`, or the whole of it."""
    network = getattr(module, "network", module)
    return network if isinstance(network, nn.Module) else module


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

    def keep(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[name] = args[0].detach().clone()  # what follows may work in place
        inputs.move_to_end(name)

    with ExitStack() as stack, evaluation_mode(network), uncompiled(network):
        for name, module in network.named_modules():
            if isinstance(module, kind):
                stack.callback(module.register_forward_pre_hook(partial(keep, name)).remove)
        return inputs, network(images)


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
    with ExitStack() as stack, uncompiled(network), follower:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(partial(follower.begin, name)).remove)
        yield follower
    for name, (own, _) in follower.open.items():  # no non-linearity follows them
        follower.receive(name, own)


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
        # Layers whose non-linearity has not come yet: their output, and what was made of it since.
        self.open: dict[str, tuple[Tensor, Tensor]] = {}

    def begin(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """The forward hook of the layer called `name`."""
        if name in self.open:  # of the last pass, and nothing came behind it
            self.receive(name, self.open[name][0])
        if name not in self.names:
            self.names.append(name)
        self.change(output)
        self.open[name] = output, output

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        source = args[0] if args else None
        name = next((n for n, (_, latest) in self.open.items() if latest is source), None)
        if name is None:
            return function(*args, **(kwargs or {}))
        if function not in NON_LINEAR and _works_in_place(function):  # a shortcut is added, say
            own, _ = self.open.pop(name)
            self.receive(name, own)  # before it is overwritten
            return function(*args, **(kwargs or {}))
        output = function(*args, **(kwargs or {}))
        if function in NON_LINEAR:
            del self.open[name]
            self.change(output)
            self.receive(name, output)
        elif function in TRANSPARENT:
            self.change(output)
            self.open[name] = self.open[name][0], output
        return output


def _works_in_place(function: Any) -> bool:
    """By the names that torch gives: add_, __iadd__."""
    name = getattr(function, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name in IN_PLACE
