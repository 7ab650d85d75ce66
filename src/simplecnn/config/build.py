"""Check and build the classes that a configuration names by `_target_`.

A `_target_` can name any function of any package, and importing a module executes it. A name that
`is_allowed` does not accept is therefore rejected before it is imported.
"""

import importlib
import inspect
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from inspect import Parameter
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from simplecnn.config.schema import BUILT_IN, IMAGE_SIZE, Classifier
from simplecnn.config.spelling import describe, did_you_mean, show, unknown_key
from simplecnn.errors import InputError, first_line, relative_path, require_packages, reraise

TARGETS_VARIABLE = "SIMPLECNN_TARGETS"  # comma-separated packages or classes to allow
PACKAGES = {  # package: the base class that an allowed class of it must have
    "torch.nn": "torch.nn.Module",
    "torch.optim": "torch.optim.Optimizer",
    "torch.optim.lr_scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "pytorch_lightning.callbacks": "pytorch_lightning.Callback",
    "pytorch_lightning.loggers": "pytorch_lightning.loggers.Logger",
    "pytorch_lightning.profilers": "pytorch_lightning.profilers.Profiler",
    "pytorch_lightning.strategies": "pytorch_lightning.strategies.Strategy",
    "optuna.samplers": "optuna.samplers.BaseSampler",
    "optuna.pruners": "optuna.pruners.BasePruner",
}
BASE_CLASSES = {  # pattern of keys: the base class that is required there
    r"model": "pytorch_lightning.LightningModule",
    r"model\.network": "torch.nn.Module",
    r"model\.optimizer": "torch.optim.Optimizer",
    r"model\.scheduler": "torch.optim.lr_scheduler.LRScheduler",
    r"data": "pytorch_lightning.LightningDataModule",
    r"trainer": "pytorch_lightning.Trainer",
    r"trainer\.profiler": "pytorch_lightning.profilers.Profiler",
    r"trainer\.strategy": "pytorch_lightning.strategies.Strategy",
    r"callbacks\.[^.]+": "pytorch_lightning.Callback",
    r"logger\.[^.]+": "pytorch_lightning.loggers.Logger",
}
PASSED_BY_CODE = {  # arguments that simplecnn passes itself
    "model.optimizer": {"params"},
    "model.scheduler": {"optimizer"},
    "trainer": {"callbacks", "logger"},
}
REQUIRED_PACKAGES = {  # optional packages that Lightning's classes import late in a run's start
    "pytorch_lightning.callbacks.DeviceStatsMonitor": "psutil",
    "pytorch_lightning.callbacks.RichModelSummary": "rich",
    "pytorch_lightning.callbacks.RichProgressBar": "rich",
    "pytorch_lightning.loggers.CometLogger": "comet_ml",
    "pytorch_lightning.loggers.MLFlowLogger": "mlflow",
    "pytorch_lightning.loggers.WandbLogger": "wandb",
}
SCHEDULERS = "torch.optim.lr_scheduler."
HYDRA_KEYS = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")
Config = Mapping[str, Any]


class TargetNotAllowed(InputError):
    """A configuration names a class or function that is not allowed."""


# ------------------------------------------------------------------------------ allowed targets


def is_allowed(target: Any) -> bool:
    """Whether a configuration may build `target`, judged by its name: nothing is imported."""
    if not isinstance(target, str) or not all(p.isidentifier() for p in target.split(".")):
        return False
    module, _, name = target.rpartition(".")
    if name.startswith("Lambda") and module in PACKAGES:  # its arguments are functions
        return False
    return (
        module in PACKAGES
        or module == "torchvision.models"
        or target == "pytorch_lightning.Trainer"
        or (module.startswith("simplecnn.") and _module_file(module, _package_root()) is not None)
        or any(target == t or target.startswith(f"{t}.") for t in _trusted_targets())
        or _local_file(module) is not None
    )


def find_class(target: Any) -> Any:
    """Import an allowed class, or the builder function of a torchvision model.

    Raises TargetNotAllowed, before anything is imported, if the name is not allowed, and
    InputError if the import fails.
    """
    if not is_allowed(target):
        raise TargetNotAllowed(_not_allowed(target))
    module_name, _, name = target.rpartition(".")
    if _local_file(module_name) and str(_working_dir()) not in sys.path:
        sys.path.append(str(_working_dir()))
    try:
        module = importlib.import_module(module_name)
        if module_name == "torchvision.models":
            return module.get_model_builder(name)
    except Exception as error:
        near = did_you_mean(name, module.list_models()) if isinstance(error, ValueError) else ""
        reason = first_line(error) if not near else "there is no such model"
        searched = f" Looked in {_working_dir()} and in the installed packages."
        raise InputError(f"{target} cannot be imported: {reason}.{near or searched}") from error
    if not hasattr(module, name):
        near = did_you_mean(name, dir(module))
        raise InputError(f"{module_name} has no {name}.{near}")
    target_class = getattr(module, name)
    is_class = isinstance(target_class, type)
    if target not in _trusted_targets() and not (
        is_class and _is_buildable(target_class, module_name)
    ):
        raise TargetNotAllowed(_not_allowed(target))
    return target_class


