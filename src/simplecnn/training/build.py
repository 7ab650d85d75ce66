"""Build the LightningModule and the Trainer of a run from its configuration."""

import logging
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    Checkpoint,
    DeviceStatsMonitor,
    LearningRateFinder,
    LearningRateMonitor,
    ProgressBar,
)
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.plugins.environments import SLURMEnvironment
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from simplecnn.callbacks.checkpoint import LastCheckpoint
from simplecnn.config.arguments import DATA_KEYS, missing_arguments
from simplecnn.config.build import build
from simplecnn.config.schema import BUILT_IN
from simplecnn.config.targets import find_class
from simplecnn.data.resident import ResidentDataModule
from simplecnn.data.shape import DataShape, data_shape, set_up_training_data
from simplecnn.errors import InputError, RunError, reraise
from simplecnn.models.activations import eager_mode, evaluation_mode, network_of
from simplecnn.models.classifier import Classifier
from simplecnn.signals import SignalHandler
from simplecnn.training.checkpoint_io import AtomicCheckpointIO
from simplecnn.training.epoch_seed import EpochSeed
from simplecnn.training.finite_loss import FiniteLoss
from simplecnn.training.interruption import Interruption
from simplecnn.training.max_steps import MaxSteps
from simplecnn.training.monitor import MonitorCheck
from simplecnn.training.phases import Phases

log = logging.getLogger(__name__)
Config = Mapping[str, Any]
FINDERS = (BatchSizeFinder, LearningRateFinder)
REQUIRE_LOGGER = (DeviceStatsMonitor, LearningRateMonitor)


def build_module(config: Config, datamodule: pl.LightningDataModule) -> pl.LightningModule:
    """Build the LightningModule; infer from the data what its configuration leaves open.

    That is the network's image size, channels and number of classes where they are null, or
    required and not given; its normalization if the data module has `normalize` set; and class
    weights that are "balanced".
    """
    model = dict(config["model"])
    network = model.get("network")
    if isinstance(network, Mapping) and "_target_" in network:
        if missing := _from_data(network):
            shape = data_shape(datamodule)
            network = {**network, **{key: getattr(shape, key) for key in missing}}
        if getattr(datamodule, "normalize", False):
            set_up_training_data(datamodule)
            mean_and_std = network.get("normalize") or datamodule.normalization()
            network = {**network, "normalize": mean_and_std}
        model["network"] = network
    if model.get("class_weights") == "balanced":
        model["class_weights"] = _balanced_class_weights(datamodule)
    elif isinstance(weights := model.get("class_weights"), list):
        num_classes = getattr(datamodule, "num_classes", len(weights))
        if len(weights) != num_classes:
            raise RunError(
                f"model.class_weights has {len(weights)} weights, but the data has {num_classes} "
                f"classes."
            )
    # A Classifier builds its network itself, so that checkpoints hold the network's configuration.
    builds_network = issubclass(find_class(model["_target_"]), Classifier)
    recursive = not builds_network and model.get("_recursive_", True)
    module: pl.LightningModule = build(model, _recursive_=recursive)
    # A subclass may use its network in another way.
    is_known = type(module) is Classifier and isinstance(datamodule, ResidentDataModule)
    if is_known or any(map(is_lazy, module.parameters())):
        shape = data_shape(datamodule)
        logits = _try_network(network_of(module), shape)
        if is_known:
            _check_logits(logits, shape.num_classes)
    return module


def _from_data(network: Config) -> list[str]:
    """The names of a network's arguments that are inferred from the data."""
    required = missing_arguments(network, find_class(network["_target_"]))
    return [
        key for key in DATA_KEYS if (network[key] is None if key in network else key in required)
    ]


def _try_network(network: nn.Module, data: DataShape) -> Any:
    """Run a blank image through a network: the optimizer needs initialized lazy layers.

    Raises RunError if the network does not accept it.
    """
    shape = data.in_channels, data.height, data.width
    message = f"model.network does not accept images of shape {' x '.join(map(str, shape))}"
    with reraise(message, RunError), torch.no_grad(), evaluation_mode(network), eager_mode(network):
        return network(torch.zeros(1, *shape))


