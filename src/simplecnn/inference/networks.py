"""The network in a checkpoint or an exported file.

Either may come from someone else: no pickle in it is run, what it names is on the allow-list, and
nothing larger than the file itself is allocated.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from simplecnn.checkpoint_file import read_checkpoint
from simplecnn.config.build import build, first_line
from simplecnn.errors import InputError, short
from simplecnn.models.activations import network_of
from simplecnn.old_runs import upgrade_hyper_parameters, upgrade_network
from simplecnn.run_directory import RunDirectory

PREFIX = "network."  # of the network's weights in a Classifier's checkpoint
NETWORK = "network"  # key of an exported file's metadata that says what to build


def load_network(path: Path) -> nn.Module:
    """The network in a checkpoint of a run, in evaluation mode on the CPU.

    For a LightningModule of the user's own, this is its `network`, or the module itself.
    Raises InputError.
    """
    content = read_checkpoint(path)
    config = network_config(content, path)
    weights = content["state_dict"]
    if config is None:
        return network_of(_loaded(_model_config(path), weights, path))
    own = {n.removeprefix(PREFIX): value for n, value in weights.items() if n.startswith(PREFIX)}
    return _loaded(config, own, path)


def untrained_network(path: Path, seed: int, image: Tensor) -> nn.Module:
    """The same network with the weights that a seed draws, in evaluation mode.

    It sees one image (1, C, H, W), for lazy layers take their sizes from it.
    """
    config = network_config(read_checkpoint(path), path)
    torch.manual_seed(seed)
    network: nn.Module = build(config) if config else network_of(build(_model_config(path)))
    with torch.no_grad():
        network.eval()(image)
    return network.requires_grad_(False)


def network_config(content: Mapping[str, Any], path: Path) -> dict[str, Any] | None:
    """How a Classifier's network is built; None in the checkpoint of another LightningModule."""
    config = upgrade_hyper_parameters(content, path).get("network")
    return dict(config) if isinstance(config, Mapping) and "_target_" in config else None


def load_safetensors(path: Path) -> nn.Module:
    """The network in a file of `export`, in evaluation mode. Raises InputError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            crop = json.loads(metadata.get("crop", "null"))
            config = upgrade_network(json.loads(metadata[NETWORK]), crop)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        reason = f"{short(path)} is not an export of simplecnn: {first_line(error)}."
        raise InputError(reason) from None
    return _loaded(config, weights, path)


def _model_config(path: Path) -> dict[str, Any]:
    """The `model` of the run that a checkpoint lies in."""
    directory = RunDirectory(path.absolute().parent.parent)
    if not (directory.path / "config.yaml").is_file():
        raise InputError(
            f"{short(path)} is not a checkpoint of simplecnn: it names no network, and the "
            f"config.yaml of its run is not beside it."
        )
    model: dict[str, Any] = directory.config()["model"]
    return model


def _loaded(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    try:
        _check_size(config, weights)
        module: nn.Module = build(config)
        # In one order in memory, wherever they come from: the same logits in every bit.
        ordered = {
            name: value.clone(memory_format=torch.contiguous_format)
            for name, value in weights.items()
        }
        module.load_state_dict(ordered, assign=True)
    except InputError as error:
        raise InputError(f"{short(path)}: {error}") from None
    except Exception as error:
        reason = f"{short(path)}: its weights do not fit its network: {first_line(error)}"
        raise InputError(reason) from None
    return module.eval().requires_grad_(False)


def _check_size(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raise where a network is larger than its weights, before anything is allocated."""
    for name, value in weights.items():
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(f"{name} is larger than what the file holds of it.")
    try:
        with torch.device("meta"):
            module = build(config)
    except InputError:
        raise
    except Exception:  # a class of the user's own may need real tensors to be built
        return
    module.load_state_dict(dict(weights), assign=True)
