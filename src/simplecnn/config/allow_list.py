"""Which classes a configuration may name (`_target_`), and how they are built.

A configuration can come from someone else, and `_target_` can name any function of any package.
So only names on a list in this file are built.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from simplecnn.config import secrets
from simplecnn.errors import InputError, RunError

EXTRA_TARGETS = "SIMPLECNN_TARGETS"  # environment variable: further names, comma-separated


def _names(module: str, *names: str) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for name in names)


ALLOWED: frozenset[str] = (
    _names("simplecnn.models", "simple_cnn.SimpleCNN", "classifier.Classifier")
    | _names("simplecnn.data.augmentation", "RandomAffine", "RandomElastic")
    | _names("simplecnn.data.mnist", "MNISTDataModule")
    | _names("simplecnn.callbacks.checkpoint", "LastCheckpoint")
    | _names("simplecnn.callbacks.confusion", "Confusion")
    | _names("simplecnn.callbacks.curves", "Curves")
    | _names("simplecnn.callbacks.feature_maps", "FeatureMaps")
    | _names("simplecnn.callbacks.filter_history", "FilterHistory")
    | _names("simplecnn.callbacks.filters", "Filters")
    | _names("simplecnn.callbacks.health", "Health")
    | _names("simplecnn.callbacks.mistakes", "Mistakes")
    | _names("simplecnn.callbacks.progress", "EpochLines", "ProgressBar")
    | _names("simplecnn.callbacks.pruning", "Pruning")
    | _names("simplecnn.training.loggers", "TensorBoard", "MetricsCSV")
    | _names("pytorch_lightning", "Trainer")
    | _names(
        "pytorch_lightning.callbacks",
        *("EarlyStopping", "GradientAccumulationScheduler", "LearningRateMonitor"),
        *("ModelCheckpoint", "ModelSummary", "StochasticWeightAveraging", "Timer"),
        *("TQDMProgressBar", "WeightAveraging", "DeviceStatsMonitor", "EMAWeightAveraging"),
    )
    | _names("pytorch_lightning.loggers", "CSVLogger", "TensorBoardLogger")
    | _names("pytorch_lightning.profilers", "AdvancedProfiler", "PyTorchProfiler", "SimpleProfiler")
    | _names("pytorch_lightning.strategies", "DDPStrategy", "SingleDeviceStrategy")
    | _names(
        "torch.optim",
        *("ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "NAdam", "RAdam"),
        *("RMSprop", "Rprop", "SGD"),
    )
    | _names(
        "torch.optim.lr_scheduler",
        *("ConstantLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts", "CyclicLR"),
        *("ExponentialLR", "LinearLR", "MultiStepLR", "OneCycleLR", "PolynomialLR"),
        *("ReduceLROnPlateau", "StepLR"),
    )
    | _names(
        "torch.nn",
        *("AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "AvgPool2d", "BatchNorm1d", "BatchNorm2d"),
        *("Conv2d", "ConvTranspose2d", "Dropout", "Dropout2d", "ELU", "Flatten", "GELU"),
        *("GroupNorm", "Hardswish", "Identity", "InstanceNorm2d", "LayerNorm", "LazyLinear"),
        *("LeakyReLU", "Linear", "MaxPool2d", "Mish", "PReLU", "ReLU", "ReLU6", "Sequential"),
        *("SiLU", "Sigmoid", "Softplus", "Tanh", "Unflatten", "Upsample", "ZeroPad2d"),
    )
    | _names(
        "torchvision.models",
        *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet"),
        *("mnasnet1_0", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18"),
        *("resnet34", "resnet50", "shufflenet_v2_x1_0", "squeezenet1_1", "vgg11", "vgg11_bn"),
        *("vgg16", "vgg16_bn"),
    )
    | _names(
        "optuna.samplers",
        *("GPSampler", "NSGAIISampler", "QMCSampler", "RandomSampler", "TPESampler"),
    )
    | _names(
        "optuna.pruners",
        *("HyperbandPruner", "MedianPruner", "PercentilePruner", "SuccessiveHalvingPruner"),
    )
)


def allowed() -> frozenset[str]:
    """Every name a configuration may use: the list above and the user's own."""
    own = os.environ.get(EXTRA_TARGETS, "")
    return ALLOWED | {name.strip() for name in own.split(",") if name.strip()}


@dataclass(frozen=True)
class TargetNode:
    """One node of a configuration that names a class: where it stands and what it passes on."""

    key: str
    target: Any
    arguments: Mapping[str, Any]
    settings: Mapping[str, Any]  # the words that are meant for Hydra

    @property
    def positional(self) -> list[Any]:
        positional = self.settings.get("_args_")
        return list(positional) if isinstance(positional, list | tuple) else []

    @property
    def partial(self) -> bool:
        return bool(self.settings.get("_partial_", False))


INSTANTIATE_KEYS = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")


def target_nodes(config: Any, key: str = "") -> Iterator[TargetNode]:
    """Every node below `config` (plain dicts and lists) that has a `_target_`."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield TargetNode(
                key=key,
                target=config["_target_"],
                arguments={k: v for k, v in config.items() if k not in INSTANTIATE_KEYS},
                settings={k: v for k, v in config.items() if k in INSTANTIATE_KEYS},
            )
        for name, value in config.items():
            yield from target_nodes(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            yield from target_nodes(value, f"{key}[{i}]")


class TargetNotAllowed(InputError):
    """A configuration names a class that is not on the list."""


def build(config: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """The object a configuration node describes, by `hydra.utils.instantiate`.

    With `_recursive_=False`, the classes that its arguments name are left for it to build.

    Raises TargetNotAllowed, before anything is imported, where a `_target_` in it is not on the
    list, and InputError where a class refuses its arguments.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    for node in target_nodes(config):
        if node.target not in allowed():
            raise TargetNotAllowed(f"{node.key or '_target_'}: {not_allowed(node.target)}")
    try:
        if kwargs.get("_recursive_") is False:
            return _call(config)
        return instantiate(dict(config), *args, **kwargs)
    except InstantiationException as error:
        raise _refusal(config, error.__cause__ or error) from error.__cause__


def _call(config: Mapping[str, Any]) -> Any:
    """Call what a node names with its arguments as they are: what they name is built by it.

    So `${oc.env:…}` in them is not resolved before it is needed.
    """
    from hydra.utils import get_method

    arguments = {k: v for k, v in config.items() if k not in INSTANTIATE_KEYS}
    plain = {k: v for k, v in arguments.items() if not isinstance(v, Mapping | list)}
    plain = {str(k): v for k, v in OmegaConf.create(plain).items()}
    try:
        return get_method(config["_target_"])(**{**arguments, **plain})
    except Exception as error:
        raise _refusal(config, error) from error


def _refusal(config: Mapping[str, Any], cause: BaseException) -> Exception:
    """The sentence for a class that refuses its arguments."""
    if isinstance(cause, InputError | RunError):
        return cause
    reason = str(cause).strip().splitlines()[0] if str(cause).strip() else repr(cause)
    return InputError(secrets.hide(f"{config['_target_']} refuses its arguments: {reason}"))


def not_allowed(target: Any) -> str:
    return (
        f"{target!r} is not on the list of classes that a configuration may build. "
        f"If you trust it, allow it: {EXTRA_TARGETS}={target}"
    )
