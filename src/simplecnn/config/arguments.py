"""Check the arguments of configured classes: by their signatures, and by building a trial."""

import importlib
import inspect
import json
import logging
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from functools import partial
from inspect import Parameter
from typing import Any, get_args, get_type_hints

from hydra.core.plugins import Plugins
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from simplecnn.config.build import HYDRA_KEYS, build, target_nodes
from simplecnn.config.process_state import restore_process_state
from simplecnn.config.schema import BUILT_IN, IMAGE_SIZE, Classifier, target_of
from simplecnn.config.spelling import describe, show, unknown_key
from simplecnn.config.targets import BASE_CLASSES, find_class, imported, other_lightning
from simplecnn.errors import InputError, first_line, require_packages, reraise

PASSED_BY_CODE = {  # arguments that simplecnn passes itself
    "model.optimizer": {"params"},
    "model.scheduler": {"optimizer"},
    "trainer": {"callbacks", "logger"},
}
# Arguments of a network that training infers from the data, with an example of each.
DATA_KEYS = {"in_channels": 1, "image_size": 28, "num_classes": 10}
BY_NAME = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
REQUIRED_PACKAGES = {  # optional packages that Lightning's classes import late in a run's start
    "pytorch_lightning.callbacks.DeviceStatsMonitor": "psutil",
    "pytorch_lightning.callbacks.RichModelSummary": "rich",
    "pytorch_lightning.callbacks.RichProgressBar": "rich",
    "pytorch_lightning.loggers.CometLogger": "comet_ml",
    "pytorch_lightning.loggers.MLFlowLogger": "mlflow",
    "pytorch_lightning.loggers.WandbLogger": "wandb",
}
Config = Mapping[str, Any]


def check_classes(config: Config) -> None:
    """Import the class of every node of a validated configuration, and check its arguments.

    Objects that are cheap to build are built once as a trial: optimizer and scheduler on two small
    parameters, callbacks, the Trainer, and torch and torchvision networks on the meta device.
    Raises InputError with all mistakes, each with its key.
    """
    mistakes: list[str] = []
    targets: dict[str, Any] = {}
    for key, node in target_nodes(config):
        base = next((base for keys, base in BASE_CLASSES.items() if re.fullmatch(keys, key)), None)
        try:
            if package := REQUIRED_PACKAGES.get(node["_target_"]):
                require_packages(node["_target_"], package)
            if key in ("hydra.launcher", "hydra.sweeper"):
                target = _plugin(node["_target_"])
            else:
                target = find_class(node["_target_"], base or "torch.nn.Module")
            targets[key] = target
        except InputError as error:
            mistakes.append(f"{key}._target_: {error}")
            continue
        if base and isinstance(target, type) and not issubclass(target, imported(base)):
            mistakes.append(
                f"{key}._target_: {node['_target_']} is not a subclass of {base}, which is "
                f"required here.{other_lightning(target)}"
            )
        elif node["_target_"] not in BUILT_IN:  # those are checked by the schema
            inferred = DATA_KEYS if key == "model.network" and "data" in config else ()
            mistakes += argument_mistakes(key, node, target, inferred)
    mistakes += _built_too_early(config, targets)
    if mistakes:
        raise InputError(*mistakes)
    with _silent_trial():
        mistakes += _trial_mistakes(config, targets)
    if mistakes:
        raise InputError(*mistakes)


def _plugin(name: str) -> Any:
    """Import a plugin of Hydra. Raises InputError if it is none."""
    if not Plugins.is_in_toplevel_plugins_module(name):
        raise InputError(f"{show(name)} is not a plugin of Hydra, in the package hydra_plugins.")
    with reraise(f"{name} cannot be imported"):
        return imported(name)


