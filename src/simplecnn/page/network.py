"""A network as the page computes it: a list of layers, each with its weights. Torch only.

Works for chains: `nn.Sequential`, nested or not, of the layers below.
"""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simplecnn.models.simple_cnn import BlurPool, Crop, SimpleCNN

ACTIVATIONS: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {
    nn.ReLU: lambda m: {"kind": "relu"},
    nn.ReLU6: lambda m: {"kind": "clamp", "low": 0, "high": 6},
    nn.Hardtanh: lambda m: {"kind": "clamp", "low": m.min_val, "high": m.max_val},
    nn.LeakyReLU: lambda m: {"kind": "leaky_relu", "slope": m.negative_slope},
    nn.ELU: lambda m: {"kind": "elu", "alpha": m.alpha},
    nn.GELU: lambda m: {"kind": "gelu_tanh" if m.approximate == "tanh" else "gelu"},
    nn.SiLU: lambda m: {"kind": "silu"},
    nn.Sigmoid: lambda m: {"kind": "sigmoid"},
    nn.Tanh: lambda m: {"kind": "tanh"},
    nn.Softplus: lambda m: {"kind": "softplus", "beta": m.beta, "threshold": m.threshold},
}
IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d)  # in evaluation mode


class NoChain(Exception):
    """Which layer the page cannot compute, in a sentence."""


@dataclass(frozen=True)
class Layer:
    """One layer: `kind` and numbers in `settings`, arrays in `weights`, (C, H, W) in `shape`."""

    name: str
    settings: Mapping[str, Any]
    weights: Mapping[str, NDArray] = field(default_factory=dict)
    shape: tuple[int, ...] = ()


def chain(network: nn.Module, image_shape: tuple[int, int, int]) -> list[Layer]:
    """The layers of a network that takes images (C, H, W), in their order. Raises NoChain.

    Batch norm is a factor and a summand a channel, as in evaluation mode; dropout is left out.
    """
    layers = []
    x = torch.zeros(1, *image_shape)
    for name, module in _modules(network):
        settings, weights = _describe(name, module, x)
        try:
            with torch.no_grad():
                x = copy.copy(module).eval()(x)
        except RuntimeError as error:
            raise NoChain(f"{name} does not run: {str(error).splitlines()[0]}") from None
        if settings is None:
            continue
        shape = tuple(x.shape[1:]) if x.ndim == 4 else (x.shape[1], 1, 1)
        arrays = {k: v.detach().float().cpu().numpy() for k, v in weights.items()}
        layers.append(Layer(name, settings, arrays, shape))
    return layers


def _modules(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers of nested Sequentials with their names."""
    if type(network).forward in (nn.Sequential.forward, SimpleCNN.forward):
        for name, child in network.named_children():
            yield from _modules(child, f"{prefix}.{name}" if prefix else name)
    elif prefix:
        yield prefix, network
    else:
        raise NoChain(
            f"{type(network).__name__} is not a chain (nn.Sequential): what its forward does is "
            f"known to Python alone."
        )


def _describe(
    name: str, module: nn.Module, x: Tensor
) -> tuple[dict[str, Any] | None, dict[str, Tensor]]:
    """What JavaScript must know of a layer that takes `x`; None for one that changes nothing."""
    m: Any = module
    kind = type(m)
    if kind in ACTIVATIONS:
        return ACTIVATIONS[kind](m), {}
    if isinstance(m, IDENTITIES):
        return None, {}
    if kind is nn.Linear or (kind is nn.Conv2d and m.padding_mode == "zeros"):
        arrays = {"weight": m.weight} | ({} if m.bias is None else {"bias": m.bias})
        if kind is nn.Linear:
            return {"kind": "linear"}, arrays
        padding = {"valid": [0, 0], "same": [  # what is odd is at the end
            d * (k - 1) // 2 for d, k in zip(m.dilation, m.kernel_size, strict=True)
        ]}  # fmt: skip
        return {
            "kind": "convolution", "stride": list(m.stride), "dilation": list(m.dilation),
            "padding": padding[m.padding] if isinstance(m.padding, str) else list(m.padding),
            "groups": m.groups,
        }, arrays  # fmt: skip
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d) and m.running_mean is not None:
        factor = (m.running_var + m.eps).rsqrt() * (m.weight if m.affine else 1)
        shift = (m.bias if m.affine else 0) - m.running_mean * factor
        return {"kind": "scale"}, {"factor": factor, "shift": shift}
    if kind.__name__ == "Normalize" and kind.__module__.startswith(("simplecnn.", "torchvision.")):
        mean, std = (torch.as_tensor(v).float().flatten() for v in (m.mean, m.std))
        return {"kind": "scale"}, {"factor": 1 / std, "shift": -mean / std}
    if kind in (nn.MaxPool2d, nn.AvgPool2d) and not m.ceil_mode:
        dilation = _pair(getattr(m, "dilation", 1))
        if not getattr(m, "divisor_override", None) and dilation == [1, 1]:
            return {
                "kind": "max_pool" if kind is nn.MaxPool2d else "average_pool",
                "size": _pair(m.kernel_size), "stride": _pair(m.stride),
                "padding": _pair(m.padding),
                "counts_padding": bool(getattr(m, "count_include_pad", True)),
            }, {}  # fmt: skip
    if kind is nn.AdaptiveAvgPool2d:
        return {"kind": "adaptive_average_pool"}, {}
    if kind is nn.AdaptiveMaxPool2d:
        return {"kind": "adaptive_max_pool"}, {}
    if kind is BlurPool:
        return {"kind": "blur_pool", "stride": m.stride}, {}
    if kind is Crop:
        return {"kind": "crop", "first": m.first, "last": m.last}, {}
    if kind is nn.Flatten and m.start_dim == 1 and m.end_dim in (-1, x.ndim - 1):
        return {"kind": "flatten"}, {}
    raise NoChain(f"The page cannot compute the layer {name}, {module}.")


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
