"""The weights of a run as a safetensors file."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from simplecnn.checkpoint_file import read_checkpoint
from simplecnn.errors import InputError, short
from simplecnn.inference.networks import (
    NETWORK,
    load_network,
    load_safetensors,
    network_config,
)


def export(path: Path, to: Path) -> dict[str, Any]:
    """Write the network in the checkpoint `path` as safetensors; gives what was written.

    The file holds nothing but weights, under the names of the network's state_dict, and how the
    network is built as text (`network` in its metadata). It is read again and compared before it
    gets its name. Raises InputError.
    """
    network = load_network(path)
    config = network_config(read_checkpoint(path), path)
    if config is None:
        raise InputError(
            f"{short(path)} is that of a LightningModule of your own: only the network of a "
            f"Classifier is exported."
        )
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    temporary = to.with_name(f".{to.name}.{os.getpid()}")
    try:
        temporary.write_bytes(save(weights, {"format": "pt", NETWORK: json.dumps(config)}))
        written = load_safetensors(temporary).state_dict()
        assert written.keys() == weights.keys()
        assert all(torch.equal(written[name], value) for name, value in weights.items())
        os.replace(temporary, to)
    except OSError as error:
        raise InputError(f"{short(to)} cannot be written: {error.strerror}.") from None
    finally:
        temporary.unlink(missing_ok=True)
    return {
        "num_tensors": len(weights),
        "num_parameters": sum(p.numel() for p in network.parameters()),
        "num_bytes": to.stat().st_size,
    }
