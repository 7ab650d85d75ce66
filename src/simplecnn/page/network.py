"""Export of a network for the page: a list of layers with their weights.

Supports chains, that is `nn.Sequential`, nested or not, of the layers below.
"""

import base64
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from simplecnn.errors import first_line
from simplecnn.models.simple_cnn import BlurPool, Crop, SimpleCNN

MAX_WEIGHTS = 5_000_000  # bytes in float32; a larger network is omitted
MAX_FLOAT32 = 1_000_000  # bytes; larger weights are rounded to float16
LAYERS: dict[type[nn.Module], Callable[[Any], dict[str, Any]]] = {  # without weights
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
    nn.AdaptiveAvgPool2d: lambda m: {"kind": "adaptive_average_pool"},
    nn.AdaptiveMaxPool2d: lambda m: {"kind": "adaptive_max_pool"},
    BlurPool: lambda m: {"kind": "blur_pool", "stride": m.stride},
    Crop: lambda m: {"kind": "crop", "first": m.first, "last": m.last},
}
IDENTITIES = (nn.Identity, nn.Dropout, nn.Dropout2d)  # in eval mode


class UnsupportedNetworkError(Exception):
    """The page cannot compute a network; the message is a sentence for its readers."""


def network_data(network: nn.Module, image_shape: Sequence[int]) -> dict[str, Any]:
    """Return the `layers` of a network of images (C, H, W), or a `sentence` on why it has none."""
    try:
        layers = chain(network, image_shape)
    except UnsupportedNetworkError as error:
        return {"sentence": str(error)}
    arrays = [array for layer in layers for array in layer["weights"].values()]
    if not all(np.isfinite(array).all() for array in arrays):
        return {"sentence": "Some weights are not finite: the network cannot be computed."}
    num_bytes = sum(array.nbytes for array in arrays)
    if num_bytes > MAX_WEIGHTS:
        return {
            "sentence": f"The weights are {num_bytes / 1e6:.1f} MB: more than "
            f"{MAX_WEIGHTS // 10**6} MB are omitted to keep the page small."
        }
    as_float16 = num_bytes > MAX_FLOAT32
    for layer in layers:
        layer["weights"] = {n: encode_weights(w, as_float16) for n, w in layer["weights"].items()}
    return {"layers": layers}


def encode_weights(array: NDArray, as_float16: bool) -> dict[str, Any]:
    """Encode an array with its shape, in float32, or in float16 if requested and in its range."""
    largest = np.abs(array[np.isfinite(array)]).max(initial=0)
    dtype = np.float16 if as_float16 and largest < np.finfo(np.float16).max else np.float32
    text = encode(array.astype(dtype))
    return {"shape": list(array.shape), "dtype": dtype.__name__, "weights": text}


def encode(array: NDArray) -> str:
    """Encode the bytes of an array in base64."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def chain(network: nn.Module, image_shape: Sequence[int]) -> list[dict[str, Any]]:
    """Describe the layers, in their order, of a network of images (C, H, W).

    Each layer has a `name`, a `kind` with its parameters, arrays in `weights`, and the `shape`
    (C, H, W) of its output. Batch norm becomes a factor and a shift per channel, as in eval mode;
    dropout is omitted.

    Raises:
        UnsupportedNetworkError: the page cannot compute the network.
    """
    layers = []
    x = torch.zeros(1, *image_shape)
    for name, module in _modules(network):
        layer = _describe(name, module, x)
        try:
            with torch.no_grad():
                x = copy.copy(module).eval()(x)
        except RuntimeError as error:
            message = f"{name} does not run: {first_line(error)}"
            raise UnsupportedNetworkError(message) from None
        if layer is None:
            continue
        weights = layer.pop("weights", {})
        arrays = {k: v.detach().float().cpu().numpy() for k, v in weights.items()}
        shape = list(x.shape[1:]) if x.ndim == 4 else [x.shape[1], 1, 1]
        layers.append({"name": name, **layer, "weights": arrays, "shape": shape})
    return layers


def _modules(network: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of nested Sequentials with their names."""
    if type(network).forward in (nn.Sequential.forward, SimpleCNN.forward):
        # Not named_children(), which yields a layer that is used several times only once.
        for name, child in network.named_modules(remove_duplicate=False):
            if name and "." not in name:
                yield from _modules(child, f"{prefix}.{name}" if prefix else name)
    elif prefix:
        yield prefix, network
    else:
        raise UnsupportedNetworkError(
            f"{type(network).__name__} is not a chain (nn.Sequential): only Python can run its "
            f"forward()."
        )


def _describe(name: str, module: nn.Module, x: Tensor) -> dict[str, Any] | None:
    """Return the kind, parameters and weights of a layer with input `x`; None for an identity."""
    m: Any = module
    kind = type(m)
    if kind in LAYERS:
        return LAYERS[kind](m)
    if isinstance(m, IDENTITIES):
        return None
    if kind is nn.Linear and x.ndim == 2:  # else it is applied to each row of each map
        return {"kind": "linear", "weights": _weights(m)}
    if kind is nn.Conv2d and m.padding_mode == "zeros":
        padding = {"valid": (0, 0), "same": [  # an odd pixel is padded at the end
            d * (k - 1) // 2 for d, k in zip(m.dilation, m.kernel_size, strict=True)
        ]}.get(m.padding, m.padding)  # fmt: skip
        return {
            "kind": "convolution", "stride": m.stride, "padding": padding, "dilation": m.dilation,
            "groups": m.groups, "weights": _weights(m),
        }  # fmt: skip
    if kind in (nn.BatchNorm1d, nn.BatchNorm2d) and m.running_mean is not None:
        factor = (m.running_var + m.eps).rsqrt() * (m.weight if m.affine else 1)
        shift = (m.bias if m.affine else 0) - m.running_mean * factor
        return {"kind": "scale", "weights": {"factor": factor, "shift": shift}}
    if kind.__name__ == "Normalize" and kind.__module__.startswith(("simplecnn.", "torchvision.")):
        mean, std = (torch.as_tensor(v).float().flatten() for v in (m.mean, m.std))
        return {"kind": "scale", "weights": {"factor": 1 / std, "shift": -mean / std}}
    if kind in (nn.MaxPool2d, nn.AvgPool2d) and not m.ceil_mode:
        dilation = _pair(getattr(m, "dilation", 1))
        if not getattr(m, "divisor_override", None) and dilation == (1, 1):
            return {
                "kind": "max_pool" if kind is nn.MaxPool2d else "average_pool",
                "size": _pair(m.kernel_size), "stride": _pair(m.stride),
                "padding": _pair(m.padding),
                "counts_padding": bool(getattr(m, "count_include_pad", True)),
            }  # fmt: skip
    if kind is nn.Flatten and m.start_dim == 1 and m.end_dim in (-1, x.ndim - 1):
        return {"kind": "flatten"}
    raise UnsupportedNetworkError(f"The page cannot compute the layer {name}, {module}.")


def _weights(module: Any) -> dict[str, Tensor]:
    """Return weight and bias: for a pruned or parametrized layer, the computed ones."""
    weights = {"weight": module.weight, "bias": module.bias}
    return {name: value for name, value in weights.items() if value is not None}


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
