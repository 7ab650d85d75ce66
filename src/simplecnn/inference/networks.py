"""The network in a checkpoint or an exported file. No Lightning.

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
from simplecnn.config.allow_list import build
from simplecnn.errors import InputError, short
from simplecnn.old_runs import upgrade_hyper_parameters, upgrade_network

PREFIX = "network."  # of the network's weights in a checkpoint
NETWORK = "network"  # key of an exported file's metadata that says what to build


def load_network(path: Path) -> nn.Module:
    """The network in a checkpoint of a run, in evaluation mode on the CPU. Raises InputError."""
    config, weights = network_parts(path)
    return _network(config, weights, path)


def network_parts(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """How the network in a checkpoint is built, and its weights. Raises InputError."""
    content = read_checkpoint(path)
    config = upgrade_hyper_parameters(content, path).get("network")
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise InputError(f"{short(path)} is not a checkpoint of simplecnn: it names no network.")
    weights = {
        str(name).removeprefix(PREFIX): value
        for name, value in content["state_dict"].items()
        if str(name).startswith(PREFIX)
    }
    return dict(config), weights


def load_safetensors(path: Path) -> nn.Module:
    """The network in a file of `export`, in evaluation mode. Raises InputError."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            crop = json.loads(metadata.get("crop", "null"))
            config = upgrade_network(json.loads(metadata[NETWORK]), crop)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{short(path)} is not an export of simplecnn: {reason[0]}.") from None
    return _network(config, weights, path)


def _network(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    try:
        with torch.device("meta"):  # allocates nothing, whatever size the file names
            network: nn.Module = build(config)
        # In one order in memory, wherever they come from: the same logits in every bit.
        ordered = {
            name: value.clone(memory_format=torch.contiguous_format)
            for name, value in weights.items()
        }
        network.load_state_dict(ordered, assign=True)
    except InputError as error:
        raise InputError(f"{short(path)}: {error}") from None
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{short(path)}: its weights do not fit its network: {reason[0]}"
        ) from None
    return network.eval().requires_grad_(False)
