"""Which classes a configuration may name (`_target_`), what they accept, and how they are built.

A configuration can come from someone else, and `_target_` can name any function of any package.
So only names on a list in this file are built. Signatures are read from the source text, without
importing it: a misspelt argument is reported before torch has been loaded.
"""

import ast
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any

from simplecnn.errors import InputError, RunError

EXTRA_TARGETS = "SIMPLECNN_TARGETS"  # environment variable: further names, comma-separated


def _names(module: str, *names: str) -> frozenset[str]:
    return frozenset(f"{module}.{name}" for name in names)


ALLOWED: frozenset[str] = (
    _names("simplecnn", "network.SimpleCNN", "classifier.Classifier")
    | _names("simplecnn.mnist", "MNISTDataModule", "MNIST5kDataModule")
    | _names("simplecnn.callbacks.checkpoint", "BestCheckpoint", "LastCheckpoint")
    | _names("simplecnn.callbacks.confusion", "Confusion")
    | _names("simplecnn.callbacks.curves", "Curves")
    | _names("simplecnn.callbacks.feature_maps", "FeatureMaps")
    | _names("simplecnn.callbacks.film", "Film")
    | _names("simplecnn.callbacks.filters", "Filters")
    | _names("simplecnn.callbacks.health", "Health")
    | _names("simplecnn.callbacks.mistakes", "Mistakes")
    | _names("simplecnn.callbacks.progress", "EpochLines", "ProgressBar")
    | _names("simplecnn.callbacks.pruning", "Pruning")
    | _names("simplecnn.loggers", "TensorBoard", "MetricsCSV")
    | _names("pytorch_lightning", "Trainer")
    | _names(
        "pytorch_lightning.callbacks",
        *("EarlyStopping", "GradientAccumulationScheduler", "LearningRateMonitor"),
        *("ModelCheckpoint", "ModelSummary", "RichModelSummary", "RichProgressBar"),
        *("StochasticWeightAveraging", "Timer", "TQDMProgressBar", "WeightAveraging"),
        *("DeviceStatsMonitor", "EMAWeightAveraging"),
    )
    | _names("pytorch_lightning.loggers", "CSVLogger", "TensorBoardLogger")
    | _names("pytorch_lightning.profilers", "AdvancedProfiler", "PyTorchProfiler", "SimpleProfiler")
    | _names("pytorch_lightning.strategies", "DDPStrategy", "SingleDeviceStrategy")
    | _names(
        "torch.optim",
        *("ASGD", "Adadelta", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam"),
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
    positional: list[Any]
    partial: bool


def target_nodes(config: Any, key: str = "") -> Iterator[TargetNode]:
    """Every node below `config` (plain dicts and lists) that has a `_target_`."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield TargetNode(
                key=key,
                target=config["_target_"],
                arguments={k: v for k, v in config.items() if k not in INSTANTIATE_KEYS},
                positional=list(config.get("_args_") or []),
                partial=bool(config.get("_partial_", False)),
            )
        for name, value in config.items():
            yield from target_nodes(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            yield from target_nodes(value, f"{key}[{i}]")


INSTANTIATE_KEYS = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")


class TargetNotAllowed(InputError):
    """A configuration names a class that is not on the list."""


def build(config: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
    """The object a configuration node describes, by `hydra.utils.instantiate`.

    Raises TargetNotAllowed, before anything is imported, where a `_target_` in it is not on the
    list, and InputError where a class refuses its arguments.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    for node in target_nodes(config):
        if node.target not in allowed():
            raise TargetNotAllowed(f"{node.key or '_target_'}: {not_allowed(node.target)}")
    try:
        return instantiate(dict(config), *args, **kwargs)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, InputError | RunError):
            raise cause from None
        reason = str(cause).strip().splitlines()[0] if str(cause).strip() else repr(cause)
        raise InputError(f"{config['_target_']} refuses its arguments: {reason}") from cause


def not_allowed(target: Any) -> str:
    return (
        f"{target!r} is not on the list of classes that a configuration may build. "
        f"If you trust it, allow it: {EXTRA_TARGETS}={target}"
    )


@cache
def signature(target: str) -> Signature | None:
    """The call signature of a dotted name as its source text states it; annotations are strings.

    None where the source cannot be found or the class leaves its arguments open.
    """
    found = _definition(target)
    if found is None:
        return None
    module, node = found
    if isinstance(node, ast.ClassDef):
        return _class_signature(module, node)
    return _function_signature(node, skip_first=False)


def accepts(annotation: Any, value: Any) -> bool:
    """Whether a YAML value can be what an annotation (source text) asks for.

    True where the annotation names something this function cannot judge.
    """
    if annotation is Parameter.empty:
        return True
    return _accepts(ast.parse(annotation, mode="eval").body, value)


_NOT_YAML = {"Tensor", "Module", "Callable", "timedelta"}
_LISTS = {"Sequence", "Iterable", "Collection", "list", "List", "tuple", "Tuple"}
_DICTS = {"Mapping", "dict", "Dict"}


def _accepts(annotation: ast.expr, value: Any) -> bool:
    if isinstance(value, Mapping) and "_target_" in value:
        return True  # an object, known only when it is built
    match annotation:
        case ast.Constant(value=None):
            return value is None
        case ast.Constant(value=str() as text):
            return _accepts(ast.parse(text, mode="eval").body, value)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _accepts(left, value) or _accepts(right, value)
        case ast.Subscript(value=outer, slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            name = _last_name(outer)
            if name == "Literal":
                return any(isinstance(p, ast.Constant) and p.value == value for p in parts)
            if name == "Optional":
                return value is None or _accepts(parts[0], value)
            if name == "Union":
                return any(_accepts(part, value) for part in parts)
            if name in {"tuple", "Tuple"} and Ellipsis not in [
                p.value for p in parts if isinstance(p, ast.Constant)
            ]:
                return (
                    isinstance(value, list | tuple)
                    and len(value) == len(parts)
                    and all(_accepts(p, v) for p, v in zip(parts, value, strict=True))
                )
            if name in _LISTS:
                return isinstance(value, list | tuple) and all(_accepts(parts[0], v) for v in value)
            return name not in _DICTS or isinstance(value, Mapping)
        case _:
            return _accepts_name(_last_name(annotation), value)


def _accepts_name(name: str, value: Any) -> bool:
    if name == "bool":
        return isinstance(value, bool)
    if name == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if name == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if name in {"str", "Path"}:
        return isinstance(value, str)
    if name in _LISTS:
        return isinstance(value, list | tuple)
    if name in _DICTS:
        return isinstance(value, Mapping)
    return name not in _NOT_YAML


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


@dataclass(frozen=True)
class _Module:
    """A module as text: its dotted name, its file, and whether it is a package."""

    name: str
    path: Path

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    def child(self, name: str) -> "_Module | None":
        if not self.is_package:
            return None
        for path in (self.path.parent / name / "__init__.py", self.path.parent / f"{name}.py"):
            if path.is_file():
                return _Module(f"{self.name}.{name}", path)
        return None


_Found = tuple[_Module, ast.ClassDef | ast.FunctionDef]


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def _module(dotted: str) -> _Module | None:
    first, *rest = dotted.split(".")
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    module: _Module | None = _Module(first, Path(spec.origin))
    for name in rest:
        module = module.child(name) if module else None
    return module


def _definition(dotted: str) -> _Found | None:
    parts = dotted.split(".")
    for cut in range(len(parts) - 1, 0, -1):
        module = _module(".".join(parts[:cut]))
        if module is not None:
            return _find(module, parts[cut], frozenset()) if cut == len(parts) - 1 else None
    return None


def _find(module: _Module, name: str, seen: frozenset[str]) -> _Found | None:
    """Where `name`, as seen in `module`, is defined: there, or behind its imports."""
    if module.name in seen:
        return None
    seen = seen | {module.name}
    stars = []
    for node in _statements(_tree(module.path)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    source = _module(_absolute(module, node))
                    found = _find(source, alias.name, seen - {source.name}) if source else None
                    if found:
                        return found
                if alias.name == "*":
                    stars.append(_absolute(module, node))
    for star in stars:
        source = _module(star)
        found = _find(source, name, seen) if source else None
        if found:
            return found
    return None


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """Top-level statements, also those under `if` and `try`."""
    stack = list(reversed(tree.body))
    while stack:
        node = stack.pop()
        yield node
        if isinstance(node, ast.If | ast.Try):
            stack.extend(reversed(node.body + node.orelse))


def _absolute(module: _Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    package = module.name.split(".")
    up = node.level - 1 if module.is_package else node.level
    base = package[: len(package) - up]
    return ".".join([*base, node.module] if node.module else base)


def _class_signature(module: _Module, node: ast.ClassDef, depth: int = 0) -> Signature | None:
    for statement in reversed(node.body):
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _function_signature(statement, skip_first=True)
    for base in node.bases:
        if not isinstance(base, ast.Name) or depth == 10:
            return None
        found = _find(module, base.id, frozenset())
        if not found or not isinstance(found[1], ast.ClassDef):
            return None
        inherited = _class_signature(found[0], found[1], depth + 1)
        if inherited is None or inherited.parameters:
            return inherited
    return Signature([])


def _function_signature(node: ast.FunctionDef, *, skip_first: bool) -> Signature:
    def parameter(argument: ast.arg, kind: Any, default: ast.expr | None) -> Parameter:
        annotation = ast.unparse(argument.annotation) if argument.annotation else Parameter.empty
        value = Parameter.empty if default is None else ast.unparse(default)
        return Parameter(argument.arg, kind, default=value, annotation=annotation)

    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args]
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    parameters = [
        parameter(a, Parameter.POSITIONAL_OR_KEYWORD, d)
        for a, d in zip(positional, defaults, strict=True)
    ][1 if skip_first else 0 :]
    if arguments.vararg:
        parameters.append(parameter(arguments.vararg, Parameter.VAR_POSITIONAL, None))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        parameters.append(parameter(argument, Parameter.KEYWORD_ONLY, default))
    if arguments.kwarg:
        parameters.append(parameter(arguments.kwarg, Parameter.VAR_KEYWORD, None))
    return Signature(parameters)
