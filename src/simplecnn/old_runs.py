"""Runs of version 0.1: the names in their configurations and checkpoints, as they are now."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from simplecnn.errors import InputError

SIMPLE_CNN = "simplecnn.models.simple_cnn.SimpleCNN"
MNIST = "simplecnn.data.mnist.MNISTDataModule"
MOVED = {
    "simplecnn.network.SimpleCNN": SIMPLE_CNN,
    "simplecnn.classifier.Classifier": "simplecnn.models.classifier.Classifier",
    "simplecnn.mnist.MNISTDataModule": MNIST,
    "simplecnn.mnist.MNIST5kDataModule": MNIST,
    "simplecnn.augmentation.RandomAffine": "simplecnn.data.augmentation.RandomAffine",
    "simplecnn.augmentation.RandomElastic": "simplecnn.data.augmentation.RandomElastic",
}
GONE = ("split_batch", "blocked_layout", "cuda_graph", "steps_together", "crop")


def upgrade_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run as this version reads it; a new one comes back as it is."""
    if config.get("model", {}).get("_target_") not in MOVED:
        return dict(config)
    model, data = _renamed(config["model"]), _renamed(config["data"])
    if config["data"]["_target_"].endswith("MNIST5kDataModule"):
        data["dataset"] = "MNIST5k"
    model["network"] = _cropped(model["network"], config["data"].get("crop"))
    return {**config, "model": _without(model), "data": _without(data)}


def upgrade_hyper_parameters(content: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The `hyper_parameters` of the checkpoint `path`, whose run said elsewhere what it cropped."""
    parameters = content.get("hyper_parameters") or {}
    if "split_batch" not in parameters:
        return dict(parameters)
    crop = None
    config = path.absolute().parent.parent / "config.yaml"
    if config.is_file():
        text = yaml.safe_load(config.read_text(encoding="utf-8"))
        crop = (text.get("data") or {}).get("crop") if isinstance(text, dict) else None
    renamed = _renamed(parameters)
    renamed["network"] = _cropped(renamed["network"], crop)
    return _without(renamed)


def upgrade_network(network: Mapping[str, Any], crop: Any = None) -> dict[str, Any]:
    """The same for the network of an exported file, whose metadata have its crop."""
    return _cropped(_renamed(network), crop)


def _renamed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: MOVED.get(v, v) if k == "_target_" else _renamed(v) for k, v in value.items()}
    return [_renamed(v) for v in value] if isinstance(value, list) else value


def _without(part: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in part.items() if key not in GONE}


def _cropped(network: dict[str, Any], crop: Any) -> dict[str, Any]:
    if not crop:
        return network
    if network.get("_target_") != SIMPLE_CNN:
        raise InputError(
            f"This run was trained with data.crop={crop} and another network than SimpleCNN, which "
            f"this version cannot read."
        )
    return {**network, "crop": list(crop)}
