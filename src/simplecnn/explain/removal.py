"""A network without one of its channels: what it can still do shows what the channel is for."""

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from simplecnn.explain.subject import BATCH
from simplecnn.models.activations import NON_LINEAR, TRANSPARENT, evaluation_mode, uncompiled


@torch.no_grad()
def logits_without(
    network: nn.Module, images: Tensor, *, layer: str, channels: list[int]
) -> Tensor:
    """The logits (len(channels), N, classes) with one channel of a convolution removed at a time.

    Removed means zero: the output of the convolution, of a normalisation behind it, and of the
    non-linearity after them. Restores the mode of every module.
    """
    before, after = _split(network, layer)
    module = network.get_submodule(layer)
    results: list[list[Tensor]] = [[] for _ in channels]
    with evaluation_mode(network), uncompiled(network):
        for part in images.split(BATCH):
            given = before(part)
            for result, channel in zip(results, channels, strict=True):
                result.append(_without(after, given, module, channel))
    return torch.stack([torch.cat(result) for result in results])


def _without(network: nn.Module, given: Tensor, module: nn.Module, channel: int) -> Tensor:
    remover = _Remover(channel)
    handle = module.register_forward_hook(remover.convolution_done)
    try:
        with remover:
            return network(given)
    finally:
        handle.remove()


def _split(network: nn.Module, layer: str) -> tuple[nn.Module, nn.Module]:
    """What comes before a layer and can be computed once, and the rest."""
    if not isinstance(network, nn.Sequential) or type(network).forward is not nn.Sequential.forward:
        return nn.Identity(), network
    parts = list(network.named_children())
    first = [name for name, _ in parts].index(layer.split(".")[0])
    return nn.Sequential(OrderedDict(parts[:first])), nn.Sequential(OrderedDict(parts[first:]))


class _Remover(TorchFunctionMode):
    """Sets a channel to zero from the convolution to the first non-linearity applied to it."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel
        self.open: Tensor | None = None  # the output that still waits for a non-linearity

    def convolution_done(self, module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        self.open = self._removed(output)
        return self.open

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        if self.open is not None and args and args[0] is self.open:
            if function in NON_LINEAR:
                self.open = None
                return self._removed(output)
            if function in TRANSPARENT:
                self.open = output = self._removed(output)
        return output

    def _removed(self, output: Tensor) -> Tensor:
        output[:, self.channel] = 0
        return output
