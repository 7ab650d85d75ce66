"""Build the classes that a configuration names by `_target_`."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from simplecnn.config.spelling import show
from simplecnn.config.targets import TargetNotAllowed, find_class, is_allowed, not_allowed
from simplecnn.errors import reraise

SCHEDULERS = "torch.optim.lr_scheduler."
HYDRA_KEYS = ("_target_", "_args_", "_partial_", "_convert_", "_recursive_")
Config = Mapping[str, Any]


def target_nodes(config: Any) -> Iterator[tuple[str, Config]]:
    """Yield each node of `config` (plain dicts and lists) that has a `_target_`, with its key."""
    for key, value in nested_values(config):
        if isinstance(value, Mapping) and "_target_" in value:
            yield key, value


def name_mistakes(config: Any) -> dict[str, str]:
    """An error per key for targets that are not allowed and unresolved interpolations.

    Judged by the text alone: nothing is imported.
    """
    sentences = {
        f"{key}._target_": f"{key}._target_: {not_allowed(node['_target_'])}"
        for key, node in target_nodes(config)
        if not is_allowed(node["_target_"])
    }
    for key, value in nested_values(config):
        for text in value if isinstance(value, Mapping) else [value]:
            if isinstance(text, str) and "${" in text:
                sentences[key] = f"{key} is {show(text)}: this interpolation is not resolved."
    return sentences


def nested_values(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield `config` and every value nested in it, each with its key."""
    yield key, config
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from nested_values(value, f"{key}.{name}" if key else str(name))
    elif isinstance(config, list | tuple):
        for i, value in enumerate(config):
            yield from nested_values(value, f"{key}[{i}]")


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