def _check_logits(logits: Any, num_classes: int) -> None:
    """Raise RunError if an output of the network is not logits (N, `num_classes`) or wider."""
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = f" of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else ""
        raise RunError(
            f"model.network returns a {type(logits).__name__}{shape}: it must return logits "
            f"(N, classes)."
        )
    if logits.shape[1] < num_classes:
        raise RunError(
            f"model.network has {logits.shape[1]} outputs, but the data has {num_classes} classes."
        )
    if logits.shape[1] > num_classes:
        log.warning(
            "model.network has %d outputs, but the data has %d classes: the other outputs are "
            "classes without names and images.",
            logits.shape[1],
            num_classes,
        )


def _balanced_class_weights(datamodule: pl.LightningDataModule) -> list[float]:
    """Weights that give each class the same sum over the training images, 1 on average."""
    if not isinstance(datamodule, ResidentDataModule):
        raise InputError(
            f"model.class_weights=balanced needs the number of images per class, which "
            f"{type(datamodule).__name__} does not provide. "
            f"Set the weights instead: model.class_weights=[…]."
        )
    set_up_training_data(datamodule)
    counts = datamodule.class_counts("train")
    return [sum(counts) / (len(counts) * max(1, count)) for count in counts]


def build_trainer(
    config: Config, signal_handler: SignalHandler, *, purge_step: int | None = None
) -> pl.Trainer:
    """Build the Trainer with the configured callbacks and loggers, and those of every run.

    purge_step: the logged step from which the run is resumed; None for a new run.
    """
    settings = dict(config["trainer"])
    nodes = {name: node for name, node in (config.get("callbacks") or {}).items() if node}
    if _is_unmonitored_checkpoint(nodes.get("best") or {}):
        del nodes["best"]
    callbacks = [build(node) for node in nodes.values()]
    loggers = [
        _build_logger(node, purge_step) for node in (config.get("logger") or {}).values() if node
    ]
    if purge_step is not None:  # the checkpoint holds the values that the finders found
        callbacks = [c for c in callbacks if not isinstance(c, FINDERS)]
    if not loggers:
        callbacks = [c for c in callbacks if not isinstance(c, REQUIRE_LOGGER)]
    callbacks.sort(key=_position)
    builtin: list[pl.Callback] = [Interruption(signal_handler), Phases(), FiniteLoss()]
    if config["seed"] is not None:
        builtin.append(EpochSeed(config["seed"]))
    if config["monitor"]:
        builtin.append(MonitorCheck(config["monitor"]))
    if settings.get("max_steps", -1) != -1:
        builtin.append(MaxSteps(settings["max_steps"]))
    plugins: list[Any] = [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():
        # With auto_requeue, Lightning would save a checkpoint in the middle of an epoch.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    if settings.get("num_sanity_val_steps") is None:
        is_custom = not {config[part]["_target_"] for part in ("model", "data")} <= BUILT_IN.keys()
        settings["num_sanity_val_steps"] = 2 if is_custom else 0
    defaults = {
        "default_root_dir": config["paths"]["output_dir"],
        "enable_progress_bar": any(isinstance(c, ProgressBar) for c in callbacks),
        "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks),
        "enable_model_summary": False,
    }
    trainer: pl.Trainer = build(
        {**defaults, **settings},
        callbacks=[*builtin, *callbacks],
        logger=loggers or False,
        plugins=plugins,
    )
    return trainer


def _build_logger(node: Config, purge_step: int | None) -> Any:
    if purge_step is not None and issubclass(find_class(node["_target_"]), TensorBoardLogger):
        node = {**node, "purge_step": purge_step}
    return build(node)


def _is_unmonitored_checkpoint(node: Config) -> bool:
    """Whether a node is a ModelCheckpoint with `monitor: null`, which would not keep the best."""
    return str(node.get("_target_")).endswith(".ModelCheckpoint") and node.get("monitor", 0) is None


def _position(callback: pl.Callback) -> int:
    """Sort key: simplecnn's callbacks complete an epoch, LastCheckpoint saves it, and only then
    third-party callbacks begin the next one."""
    if type(callback) is LastCheckpoint:
        return 1
    return 0 if type(callback).__module__.startswith("simplecnn.") else 2