def _built_too_early(config: Config, targets: Mapping[str, Any]) -> Iterator[str]:
    """Yield an error for the optimizer and the scheduler that a custom module gets as objects."""
    model, target = config.get("model") or {}, targets.get("model")
    if not isinstance(target, type) or issubclass(target, imported(target_of(Classifier))):
        return
    for name, needed in (("optimizer", "parameters"), ("scheduler", "optimizer")):
        key = f"model.{name}"
        is_argument = key in targets and name in inspect.signature(target).parameters
        is_built = is_argument and not model[name].get("_partial_")
        if is_built and model.get("_recursive_") is not False:
            yield (
                f"{key}: simplecnn instantiates it without its {needed}, which only the module "
                f"has. Type ++{key}._partial_=true if {model['_target_']} calls it with its "
                f"{needed}, or ++model._recursive_=false if it expects the plain config."
            )


def missing_arguments(node: Config, target: Any) -> list[str]:
    """The names of the arguments that a class requires and its node does not give."""
    if node.get("_partial_"):
        return []
    parameters = inspect.signature(target).parameters
    names = [name for name, p in parameters.items() if p.kind in BY_NAME]
    given = {*node, *names[: len(node.get("_args_") or [])]}
    return [n for n in names if parameters[n].default is Parameter.empty and n not in given]


def argument_mistakes(
    key: str, node: Config, target: Any, inferred: Collection[str] = ()
) -> Iterator[str]:
    """Yield the mistakes in the arguments of a node, judged by the signature of its class.

    inferred: arguments that may be missing.
    """
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # a class written in C has none
        return
    is_class = isinstance(target, type)
    try:
        hints = get_type_hints(target.__init__ if is_class else target)
    except Exception:  # a name that is imported for type checkers only
        hints = {}
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    names = [name for name, p in parameters.items() if p.kind in BY_NAME]
    role = re.sub(r"^(model\.scheduler)\W.*", r"\1", key)  # nested schedulers too
    passed = PASSED_BY_CODE.get(role, set()) & set(names)
    for name, value in node.items():
        path = f"{key}.{name}"
        if name in HYDRA_KEYS:
            continue
        if name in passed:
            yield f"{path} cannot be set: simplecnn passes this argument itself."
        elif name not in names and not takes_any:
            yield unknown_key(path, name, sorted(set(names) - passed), f"of {node['_target_']}")
        elif expected := _type_mismatch(hints.get(name), value):
            yield f"{path} is {show(value)}: {node['_target_']} expects {expected}."
    for name in missing_arguments(node, target):
        if name not in passed and name not in inferred:
            advice = ""
            if key == "model.network" and name in DATA_KEYS:
                advice = (
                    " Training infers it from the data, but this command has no data: "
                    f"type {key}.{name}={DATA_KEYS[name]}"
                )
            yield f"{key}.{name} is missing: {node['_target_']} requires it.{advice}"


def _type_mismatch(annotation: Any, value: Any) -> str | None:
    """What an annotation allows if a YAML value does not match it; None if it does, or might."""
    if annotation is None or any(True for _ in target_nodes(value)):
        return None
    for kind in (annotation, *get_args(annotation)):  # Optional[ResNet18_Weights]
        if isinstance(value, str) and isinstance(kind, type) and issubclass(kind, Enum):
            names = kind.__members__
            return None if value.rpartition(".")[2] in names else f"one of {', '.join(names)}"
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        try:
            return describe(adapter.json_schema())
        except PydanticInvalidForJsonSchema:  # it names a class that is not in JSON
            return inspect.formatannotation(annotation).replace("typing.", "")
    except Exception:  # an annotation that pydantic cannot validate
        return None
    return None


