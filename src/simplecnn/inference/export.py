"""The weights of a run: the network in a checkpoint, and as a safetensors file. No Lightning.

A checkpoint may come from someone else: no pickle in it is run, what it names is on the list
(`targets`), and nothing larger than the file itself is allocated.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from simplecnn.config.build import build
from simplecnn.errors import InputError
from simplecnn.run_directory import short
from simplecnn.training.checkpoint_files import read_checkpoint

PREFIX = "network."  # of the network's weights in a checkpoint
NETWORK = "network"  # key of the metadata that says what to build


def load_network(path: Path) -> nn.Module:
    """The network in a checkpoint of a run, in evaluation mode on the CPU. Raises InputError."""
    content = read_checkpoint(path, to_go_on=False)
    config = (content.get("hyper_parameters") or {}).get("network")
    if not isinstance(config, Mapping) or "_target_" not in config:
        raise InputError(f"{short(path)} is not a checkpoint of simplecnn: it names no network.")
    weights = {
        str(name).removeprefix(PREFIX): value
        for name, value in content["state_dict"].items()
        if str(name).startswith(PREFIX)
    }
    return _network(config, weights, path)


def export(path: Path, to: Path, *, crop: Sequence[int] | None = None) -> dict[str, Any]:
    """Write the network in the checkpoint `path` as safetensors; gives what was written.

    The file holds nothing but weights, under the names of the network's state_dict, and how the
    network is built as text (`network` in its metadata), with `crop` if it sees but a part of an
    image. It is read again and compared before it gets its name.
    """
    network = load_network(path)
    config = read_checkpoint(path, to_go_on=False)["hyper_parameters"]["network"]
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    metadata = {"format": "pt", NETWORK: json.dumps(config)}
    if crop is not None:
        metadata["crop"] = json.dumps(list(crop))
    temporary = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        temporary.write_bytes(save(weights, metadata))
        again = load_safetensors(temporary).state_dict()
        assert again.keys() == weights.keys()
        assert all(torch.equal(again[name], value) for name, value in weights.items())
        os.replace(temporary, to)
    except OSError as error:
        raise InputError(f"{short(to)} cannot be written: {error.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)
    num_parameters = sum(p.numel() for p in network.parameters())
    return {"num_tensors": len(weights), "num_parameters": num_parameters,
            "num_bytes": to.stat().st_size}  # fmt: skip


def load_safetensors(path: Path) -> nn.Module:
    """The network in a file of `export`, in evaluation mode. Raises InputError."""
    try:
        with safe_open(path, framework="pt") as file:
            config = json.loads((file.metadata() or {})[NETWORK])
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(f"{short(path)} is not an export of simplecnn: {reason[0]}.") from None
    return _network(config, weights, path)


def _network(config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    try:
        with torch.device(
            "meta"
        ):  # allocates nothing: a network can be called as large as one likes
            network: nn.Module = build(config)
        # In one order in memory, wherever they come from: the same logits, bit for bit.
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
