"""Upgrades of configurations and checkpoints that version 0.1 wrote to current names."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from simplecnn.errors import InputError

SIMPLE_CNN = "simplecnn.models.simple_cnn.SimpleCNN"
MNIST = "simplecnn.data.mnist.MNISTDataModule"
RENAMED = {
    "simplecnn.network.SimpleCNN": SIMPLE_CNN,
    "simplecnn.classifier.Classifier": "simplecnn.models.classifier.Classifier",
    "simplecnn.mnist.MNISTDataModule": MNIST,
    "simplecnn.mnist.MNIST5kDataModule": MNIST,
    "simplecnn.augmentation.RandomAffine": "simplecnn.data.augmentation.RandomAffine",
    "simplecnn.augmentation.RandomElastic": "simplecnn.data.augmentation.RandomElastic",
}
REMOVED = ("split_batch", "blocked_layout", "cuda_graph", "steps_together", "crop")


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's configuration with current names; that of a new run is not changed."""
    if config.get("model", {}).get("_target_") not in RENAMED:
        return dict(config)
    model, data = _rename(config["model"]), _rename(config["data"])
    if config["data"]["_target_"].endswith("MNIST5kDataModule"):
        data["dataset"] = "MNIST5k"
    model["network"] = _add_crop(model["network"], config["data"].get("crop"))
    return {**config, "model": _drop_removed(model), "data": _drop_removed(data)}


def upgrade_hyper_parameters(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the `hyper_parameters` of a checkpoint with current names.

    Version 0.1 stored the crop in the run's configuration, which is looked up beside `path`.
    """
    parameters = content.get("hyper_parameters") or {}
    if "split_batch" not in parameters:
        return dict(parameters)
    crop = None
    config = path.absolute().parent.parent / "config.yaml"
    if config.is_file():
        saved = yaml.safe_load(config.read_text(encoding="utf-8"))
        crop = (saved.get("data") or {}).get("crop") if isinstance(saved, dict) else None
    renamed = _rename(parameters)
    renamed["network"] = _add_crop(renamed["network"], crop)
    return _drop_removed(renamed)


def upgrade_network(network: Mapping[str, Any], crop: Any = None) -> dict[str, Any]:
    """Return the network's configuration of an exported file with current names and its crop."""
    return _add_crop(_rename(network), crop)


def _rename(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: RENAMED.get(v, v) if k == "_target_" else _rename(v) for k, v in value.items()}
    return [_rename(v) for v in value] if isinstance(value, list) else value


def _drop_removed(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in REMOVED}


def _add_crop(network: dict[str, Any], crop: Any) -> dict[str, Any]:
    if not crop:
        return network
    if network.get("_target_") != SIMPLE_CNN:
        raise InputError(
            f"This run was trained with data.crop={crop} and a network other than SimpleCNN, "
            f"which this version cannot read."
        )
    return {**network, "crop": list(crop)}
