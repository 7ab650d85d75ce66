"""What the convolutions of any network compute. Torch only; no hook is left behind."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
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


def convolutions(network: nn.Module) -> OrderedDict[str, nn.Conv2d]:
    """Every 2-D convolution of a network by its module name, in the order of definition."""
    return OrderedDict((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))


@torch.no_grad()
def feature_maps(network: nn.Module, images: Tensor) -> tuple[OrderedDict[str, Tensor], Tensor]:
    """The output (N, channels, H, W) of every convolution, after its non-linearity, and the logits.

    The non-linearity (ReLU, say) may be a module or a function call, and normalisation may stand
    before it; a convolution with none behind it gives its own output. Runs in evaluation mode
    and restores the mode of every module.
    """
    recorder = _Recorder()
    handles = [
        module.register_forward_hook(recorder.convolution_done(name))
        for name, module in convolutions(network).items()
    ]
    try:
        with evaluation_mode(network), uncompiled(network), recorder:
            logits = network(images)
    finally:
        for handle in handles:
            handle.remove()
    return recorder.maps, logits


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


class _Recorder(TorchFunctionMode):
    """Follows the output of each convolution to the first non-linear function applied to it."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: OrderedDict[str, Tensor] = OrderedDict()
        self.open: list[tuple[str, Tensor]] = []  # outputs still waiting for a non-linearity

    def convolution_done(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.maps[name] = output.detach().clone()  # ReLU may work in place
            self.open.append((name, output))

        return hook

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        source = args[0] if args and isinstance(args[0], Tensor) else None
        name = next((n for n, t in self.open if t is source), None) if source is not None else None
        output = function(*args, **(kwargs or {}))
        if name is not None and function in NON_LINEAR:
            self.maps[name] = output.detach().clone()
            self.open = [(n, t) for n, t in self.open if n != name]
        elif name is not None and function in TRANSPARENT:
            self.open = [(n, output if n == name else t) for n, t in self.open]
        return output
