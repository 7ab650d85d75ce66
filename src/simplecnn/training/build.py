"""The parts of a run, built from its configuration."""

import os
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
from torch.nn.parameter import is_lazy

from simplecnn.callbacks.checkpoint import LastCheckpoint
from simplecnn.config.build import build, find_class
from simplecnn.data.resident import ResidentDataModule
from simplecnn.data.shape import data_shape
from simplecnn.errors import InputError
from simplecnn.models.activations import evaluation_mode, network_of, uncompiled
from simplecnn.models.classifier import Classifier
from simplecnn.signals import Stop
from simplecnn.training.checkpoint_io import AtomicCheckpointIO
from simplecnn.training.epoch_seed import EpochSeed
from simplecnn.training.finite_loss import FiniteLoss
from simplecnn.training.interruption import Interruption
from simplecnn.training.max_steps import MaxSteps
from simplecnn.training.phases import Phases

Config = Mapping[str, Any]
FINDERS = (BatchSizeFinder, LearningRateFinder)
NEED_A_LOGGER = (DeviceStatsMonitor, LearningRateMonitor)
FROM_THE_DATA = ("in_channels", "image_size", "num_classes")  # of a network, where they are null


def build_datamodule(config: Config) -> pl.LightningDataModule:
    datamodule: pl.LightningDataModule = build(config["data"])
    return datamodule


def build_module(config: Config, datamodule: pl.LightningDataModule) -> pl.LightningModule:
    """The LightningModule; a network whose size, channels or classes are null takes the data's.

    So do its normalization and the weights of the classes, where the data are to give them.
    """
    model = dict(config["model"])
    network = model.get("network")
    if isinstance(network, Mapping):
        missing = [key for key in FROM_THE_DATA if key in network and network[key] is None]
        if missing:
            shape = data_shape(datamodule)
            network = {**network, **{key: getattr(shape, key) for key in missing}}
        if getattr(datamodule, "normalize", False):
            _read(datamodule)
            mean_and_std = network.get("normalize") or datamodule.normalization()
            network = {**network, "normalize": mean_and_std}
        model["network"] = network
    if model.get("class_weights") == "balanced":
        model["class_weights"] = _balanced(datamodule)
    # A Classifier builds its network itself: the checkpoint then holds the configuration.
    recursive = not issubclass(find_class(model["_target_"]), Classifier)
    module: pl.LightningModule = build(model, _recursive_=recursive, _convert_="all")
    if any(map(is_lazy, module.parameters())):
        _give_sizes(module, datamodule)
    return module


def _give_sizes(module: pl.LightningModule, datamodule: pl.LightningDataModule) -> None:
    """Have lazy layers (LazyLinear, …) see a blank image of the data: optimizers need weights."""
    shape, network = data_shape(datamodule), network_of(module)
    image = torch.zeros(1, shape.in_channels, shape.image_size, shape.image_size)
    with torch.no_grad(), evaluation_mode(network), uncompiled(network):
        network(image)


def _balanced(datamodule: pl.LightningDataModule) -> list[float]:
    """Weights that give each class the same sum over the training images, 1 on average."""
    if not isinstance(datamodule, ResidentDataModule):
        raise InputError(
            f"model.class_weights is balanced: {type(datamodule).__name__} does not say how many "
            f"images each class has. Type the weights: model.class_weights=[…]."
        )
    _read(datamodule)
    counts = datamodule.class_counts("train")
    return [sum(counts) / (len(counts) * max(1, count)) for count in counts]


def _read(datamodule: pl.LightningDataModule) -> None:
    """Have the training images, before there is a Trainer."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        datamodule.prepare_data()
    datamodule.setup("fit")


def build_trainer(config: Config, stop: Stop, *, purge_step: int | None = None) -> pl.Trainer:
    """The Trainer with the callbacks and loggers of the configuration, and what every run has.

    purge_step: the step from which the run is resumed.
    """
    settings = dict(config["trainer"])
    nodes = [node for node in (config.get("callbacks") or {}).values() if node]
    callbacks = [build(node) for node in nodes if not _keeps_nothing(node)]
    loggers = [_logger(node, purge_step) for node in (config.get("logger") or {}).values() if node]
    if purge_step is not None:  # they have found what is in the checkpoint
        callbacks = [c for c in callbacks if not isinstance(c, FINDERS)]
    if not loggers:  # nobody to log to
        callbacks = [c for c in callbacks if not isinstance(c, NEED_A_LOGGER)]
    # Ours finish an epoch before last.ckpt is written, all others begin the next one after it.
    callbacks.sort(key=lambda c: (type(c) is LastCheckpoint) or 2 * (not _is_ours(c)))
    first: list[pl.Callback] = [Interruption(stop), Phases(), FiniteLoss()]
    if config["seed"] is not None:
        first.append(EpochSeed(config["seed"]))
    if settings.get("max_steps", -1) != -1:
        first.append(MaxSteps(settings["max_steps"]))
    plugins: list[Any] = [AtomicCheckpointIO()]
    if SLURMEnvironment.detect():  # Lightning would save in the middle of an epoch
        plugins.append(SLURMEnvironment(auto_requeue=False))
    given = {
        "default_root_dir": config["paths"]["output_dir"],
        "enable_progress_bar": any(isinstance(c, ProgressBar) for c in callbacks),
        "enable_checkpointing": any(isinstance(c, Checkpoint) for c in callbacks),
        "enable_model_summary": False,
    }
    trainer: pl.Trainer = build(
        {**given, **settings},
        callbacks=[*first, *callbacks],
        logger=loggers or False,
        plugins=plugins,
    )
    return trainer


def _logger(node: Config, purge_step: int | None) -> Any:
    if purge_step is not None and issubclass(find_class(node["_target_"]), TensorBoardLogger):
        node = {**node, "purge_step": purge_step}
    return build(node)


def _keeps_nothing(node: Config) -> bool:
    """Whether a node keeps the best by a monitor, and there is none: Lightning would keep all."""
    return str(node.get("_target_")).endswith(".ModelCheckpoint") and node.get("monitor", 0) is None


def _is_ours(callback: pl.Callback) -> bool:
    return type(callback).__module__.startswith("simplecnn.")
