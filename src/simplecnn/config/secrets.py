"""Values of environment variables stay out of what is saved and logged. No torch.

A configuration takes a password or a token as `${oc.env:NAME}`. It stays written like that in the
configuration that a run is given, in its config.yaml, its checkpoints and in TensorBoard; only the
class that is built with it sees the value. In log files and error sentences the value is masked.
The project's own variables (SIMPLECNN_…) say where things are and are no secrets.
"""

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.resolvers import oc

OURS = "SIMPLECNN_"
LEAST_LENGTH = 6  # of a value that is masked in texts: "1" and "cpu" are no secrets
_read: dict[str, str] = {}  # what was read, and how the configuration writes it
_kept = False  # whether `${oc.env:…}` stays as it is


def plain(config: DictConfig) -> dict[str, Any]:
    """A configuration, but for `hydra`, as plain dicts and lists, all resolved but `${oc.env:…}`.

    Values at the top (a seed, a name) are used as they are, and so are resolved in any case.
    """
    with _environment_kept():
        own = OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"])
        values = OmegaConf.to_container(own, resolve=True)
    assert isinstance(values, dict)
    return {
        str(key): config[key] if isinstance(value, str) and "${oc." in value else value
        for key, value in values.items()
    }


def are_in(config: DictConfig) -> bool:
    """Whether anything in a configuration, but for `hydra`, may come from the environment."""
    own = {key: config._get_node(key) for key in config if key != "hydra"}
    return re.search(rf"oc\.env:\s*(?!{OURS})", repr(own)) is not None


def hide(text: str) -> str:
    """A text in which every value that was read from the environment is `${oc.env:…}` again."""
    for value, written in _read.items():
        text = text.replace(value, written)
    return text


class Formatter(logging.Formatter):
    """Formats a log record, traceback included, and hides what was read from the environment."""

    def format(self, record: logging.LogRecord) -> str:
        return hide(super().format(record))


def _env(*arguments: Any) -> str | None:
    """`oc.env` of OmegaConf, which notices what is read."""
    name = str(arguments[0])
    written = f"${{oc.env:{name}}}"
    is_secret = not name.startswith(OURS)
    if _kept and is_secret and (name in os.environ or len(arguments) == 1):
        return written
    value = oc.env(*arguments)
    if is_secret and len(os.environ.get(name, "")) >= LEAST_LENGTH:
        _read[os.environ[name]] = written
    return value


def _decode(expression: str | None, _parent_: Any, _node_: Any) -> Any:
    """`oc.decode` of OmegaConf, which leaves alone what stays as it is."""
    if _kept and isinstance(expression, str) and "${oc.env:" in expression:
        return f"${{oc.decode:{expression}}}"
    return oc.decode(expression, _parent_, _node_)


@contextmanager
def _environment_kept() -> Iterator[None]:
    global _kept
    _kept = True
    try:
        yield
    finally:
        _kept = False


OmegaConf.register_new_resolver("oc.env", _env, replace=True)
OmegaConf.register_new_resolver("oc.decode", _decode, replace=True)
