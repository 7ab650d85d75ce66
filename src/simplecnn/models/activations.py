"""Read and ablate the activations of any network, by hooks and a torch function mode."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from simplecnn.config.spelling import did_you_mean
from simplecnn.errors import InputError

# Functions that may stand between a layer and its non-linearity.
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
    getattr(module, name)
    for function in (
        "relu relu6 leaky_relu rrelu prelu elu selu celu gelu silu mish hardswish sigmoid "
        "hardsigmoid logsigmoid tanh hardtanh softplus softsign softshrink hardshrink tanhshrink "
        "threshold clamp clamp_min clamp_max clip"
    ).split()
    for name in (function, f"{function}_")
    for module in (functional, torch, torch.Tensor)
    if hasattr(module, name)
}

# Where `forward` is not implemented, or only calls the network.
FORWARDS = ("pytorch_lightning.", "simplecnn.models.classifier")
IN_PLACE = {"__iadd__", "__isub__", "__imul__", "__itruediv__", "__ifloordiv__", "__ipow__"}


def network_of(module: nn.Module) -> nn.Module:
    """Return the network of a LightningModule: its `network` attribute, or the module itself.

    It is the module itself too if it has a `forward` of its own, which may do more than its
    `network`: standardize the images, or add a head.
    """
    network = getattr(module, "network", None)
    if isinstance(network, nn.Module) and not has_own_forward(type(module)):
        return network
    return module


def has_own_forward(module_class: type[nn.Module]) -> bool:
    """Whether a LightningModule implements `forward`, and not only to call its network."""
    return not module_class.forward.__module__.startswith(FORWARDS)


def convolutions(network: nn.Module) -> OrderedDict[str, nn.Conv2d]:
    """Return every 2-D convolution of a network by its module name, in order of definition."""
    return OrderedDict((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))


def reads_color(network: nn.Module, layer: nn.Conv2d) -> bool:
    """Whether a convolution reads red, green and blue: the first one, of three input channels."""
    first = next(iter(convolutions(network).values()), None)
    return layer is first and layer.weight.shape[1] == 3


def select_convolutions(network: nn.Module, layers: str | Sequence[str]) -> dict[str, nn.Conv2d]:
    """Return the convolutions that `layers` selects by name: all, first, last, or a list of names.

    Raises InputError for a name that does not exist.
    """
    existing = convolutions(network)
    names = list(existing)
    if isinstance(layers, str):
        layers = {"all": names, "first": names[:1], "last": names[-1:]}.get(layers, [layers])
    for name in layers:
        if name not in existing:
            raise InputError(
                f"layers: {name} is not a convolution of this network. Allowed: all, first, last, "
                f"or a list of {', '.join(names)}.{did_you_mean(name, names)}"
            )
    return {name: existing[name] for name in layers}


@torch.no_grad()
def feature_maps(network: nn.Module, images: Tensor) -> tuple[OrderedDict[str, Tensor], Tensor]:
    """Return the feature maps (N, channels, H, W) of every convolution, and the logits.

    A convolution's feature maps are its output after normalization, if any, and the non-linearity
    (a module or a function call); without a non-linearity, the convolution's own output. Runs in
    evaluation mode, and restores the mode of every module.
    """
    maps: dict[str, Tensor] = {}

    def store(name: str, output: Tensor) -> None:
        maps[name] = output.detach().clone()  # later layers may work in place

    with evaluation_mode(network), capture_activations(network, store) as names:
        logits = network(images)
    return OrderedDict((name, maps[name]) for name in names), logits


@torch.no_grad()
def layer_inputs(
    network: nn.Module, images: Tensor, kind: type[nn.Module]
) -> tuple[OrderedDict[str, Tensor], Tensor]:
    """Return the input of every layer of type `kind`, in order of execution, and the logits.

    For a layer that is called several times, the input of its last call.
    """
    inputs: OrderedDict[str, Tensor] = OrderedDict()

    def store(name: str, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[name] = args[0].detach().clone()  # later layers may work in place
        inputs.move_to_end(name)

    with ExitStack() as stack, evaluation_mode(network), eager_mode(network):
        for name, module in network.named_modules():
            if isinstance(module, kind):
                stack.callback(module.register_forward_pre_hook(partial(store, name)).remove)
        return inputs, network(images)


@contextmanager
def capture_activations(
    network: nn.Module,
    receive: Callable[[str, Tensor], None],
    kinds: type[nn.Module] | tuple[type[nn.Module], ...] = nn.Conv2d,
) -> Iterator[list[str]]:
    """Call `receive(name, output)` for every layer of type `kinds` in each forward pass.

    The output is taken after the non-linearity; without one, it is the layer's own output and may
    be passed on only when the context exits. The tensor may be overwritten later: clone to keep it.

    Yields the names of the layers in order of execution, which fills during the first pass.
    """
    layers = {name: m for name, m in network.named_modules() if isinstance(m, kinds)}
    with _tracked(network, layers, receive=receive) as tracker:
        yield tracker.names


@contextmanager
def ablated_channel(network: nn.Module, layer: str, channel: int) -> Iterator[None]:
    """Ablate a channel of a convolution inside the context.

    Sets the channel to zero in the convolution's output, and again after the normalization and the
    non-linearity that follow.
    """

    def zero(output: Tensor) -> None:
        output[:, channel] = 0

    with _tracked(network, {layer: network.get_submodule(layer)}, modify=zero):
        yield


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Set evaluation mode inside the context, then restore the mode of every module."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def eager_mode(network: nn.Module) -> AbstractContextManager[Any]:
    """Run a compiled network eagerly inside the context, so that hooks and modes see its layers."""
    if any(module._compiled_call_impl is not None for module in network.modules()):
        return torch.compiler.set_stance("force_eager")
    return nullcontext()  # importing the compiler takes seconds


@contextmanager
def _tracked(
    network: nn.Module, layers: dict[str, nn.Module], **options: Any
) -> Iterator["_ActivationTracker"]:
    tracker = _ActivationTracker(**options)
    with ExitStack() as stack, eager_mode(network), tracker:
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(partial(tracker.begin, name)).remove)
        yield tracker
    for name, (output, _) in tracker.pending.items():  # no non-linearity followed
        tracker.receive(name, output)


class _ActivationTracker(TorchFunctionMode):
    """Track the output of each layer up to the first non-linear function that is applied to it.

    Args:
        receive: called with the layer's name and the tensor after the non-linearity.
        modify: called with each tensor on the way, which it may modify in place.
    """

    def __init__(
        self,
        receive: Callable[[str, Tensor], None] = lambda name, output: None,
        modify: Callable[[Tensor], None] = lambda output: None,
    ) -> None:
        super().__init__()
        self.receive, self.modify = receive, modify
        self.names: list[str] = []
        # Layers whose non-linearity is yet to come: their output, and the latest tensor made of it.
        self.pending: dict[str, tuple[Tensor, Tensor]] = {}

    def begin(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        """Start tracking the output of layer `name`; a forward hook."""
        if name in self.pending:  # no non-linearity followed in the previous pass
            self.receive(name, self.pending[name][0])
        if name not in self.names:
            self.names.append(name)
        self.modify(output)
        self.pending[name] = output, output

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        source = args[0] if args else None
        name = next((n for n, (_, latest) in self.pending.items() if latest is source), None)
        if name is None:
            return function(*args, **kwargs)
        if function not in NON_LINEAR and _is_in_place(function):
            # For example, a shortcut is added: pass the output on before it is overwritten.
            layer_output, _ = self.pending.pop(name)
            self.receive(name, layer_output)
            return function(*args, **kwargs)
        output = function(*args, **kwargs)
        if function in NON_LINEAR:
            del self.pending[name]
            self.modify(output)
            self.receive(name, output)
        elif function in TRANSPARENT:
            self.modify(output)
            self.pending[name] = self.pending[name][0], output
        return output


def _is_in_place(function: Any) -> bool:
    """Whether a function is in-place by PyTorch's naming conventions: add_, __iadd__."""
    name = getattr(function, "__name__", "")
    return (name.endswith("_") and not name.endswith("__")) or name in IN_PLACE