def _is_buildable(target_class: type, module_name: str) -> bool:
    """Whether a configuration may build this class, imported from `module_name`."""
    if module_name in PACKAGES:
        return issubclass(target_class, _imported(PACKAGES[module_name]))
    if module_name == "pytorch_lightning" or any(
        f"{module_name}.".startswith(f"{trusted}.") for trusted in _trusted_targets()
    ):
        return True
    bases = [_imported(b) for b in {*BASE_CLASSES.values()}]
    bases.append(_imported("simplecnn.data.augmentation.RandomAffine"))
    module = target_class.__module__
    is_known = module.startswith("simplecnn.") or _local_file(module) is not None
    return is_known and issubclass(target_class, tuple(bases))


def _imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _trusted_targets() -> set[str]:
    return {t.strip() for t in os.environ.get(TARGETS_VARIABLE, "").split(",") if t.strip()}


def _working_dir() -> Path:
    """The directory from which the command was started, even if the job has changed it."""
    changed = HydraConfig.initialized() and HydraConfig.get().job.chdir
    return Path(get_original_cwd()) if changed else Path.cwd()


def _package_root() -> Path:
    return Path(__file__).resolve().parents[2]


def _module_file(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    files = (path.parent / f"{path.name}.py", path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _local_file(module: str) -> Path | None:
    """The file of a module below the working directory, or None.

    None for files in a virtual environment or in the directory of a run or a sweep, whose content
    is untrusted, and if an installed package of the same name would be imported instead.
    """
    root, file = _working_dir(), _file_below_working_dir(module)
    if file is None or _is_untrusted(file):
        return None
    top = module.split(".")[0]
    loaded = sys.modules.get(top)
    spec = loaded.__spec__ if loaded else find_spec(top)
    origins = [spec.origin, *(spec.submodule_search_locations or [])] if spec else [str(root)]
    is_local = any(p and Path(p).resolve().is_relative_to(root.resolve()) for p in origins)
    return file if is_local else None


def _file_below_working_dir(module: str) -> Path | None:
    """The file of a module, unless a link leads out of the working directory."""
    root = _working_dir()
    file = _module_file(module, root) if module else None
    return file if file and file.resolve().is_relative_to(root.resolve()) else None


def _is_untrusted(file: Path) -> bool:
    """Whether a file is in a virtual environment, or in the directory of a run or a sweep."""
    root = _working_dir()
    markers = ("run.json", "sweep.json", "pyvenv.cfg")
    for path in (file, root.resolve() / file.resolve().relative_to(root.resolve())):
        for directory in [p for p in path.parents if p.is_relative_to(root)] or [root]:
            if directory.name in ("site-packages", "dist-packages") or any(
                (directory / marker).exists() for marker in markers
            ):
                return True
    return False


def _not_allowed(target: Any) -> str:
    if ".Lambda" in str(target):
        return (
            f"{show(target)} takes functions, which a configuration cannot contain: write a "
            f"subclass."
        )
    root, module = _working_dir(), str(target).rpartition(".")[0]
    file = _file_below_working_dir(module)
    if file is not None and _is_untrusted(file):
        return (
            f"{show(target)} is not on the list of classes that a configuration may build: "
            f"{relative_path(file)} is in a virtual environment, or in the directory of a run or "
            f"a sweep (run.json, sweep.json), whose files are not trusted."
        )
    top = str(target).partition(".")[0]
    if top.isidentifier() and top not in sys.modules and not find_spec(top):
        path = Path(*module.split(".")) if (root / top).is_dir() else Path(top)
        siblings = {f"{file.stem}.py" for file in (root / path).parent.glob("*.py")}
        return (
            f"{show(target)} cannot be imported: there is no {path.as_posix()}.py in {root}, and "
            f"no installed package {top}.{did_you_mean(f'{path.name}.py', siblings)}"
        )
    return (
        f"{show(target)} is not on the list of classes that a configuration may build, nor a class "
        f"in a file below {_working_dir()}. If you trust it, allow it: {TARGETS_VARIABLE}={target}"
    )


# ---------------------------------------------------------------------------------------- nodes


def target_nodes(config: Any) -> Iterator[tuple[str, Config]]:
    """Yield each node of `config` (plain dicts and lists) that has a `_target_`, with its key."""
    for key, value in _values(config):
        if isinstance(value, Mapping) and "_target_" in value:
            yield key, value


def name_mistakes(config: Any) -> dict[str, str]:
    """An error per key for targets that are not allowed and unresolved interpolations.

    Judged by the text alone: nothing is imported.
    """
    sentences = {
        f"{key}._target_": f"{key}._target_: {_not_allowed(node['_target_'])}"
        for key, node in target_nodes(config)
        if not is_allowed(node["_target_"])
    }
    for key, value in _values(config):
        for text in value if isinstance(value, Mapping) else [value]:
            if isinstance(text, str) and "${" in text:
                sentences[key] = f"{key} is {show(text)}: this interpolation is not resolved."
    return sentences


def _values(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `config` and every value nested in it, each with its key."""
    yield key, config
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _values(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            yield from _values(value, f"{key}[{i}]")


def build(config: Config, *args: Any, **kwargs: Any) -> Any:
    """Instantiate a node, as `hydra.utils.instantiate` does, but only allowed targets.

    `args` and `kwargs` are passed beside the node's arguments. A DictConfig is resolved to plain
    values once; those are checked, and never resolved again. With `_recursive_=False`, nested nodes
    are passed to the class as they are; with `_partial_=True`, a `functools.partial` is returned.

    Raises TargetNotAllowed, before anything is imported, if a `_target_` is not allowed, and
    InputError if a class rejects its arguments.
    """
    node: Any = config
    if isinstance(config, DictConfig):
        node = OmegaConf.to_container(config, resolve=True)
    if sentences := name_mistakes(node):
        raise TargetNotAllowed(*(sentence.removeprefix(".") for sentence in sentences.values()))
    hydra_keys = {k: kwargs.pop(k) for k in HYDRA_KEYS if k in kwargs}
    return _construct({**node, **hydra_keys}, args, kwargs, kwargs.get("optimizer"))


def _construct(
    node: Any, args: Any = (), kwargs: Config | None = None, optimizer: Any = None
) -> Any:
    """Build a node and its nested nodes; schedulers nested in a scheduler get its optimizer."""
    if isinstance(node, list | tuple):
        return [_construct(value, optimizer=optimizer) for value in node]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {key: _construct(value, optimizer=optimizer) for key, value in node.items()}
    target = find_class(node["_target_"])
    if kwargs is None:
        is_nested = optimizer is not None and node["_target_"].startswith(SCHEDULERS)
        kwargs = {"optimizer": optimizer} if is_nested else {}
    arguments = {k: v for k, v in node.items() if k not in HYDRA_KEYS}
    positional = list(node.get("_args_") or [])
    if node.get("_recursive_") is not False:
        arguments = {k: _construct(v, optimizer=optimizer) for k, v in arguments.items()}
        positional = [_construct(v, optimizer=optimizer) for v in positional]
    call = partial(target, *args, *positional, **{**arguments, **kwargs})
    if node.get("_partial_"):
        return call
    with reraise(f"{node['_target_']} rejects its arguments"):
        return call()


# ------------------------------------------------------------------------- arguments of classes


def check_classes(config: Config) -> None:
    """Import the class of every node of a validated configuration, and check its arguments.

    Objects that are cheap to build are built once as a trial: optimizer and scheduler on two small
    parameters, callbacks, the Trainer, and torch and torchvision networks on the meta device.
    Raises InputError with all mistakes, each with its key.
    """
    mistakes: list[str] = []
    targets: dict[str, Any] = {}
    for key, node in target_nodes(config):
        try:
            if package := REQUIRED_PACKAGES.get(node["_target_"]):
                require_packages(node["_target_"], package)
            targets[key] = target = find_class(node["_target_"])
        except InputError as error:
            mistakes.append(f"{key}._target_: {error}")
            continue
        base = next((base for keys, base in BASE_CLASSES.items() if re.fullmatch(keys, key)), None)
        if base and isinstance(target, type) and not issubclass(target, _imported(base)):
            mistakes.append(
                f"{key}._target_: {node['_target_']} is not a subclass of {base}, which is "
                f"required here."
            )
        elif node["_target_"] not in BUILT_IN:  # those are checked by the schema
            mistakes += argument_mistakes(key, node, target)
    if mistakes:
        raise InputError(*mistakes)
    with _silent_trial():
        mistakes += _trial_mistakes(config, targets)
    if mistakes:
        raise InputError(*mistakes)


def argument_mistakes(key: str, node: Config, target: Any) -> Iterator[str]:
    """Yield the mistakes in the arguments of a node, judged by the signature of its class."""
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
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    names = [name for name, p in parameters.items() if p.kind in by_name]
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
    provided = {*node, *passed, *names[: len(node.get("_args_") or [])]}
    for name in names if not node.get("_partial_") else ():
        if parameters[name].default is Parameter.empty and name not in provided:
            yield f"{key}.{name} is missing: {node['_target_']} requires it."


def _type_mismatch(annotation: Any, value: Any) -> str | None:
    """What an annotation allows if a YAML value does not match it; None if it does, or might."""
    if annotation is None or any(True for _ in target_nodes(value)):
        return None
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

    model: Config = config.get("model") or {}
    if "model.optimizer" in targets:
        optimizer = attempt("model.optimizer", partial(_trial_optimizer, model["optimizer"]))
        if optimizer is not None and "model.scheduler" in targets:
            node = model["scheduler"]
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
    """Suppress warnings and log messages; restore torch's global flags and the environment."""
    torch = importlib.import_module("torch")
    deterministic = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    environment = dict(os.environ)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
