"""Which classes a configuration may name (`_target_`), what they accept, and how they are built.

A `_target_` can name any function of any package, and importing a module runs it: so a name is
refused before it is imported, unless it is one of those of `is_allowed`.
"""

import importlib
import importlib.util
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
from inspect import Parameter
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError

from simplecnn.config.schema import IMAGE_SIZE, OURS, Classifier
from simplecnn.config.spelling import cut, did_you_mean, show, unknown
from simplecnn.errors import InputError, RunError

OWN_TARGETS = "SIMPLECNN_TARGETS"  # environment variable: packages or classes, comma-separated
PACKAGES = {  # whose classes are allowed, as far as they are subclasses of this one
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
PLACES = {  # what stands where
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
GIVEN_IN_CODE = {
    "model.optimizer": {"params"},
    "model.scheduler": {"optimizer"},
    "trainer": {"callbacks", "logger"},
}
SCHEDULERS = "torch.optim.lr_scheduler."
HYDRA_WORDS = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")
Config = Mapping[str, Any]


class TargetNotAllowed(InputError):
    """A configuration names something that it may not build."""


# ------------------------------------------------------------------------------ what is allowed


def is_allowed(target: Any) -> bool:
    """Whether a configuration may build `target`. Judges the name and imports nothing."""
    if not isinstance(target, str) or not all(p.isidentifier() for p in target.split(".")):
        return False
    module, _, name = target.rpartition(".")
    if name.startswith("Lambda") and module in PACKAGES:  # takes functions
        return False
    return (
        module in PACKAGES
        or module == "torchvision.models"
        or target == "pytorch_lightning.Trainer"
        or (module.startswith("simplecnn.") and _module_file(module, _package_root()) is not None)
        or any(target == own or target.startswith(f"{own}.") for own in _own_targets())
        or _local_file(module) is not None
    )


def find_class(target: Any) -> Any:
    """The class behind an allowed name (of torchvision's networks, the function that builds one).

    Raises TargetNotAllowed, before anything is imported, for any other name, and InputError with
    the reason where it cannot be imported.
    """
    if not is_allowed(target):
        raise TargetNotAllowed(_not_allowed(target))
    module_name, _, name = target.rpartition(".")
    if _local_file(module_name) and str(_here()) not in sys.path:
        sys.path.append(str(_here()))
    try:
        module = importlib.import_module(module_name)
        if module_name == "torchvision.models":
            return module.get_model_builder(name)
    except Exception as error:
        near = did_you_mean(name, module.list_models()) if isinstance(error, ValueError) else ""
        reason = first_line(error) if not near else "there is no such network"
        looked = f" Looked in {_here()} and in the installed packages."
        raise InputError(f"{target} cannot be imported: {reason}.{near or looked}") from error
    if not hasattr(module, name):
        near = did_you_mean(name, dir(module))
        raise InputError(f"{module_name} has no {name}.{near}")
    target_class = getattr(module, name)
    is_class = isinstance(target_class, type)
    if target not in _own_targets() and not (is_class and _is_of(target_class, module_name)):
        raise TargetNotAllowed(_not_allowed(target))
    return target_class


def _is_of(target_class: type, module_name: str) -> bool:
    """Whether a class is what a configuration may build from this module."""
    if module_name in PACKAGES:
        return issubclass(target_class, _imported(PACKAGES[module_name]))
    if module_name == "pytorch_lightning" or any(
        f"{module_name}.".startswith(f"{own}.") for own in _own_targets()
    ):
        return True
    bases = [_imported(b) for b in {*PLACES.values()}]
    bases.append(_imported("simplecnn.data.augmentation.RandomAffine"))
    module = target_class.__module__
    is_ours_or_local = module.startswith("simplecnn.") or _local_file(module) is not None
    return issubclass(target_class, tuple(bases)) and is_ours_or_local


def _imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _own_targets() -> set[str]:
    return {t.strip() for t in os.environ.get(OWN_TARGETS, "").split(",") if t.strip()}


def _here() -> Path:
    """Where the command was typed, also in a job that changed its directory."""
    is_elsewhere = HydraConfig.initialized() and HydraConfig.get().job.chdir
    return Path(get_original_cwd()) if is_elsewhere else Path.cwd()


def _package_root() -> Path:
    return Path(__file__).resolve().parents[2]


def _module_file(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    files = (path.parent / f"{path.name}.py", path / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _local_file(module: str) -> Path | None:
    """The file of a module below the working directory.

    None where it belongs to a virtual environment, lies in the directory of a run, which may be
    a stranger's, or where an installed package has the same name.
    """
    root = _here()
    file = _module_file(module, root) if module else None
    if file is None or not file.resolve().is_relative_to(root.resolve()):
        return None
    for path in (file, root.resolve() / file.resolve().relative_to(root.resolve())):
        for directory in [p for p in path.parents if p.is_relative_to(root)] or [root]:
            marks = ("run.json", "sweep.json", "pyvenv.cfg")
            if directory.name in ("site-packages", "dist-packages") or any(
                (directory / mark).exists() for mark in marks
            ):
                return None
    top = module.split(".")[0]
    loaded = sys.modules.get(top)
    spec = loaded.__spec__ if loaded else importlib.util.find_spec(top)
    places = [spec.origin, *(spec.submodule_search_locations or [])] if spec else [str(root)]
    if not any(p and Path(p).resolve().is_relative_to(root.resolve()) for p in places):
        return None
    return file


def _not_allowed(target: Any) -> str:
    if ".Lambda" in str(target):
        return f"{show(target)} takes functions, and a configuration has none: write a subclass."
    return (
        f"{show(target)} is not on the list of classes that a configuration may build, nor a class "
        f"in a file below {_here()}. If you trust it, allow it: {OWN_TARGETS}={target}"
    )


# ---------------------------------------------------------------------------------------- nodes


def target_nodes(config: Any) -> Iterator[tuple[str, Config]]:
    """Every node of `config` (plain dicts and lists) that has a `_target_`, with its key."""
    for key, value in _values(config):
        if isinstance(value, Mapping) and "_target_" in value:
            yield key, value


def name_mistakes(config: Any) -> dict[str, str]:
    """What a configuration may not hold, judged by its text alone: the key, and a sentence."""
    sentences = {
        f"{key}._target_": f"{key}._target_: {_not_allowed(node['_target_'])}"
        for key, node in target_nodes(config)
        if not is_allowed(node["_target_"])
    }
    for key, value in _values(config):
        for text in value if isinstance(value, Mapping) else [value]:
            if isinstance(text, str) and "${" in text:
                problem = "it refers to something that is not resolved"
                sentences[key] = f"{key} is {show(text)}: {problem}."
    return sentences


def _values(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """`config` and everything in it, each with its key."""
    yield key, config
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _values(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            yield from _values(value, f"{key}[{i}]")


def build(config: Config, *args: Any, **kwargs: Any) -> Any:
    """The object that a node describes, with `args` and `kwargs` beside its own arguments.

    A node of Hydra's is resolved to plain values once; those are checked, and nothing in them is
    ever resolved again. `_recursive_=False` leaves what its arguments name to the class itself,
    `_partial_=True` gives a function that takes the arguments that are left.

    Raises TargetNotAllowed, before anything is imported, where a `_target_` in it is not allowed,
    and InputError where a class refuses its arguments.
    """
    node: Any = config
    if isinstance(config, DictConfig):
        node = OmegaConf.to_container(config, resolve=True)
    if sentences := name_mistakes(node):
        raise TargetNotAllowed(*(sentence.removeprefix(".") for sentence in sentences.values()))
    words = {k: kwargs.pop(k) for k in HYDRA_WORDS if k in kwargs}
    return _construct({**node, **words}, args, kwargs, kwargs.get("optimizer"))


def _construct(
    node: Any, args: Any = (), kwargs: Config | None = None, optimizer: Any = None
) -> Any:
    """Build a node and what its arguments name; schedules within a schedule get its optimizer."""
    if isinstance(node, list | tuple):
        return [_construct(value, optimizer=optimizer) for value in node]
    if not isinstance(node, Mapping):
        return node
    if "_target_" not in node:
        return {key: _construct(value, optimizer=optimizer) for key, value in node.items()}
    target = find_class(node["_target_"])
    if kwargs is None:
        in_schedule = optimizer is not None and node["_target_"].startswith(SCHEDULERS)
        kwargs = {"optimizer": optimizer} if in_schedule else {}
    arguments = {k: v for k, v in node.items() if k not in HYDRA_WORDS}
    positional = list(node.get("_args_") or [])
    if node.get("_recursive_") is not False:
        arguments = {k: _construct(v, optimizer=optimizer) for k, v in arguments.items()}
        positional = [_construct(v, optimizer=optimizer) for v in positional]
    call = partial(target, *args, *positional, **{**arguments, **kwargs})
    if node.get("_partial_"):
        return call
    try:
        return call()
    except (InputError, RunError):
        raise
    except Exception as error:
        message = f"{node['_target_']} refuses its arguments: {first_line(error)}"
        raise InputError(message) from error


# ------------------------------------------------------------------------- arguments of classes


def check_classes(config: Config) -> None:
    """Hold every node of a checked configuration against the class that it names, imported.

    What is cheap to build is built once: optimizer and schedule on a parameter of a convolution
    and one of a bias, callbacks, the Trainer, and networks of torch and torchvision without
    memory. Raises InputError with all the mistakes: the key, and what the class says.
    """
    mistakes: list[str] = []
    targets: dict[str, Any] = {}
    for key, node in target_nodes(config):
        try:
            targets[key] = target = find_class(node["_target_"])
        except InputError as error:
            mistakes.append(f"{key}._target_: {error}")
            continue
        base = next((base for place, base in PLACES.items() if re.fullmatch(place, key)), None)
        if base and isinstance(target, type) and not issubclass(target, _imported(base)):
            mistakes.append(f"{key}._target_: {node['_target_']} is no {base}, which belongs here.")
        elif node["_target_"] not in OURS:  # the schema has judged ours
            mistakes += argument_mistakes(key, node, target)
    if mistakes:
        raise InputError(*mistakes)
    with _nothing_said():
        mistakes += _refusals(config, targets)
    if mistakes:
        raise InputError(*mistakes)


def argument_mistakes(key: str, node: Config, target: Any) -> Iterator[str]:
    """What is wrong with the arguments of a node, by the signature of its class."""
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # of a class in C
        return
    is_class = isinstance(target, type)
    try:
        hints = get_type_hints(target.__init__ if is_class else target)
    except Exception:  # a name that is imported for type checkers only
        hints = {}
    takes_any = any(p.kind is Parameter.VAR_KEYWORD for p in parameters.values())
    by_name = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
    names = [name for name, p in parameters.items() if p.kind in by_name]
    made = GIVEN_IN_CODE.get(re.sub(r"^(model\.scheduler)\W.*", r"\1", key), set()) & set(names)
    for name, value in node.items():
        path = f"{key}.{name}"
        if name in HYDRA_WORDS:
            continue
        if name in made:
            yield f"{path} cannot be given: it is made by the code, from the rest."
        elif name not in names and not takes_any:
            yield unknown(path, name, sorted(set(names) - made), f"of {node['_target_']}")
        elif wanted := _type_problem(hints.get(name), value):
            yield f"{path} is {show(value)}: {node['_target_']} takes {wanted}."
    given = {*node, *made, *names[: len(node.get("_args_") or [])]}
    for name in names if not node.get("_partial_") else ():
        if parameters[name].default is Parameter.empty and name not in given:
            yield f"{key}.{name} is missing: {node['_target_']} needs it."


def _type_problem(annotation: Any, value: Any) -> str | None:
    """What an annotation asks for, where a YAML value is not that; None where nobody can tell."""
    if annotation is None or any(True for _ in target_nodes(value)):
        return None
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError:
        return inspect.formatannotation(annotation).replace("typing.", "")
    except Exception:  # not an annotation that pydantic can judge
        return None
    return None


def _refusals(config: Config, targets: Mapping[str, Any]) -> list[str]:
    """What classes say to their arguments when they are built."""
    refused: list[str] = []

    def attempt(key: str, what: Callable[[], Any]) -> Any:
        try:
            return what()
        except Exception as error:
            refused.append(f"{key}: {first_line(error)}")

    model: Config = config.get("model") or {}
    if "model.optimizer" in targets:
        optimizer = attempt("model.optimizer", partial(_trial_optimizer, model["optimizer"]))
        if optimizer is not None and "model.scheduler" in targets:
            node = model["scheduler"]
            if "total_steps" in inspect.signature(targets["model.scheduler"]).parameters:
                node = {"total_steps": 100, **node}  # known when the run begins
            attempt("model.scheduler", partial(build, node, optimizer=optimizer))
    if "model.network" in targets:
        attempt("model.network", partial(_try_network, config))
    nodes = {key: node for key, node in (config.get("callbacks") or {}).items() if node}
    callbacks = [attempt(f"callbacks.{key}", partial(build, node)) for key, node in nodes.items()]
    if config.get("trainer") and not refused:
        given = {"callbacks": callbacks, "logger": False, "enable_model_summary": False}
        attempt("trainer", partial(build, {**given, **config["trainer"]}))
    return refused


def _try_network(config: Config) -> None:
    """Build a network without memory, and give it an image of our data, where that is known."""
    model, data = config["model"], config.get("data") or {}
    images: Any = OURS.get(str(data.get("_target_")))
    if images and data.get("normalize") and "normalize" not in model["network"]:
        raise InputError(
            f"data.normalize is true, and {model['network']['_target_']} has no argument for it. "
            f"Begin your network with simplecnn.models.simple_cnn.Normalize, its mean and its std."
        )
    for _, node in target_nodes(model["network"]):
        name = node["_target_"]
        if not name.startswith(("torch.", "torchvision.")) or node.get("weights"):
            return  # nobody knows what it does; or it downloads
        if name.startswith("torchvision."):
            if "weights_backbone" in inspect.signature(find_class(name)).parameters:
                return  # it downloads those, unless they are null
    torch = importlib.import_module("torch")
    with torch.device("meta"):
        network = build(model["network"])
        # Another module than ours may reshape the images.
        if images is None or OURS.get(str(model.get("_target_"))) is not Classifier:
            return
        size = data.get("image_size") or getattr(images, "image_size", IMAGE_SIZE)
        shape = data.get("channels") or getattr(images, "channels", 1), size, size
        try:
            network.eval()(torch.zeros(1, *shape))
        except NotImplementedError:  # without memory, nobody can tell
            return
        except Exception as error:
            text = " x ".join(map(str, shape))
            reason = first_line(error)
            raise InputError(f"it does not take these images, {text}: {reason}") from None


def _trial_optimizer(node: Config) -> Any:
    """An optimizer that has taken one step on a parameter of a convolution and one of a bias."""
    torch = importlib.import_module("torch")
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((1, 1, 1, 1), (1,))]
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = build(node, parameters)
    try:
        optimizer.step(lambda: torch.zeros(()))
    except Exception as error:
        raise InputError(f"{node['_target_']} cannot train this: {first_line(error)}") from error
    return optimizer


@contextmanager
def _nothing_said() -> Iterator[None]:
    """No warning and no log message, and torch's switches as they were: it was only a trial."""
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


def first_line(error: BaseException) -> str:
    """The gist of an exception: its first line, or its name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    gist = cut(lines[0], 300) if lines else type(error).__name__
    missing = next((name for name in ("psutil", "rich") if name in gist.lower()), None)
    if isinstance(error, ImportError) and missing:
        gist += f" The extra monitor has {missing}: type uv sync --extra monitor."
    return gist
