"""Load the network of a checkpoint or of an exported file, and run it in batches.

Both kinds of file are untrusted: no pickle is executed, only classes on the allow-list are built,
and no more memory is allocated than the file's own size.
"""

import inspect
import json
from collections.abc import Mapping
from contextlib import suppress
from inspect import Parameter
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from simplecnn.checkpoint_file import read_checkpoint
from simplecnn.config.build import build
from simplecnn.config.schema import Classifier, target_of
from simplecnn.config.targets import find_class
from simplecnn.errors import InputError, first_line, relative_path
from simplecnn.models.activations import evaluation_mode, has_own_forward, network_of
from simplecnn.old_runs import upgrade_hyper_parameters, upgrade_network
from simplecnn.run_directory import RunDirectory

PREFIX = "network."  # of the network's weights in a Classifier's checkpoint
NETWORK = "network"  # metadata key of an exported file: the network's configuration
BATCH_SIZE = 500  # the activations of a layer still fit the CPU's cache


@torch.no_grad()
def logits(network: nn.Module, images: Tensor, *, batch_size: int = BATCH_SIZE) -> Tensor:
    """The logits (N, classes) of images (N, C, H, W), computed in batches in evaluation mode.

    Raises InputError if the network does not accept the images or does not return logits.
    """
    try:
        with evaluation_mode(network):
            outputs = [network(batch) for batch in images.split(batch_size)]
    except NotImplementedError:
        raise InputError(
            f"{type(network).__name__} has no forward: define it (images to logits), or assign the "
            f"network to self.network."
        ) from None
    except RuntimeError as error:
        size = " x ".join(map(str, images.shape[1:]))
        reason = f"The network does not accept images of {size}: {first_line(error)}"
        raise InputError(reason) from None
    if not all(isinstance(output, Tensor) and output.ndim == 2 for output in outputs):
        raise InputError("The network does not return logits (N, classes).")
    return torch.cat(outputs)


def load_network(path: Path) -> nn.Module:
    """Load the network from a checkpoint of a run, in evaluation mode on the CPU.

    For a custom LightningModule, see `activations.network_of`.
    Raises InputError if the file cannot be loaded.
    """
    content = read_checkpoint(path)
    config = network_config(content, path)
    state = content["state_dict"]
    if config is None:
        return network_of(_restore(_model_config(path, content), state, path))
    weights = {n.removeprefix(PREFIX): value for n, value in state.items() if n.startswith(PREFIX)}
    return _restore(config, weights, path)


def untrained_network(path: Path, seed: int, image: Tensor) -> nn.Module:
    """The network of a checkpoint with weights initialized from `seed`, in evaluation mode.

    image: (1, C, H, W), passed through the network to initialize lazy layers.
    """
    content = read_checkpoint(path)
    config = network_config(content, path)
    torch.manual_seed(seed)
    network = build(config) if config else network_of(_configured(_model_config(path, content)))
    with torch.no_grad():
        network.eval()(image)
    return cast(nn.Module, network.requires_grad_(False))


def network_config(content: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """The configuration of a Classifier's network.

    None for any other LightningModule, and for a subclass with a `forward` of its own.
    """
    config = upgrade_hyper_parameters(content, path).get("network")
    if not isinstance(config, Mapping) or "_target_" not in config or _has_own_forward(path):
        return None
    return dict(config)


def _has_own_forward(path: Path) -> bool:
    """Whether the LightningModule of a checkpoint's run does more than to call its network."""
    target = None
    with suppress(InputError):  # beside a file from elsewhere, there may be anything, or nothing
        target = _model_config(path, {}).get("_target_")
    if target in (None, target_of(Classifier)):
        return False
    return has_own_forward(find_class(target, "pytorch_lightning.LightningModule"))


def load_safetensors(path: Path) -> nn.Module:
    """Load the network from a safetensors file of `export`, in evaluation mode.

    Raises InputError if the file cannot be loaded.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            crop = json.loads(metadata.get("crop", "null"))
            config = upgrade_network(json.loads(metadata[NETWORK]), crop)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        reason = f"{relative_path(path)} is not an export of simplecnn: {first_line(error)}."
        raise InputError(reason) from None
    return _restore(config, weights, path)


def _model_config(path: Path, content: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` configuration of the run that a checkpoint belongs to.

    Of a Classifier, with the arguments that its data determined.
    """
    directory = RunDirectory(path.absolute().parent.parent)
    if not (directory.path / "config.yaml").is_file():
        raise InputError(
            f"{relative_path(path)} is not a checkpoint of simplecnn: it names no network, and the "
            f"config.yaml of its run is not beside it."
        )
    model: dict[str, Any] = directory.config()["model"]
    saved = content.get("hyper_parameters") or {}
    if "network" not in saved:
        return model
    parameters = inspect.signature(find_class(model["_target_"])).parameters.values()
    if not any(p.kind is Parameter.VAR_KEYWORD for p in parameters):
        # Lightning also saves what a subclass passes to Classifier itself.
        saved = {p.name: saved[p.name] for p in parameters if p.name in saved}
    return {**model, **saved, "_recursive_": False}


def _restore(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    """Build a module and load its weights, in float32 and in evaluation mode."""
    try:
        _check_size(config, weights)
        module = _configured(config)
        # The same memory format for every kind of file, for bit-identical logits.
        contiguous = {
            name: value.clone(memory_format=torch.contiguous_format)
            for name, value in weights.items()
        }
        _load(module, contiguous)
    except InputError as error:
        raise InputError(f"{relative_path(path)}: {error}") from None
    except Exception as error:
        reason = f"{relative_path(path)}: its weights do not fit its network: {first_line(error)}"
        raise InputError(reason) from None
    return module.float().eval().requires_grad_(False)  # trained in bfloat16 or float64


def _check_size(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raise if a network does not match its weights in size, before memory is allocated for it."""
    for name, value in weights.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(f"{name} is larger than its data in the file.")
    try:
        with torch.device("meta"):
            module = _configured(config)
    except InputError:
        raise
    except Exception:  # a custom class may need real tensors to be built
        return
    _load(module, weights)


def _configured(config: Mapping[str, Any]) -> nn.Module:
    """Build a network, or a LightningModule with the layers of its `configure_model`."""
    module = build(config)
    if hasattr(module, "configure_model"):
        module.configure_model()
    return cast(nn.Module, module)


def _load(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    module.load_state_dict(weights, strict=getattr(module, "strict_loading", True), assign=True)