def _trial_mistakes(config: Config, targets: Mapping[str, Any]) -> list[str]:
    """Build objects as a trial, and collect the errors that their classes raise."""
    mistakes: list[str] = []

    def attempt(key: str, build_one: Callable[[], Any]) -> Any:
        try:
            return build_one()
        except Exception as error:
            mistakes.append(f"{key}: {first_line(error)}")

    trials = {key: {**node, "_partial_": False} for key, node in target_nodes(config)}

    def is_complete(key: str) -> bool:
        """Whether nothing is missing that the module passes to a node with `_partial_`."""
        return key in targets and not any(argument_mistakes(key, trials[key], targets[key]))

    if is_complete("model.optimizer"):
        optimizer = attempt("model.optimizer", partial(_trial_optimizer, trials["model.optimizer"]))
        if optimizer is not None and is_complete("model.scheduler"):
            node = trials["model.scheduler"]
            if "total_steps" in inspect.signature(targets["model.scheduler"]).parameters:
                node = {"total_steps": 100, **node}  # the real number is known once the run starts
            attempt("model.scheduler", partial(build, node, optimizer=optimizer))
    if "model.network" in targets:
        attempt("model.network", partial(_trial_network, config))
    nodes = {key: node for key, node in (config.get("callbacks") or {}).items() if node}
    callbacks = [attempt(f"callbacks.{key}", partial(build, node)) for key, node in nodes.items()]
    if config.get("trainer") and not mistakes:
        defaults = {"callbacks": callbacks, "logger": False, "enable_model_summary": False}
        attempt("trainer", partial(build, {**defaults, **config["trainer"]}))
    return mistakes


def _trial_network(config: Config) -> None:
    """Build a network on the meta device, and pass it an image if the data module is built in."""
    model, data = config["model"], config.get("data") or {}
    data_schema: Any = BUILT_IN.get(str(data.get("_target_")))
    if data_schema and data.get("normalize") and "normalize" not in model["network"]:
        raise InputError(
            f"data.normalize is true, but {model['network']['_target_']} has no argument "
            f"normalize. Make simplecnn.models.simple_cnn.Normalize(mean, std) the first layer of "
            f"the network."
        )
    for _, node in target_nodes(model["network"]):
        name = node["_target_"]
        if not name.startswith(("torch.", "torchvision.")) or node.get("weights"):
            return  # its constructor may do anything, or download weights
        if name.startswith("torchvision."):
            if "weights_backbone" in inspect.signature(find_class(name)).parameters:
                return  # downloads the weights of its backbone by default
    torch = importlib.import_module("torch")
    with torch.device("meta"):
        network = build(model["network"])
        # A custom LightningModule may reshape the images.
        if data_schema is None or BUILT_IN.get(str(model.get("_target_"))) is not Classifier:
            return
        size: Any = data.get("image_size") or getattr(data_schema, "image_size", IMAGE_SIZE)
        channels: Any = data.get("channels") or getattr(data_schema, "channels", 1)
        network.eval()
        if reason := _shape_mistake(network, (channels, size, size)):
            takes_color = channels == 1 and not _shape_mistake(network, (3, size, size))
            hint = ". Type data.channels=3, which repeats gray." if takes_color else ""
            raise InputError(
                f"the network does not accept images of shape {channels} x {size} x {size}: "
                f"{reason}{hint}"
            )


def _shape_mistake(network: Any, shape: tuple[int, ...]) -> str | None:
    """Why a network on the meta device does not accept images of `shape`, or None."""
    torch = importlib.import_module("torch")
    try:
        network(torch.zeros(1, *shape))
    except NotImplementedError:  # an operation without a meta kernel
        return None
    except Exception as error:
        return first_line(error)
    return None


def _trial_optimizer(node: Config) -> Any:
    """Build an optimizer on a 4D and a 1D parameter, as of a convolution, and take one step."""
    torch = importlib.import_module("torch")
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((1, 1, 1, 1), (1,))]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = build(node, parameters)
    with reraise(f"{node['_target_']} failed at a trial step"):
        optimizer.step(lambda: torch.zeros(()))
    return optimizer


@contextmanager
def _silent_trial() -> Iterator[None]:
    """Suppress warnings and log messages, and restore what a Trainer changes."""
    logging.disable(logging.WARNING)
    try:
        with restore_process_state(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
