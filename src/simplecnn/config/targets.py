"""The classes that a configuration may name by `_target_`.

A `_target_` can name any function of any package, and importing a module executes it. A name that
`is_allowed` does not accept is therefore rejected before it is imported.
"""

import importlib
import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd

from simplecnn.config.spelling import did_you_mean, show
from simplecnn.errors import InputError, first_line, own_line, relative_path

SOURCE = Path(__file__).resolve().parents[2]  # the folder that contains the package
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
OTHER_LIGHTNING = " Import from pytorch_lightning instead of lightning."


class TargetNotAllowed(InputError):
    """A configuration names a class or function that is not allowed."""


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
        or (module.startswith("simplecnn.") and _module_file(module, SOURCE) is not None)
        or _is_trusted(target)
        or local_file(module) is not None
    )


def find_class(target: Any, base: str = "torch.nn.Module") -> Any:
    """Import an allowed class, or the builder function of a torchvision model.

    Raises TargetNotAllowed, before anything is imported, if the name is not allowed, and
    InputError if the import fails. `base` is the base class that an error message names.
    """
    if not is_allowed(target):
        raise TargetNotAllowed(not_allowed(target))
    module_name, _, name = target.rpartition(".")
    module = _imported_module(module_name, target)
    if module_name == "torchvision.models":
        if name.lower() not in (names := module.list_models()):
            near = did_you_mean(name, names)
            raise InputError(f"{target} cannot be imported: there is no such model.{near}")
        return module.get_model_builder(name)
    if not hasattr(module, name):
        near = did_you_mean(name, dir(module))
        raise InputError(f"{module_name} has no {name}.{near}")
    target_class = getattr(module, name)
    if target in _trusted_targets() or _is_buildable(target_class, module_name):
        return target_class
    message = not_allowed(target)
    if local_file(module_name) is not None:
        if not isinstance(target_class, type):
            message = f"{target} is not a class."
        elif not issubclass(target_class, imported(base)):
            message = f"{target} is not a subclass of {base}.{other_lightning(target_class)}"
    raise TargetNotAllowed(message)


def _imported_module(name: str, target: str) -> Any:
    """Import the module of a target. Raises InputError if that fails."""
    if local_file(name) and str(working_dir()) not in sys.path:
        sys.path.append(str(working_dir()))
    try:
        return importlib.import_module(name)
    except Exception as error:
        more = ""
        if getattr(error, "name", None) == "lightning":
            more = OTHER_LIGHTNING
        elif isinstance(error, ModuleNotFoundError):
            more = f" Looked in {working_dir()} and in the installed packages."
        reason = f"{first_line(error)}{own_line(error)}"
        raise InputError(f"{target} cannot be imported: {reason}.{more}") from error


def other_lightning(target_class: type) -> str:
    """The advice for a class of the package `lightning`, whose classes are not interchangeable."""
    is_other = any(base.__module__.startswith("lightning.") for base in target_class.__mro__)
    return OTHER_LIGHTNING if is_other else ""


def _is_buildable(target_class: Any, module_name: str) -> bool:
    """Whether this is a class that a configuration may build, imported from `module_name`."""
    if not isinstance(target_class, type):
        return False
    if module_name in PACKAGES:
        return issubclass(target_class, imported(PACKAGES[module_name]))
    if module_name == "pytorch_lightning" or _is_trusted(module_name):
        return True
    bases = [imported(b) for b in {*BASE_CLASSES.values()}]
    bases.append(imported("simplecnn.data.augmentation.RandomAffine"))
    module = target_class.__module__
    is_known = module.startswith("simplecnn.") or local_file(module) is not None
    return is_known and issubclass(target_class, tuple(bases))


def imported(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _trusted_targets() -> set[str]:
    return {t.strip() for t in os.environ.get(TARGETS_VARIABLE, "").split(",") if t.strip()}


def _is_trusted(name: str) -> bool:
    return any(f"{name}.".startswith(f"{trusted}.") for trusted in _trusted_targets())


def working_dir() -> Path:
    """The directory from which the command was started, even if the job has changed it."""
    changed = HydraConfig.initialized() and HydraConfig.get().job.chdir
    return Path(get_original_cwd()) if changed else Path.cwd()


def _module_file(module: str, root: Path) -> Path | None:
    """The file of a module below `root`, unless a link leads out of it."""
    if not module:
        return None
    path = root.joinpath(*module.split("."))
    files = (path.parent / f"{path.name}.py", path / "__init__.py")
    file = next((file for file in files if file.is_file()), None)
    return file if file and file.resolve().is_relative_to(root.resolve()) else None


def local_file(module: str) -> Path | None:
    """The file of a module below the working directory, or None.

    None for files in a virtual environment or in the directory of a run or a sweep, whose content
    is untrusted, and if an installed package of the same name would be imported instead.
    """
    root = working_dir()
    file = _module_file(module, root)
    if file is None or _is_untrusted(file):
        return None
    top = module.split(".")[0]
    loaded = sys.modules.get(top)
    spec = loaded.__spec__ if loaded else find_spec(top)
    origins = [spec.origin, *(spec.submodule_search_locations or [])] if spec else [str(root)]
    is_local = any(p and Path(p).resolve().is_relative_to(root.resolve()) for p in origins)
    return file if is_local else None


def _is_untrusted(file: Path) -> bool:
    """Whether a file is in a virtual environment, or in the directory of a run or a sweep."""
    root = working_dir()
    parents = (*file.parents, *file.resolve().parents)  # as named, and where links lead
    folders = {folder for folder in parents if folder.is_relative_to(root)}
    return any(
        folder.name in ("site-packages", "dist-packages")
        or any((folder / marker).exists() for marker in ("run.json", "sweep.json", "pyvenv.cfg"))
        for folder in folders
    )


def not_allowed(target: Any) -> str:
    if ".Lambda" in str(target):
        return (
            f"{show(target)} takes functions, which a configuration cannot contain: write a "
            f"subclass."
        )
    root, (module, _, name) = working_dir(), str(target).rpartition(".")
    if module == "simplecnn" and (public := imported("simplecnn.MODULES").get(name)):
        return f"{show(target)} is a name for imports in Python: type {public}.{name}"
    if isinstance(target, str) and not module:
        return (
            f"{show(target)} is not a full name: type its module too, as in torch.optim.SGD, "
            f"pytorch_lightning.callbacks.Timer, or nets.Residual for a class in nets.py."
        )
    full = re.sub(r"^lightning(\.pytorch)?\.", "pytorch_lightning.", str(target))
    for package in [*sorted(PACKAGES, reverse=True), "pytorch_lightning"]:
        if full.startswith(f"{package}.") and name[:1].isupper() and module != package:
            if is_allowed(f"{package}.{name}"):
                return (
                    f"{show(target)} is not a name that a configuration may use: type "
                    f"{package}.{name}"
                )
    file = _module_file(module, root)
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
        f"in a file below {working_dir()}. If you trust it, allow it: {TARGETS_VARIABLE}={target}"
    )
