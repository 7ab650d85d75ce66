"""Wording of error messages: the nearest spelling of a key, and how values are quoted."""

import difflib
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

MAX_NAMES = 20  # in one message


def unknown_key(key: str, name: Any, names: Sequence[Any], where: str) -> str:
    """The message for an unknown key, with the nearest of `names`, or else all of them."""
    keys = [str(n) for n in names]
    if hint := did_you_mean(str(name), keys):
        return f"{key} is not a key {where}.{hint}"
    if not keys:
        return f"{key} is not a key {where}, which has none."
    more = f" and {len(keys) - MAX_NAMES} more" if len(keys) > MAX_NAMES else ""
    return f"{key} is not a key {where}. Available: {', '.join(keys[:MAX_NAMES])}{more}."


def missing_key(key: str) -> str:
    """The message for a required key without a value."""
    if key in ("run", "sweep"):
        return f"{key} is missing: type {key}=last, or {key}=<directory>"
    return f"{key} is missing: type {key}=…"


def did_you_mean(given: str, names: Collection[str], cutoff: float = 0.6) -> str:
    """` Did you mean …?` with the nearest of `names`, or an empty string if none is near."""
    same = [name for name in names if name.lower() == given.lower()]
    prefixed = [name for name in names if name in (f"max_{given}", f"num_{given}")]  # epochs
    near = same or prefixed or difflib.get_close_matches(given, names, 3, cutoff)
    if not near:
        return ""
    swapped = (name for name in near if sorted(name) == sorted(given))  # modle: model, not mode
    return f" Did you mean {next(swapped, near[0])}?"


def find_full_key(name: str, config: Mapping[Any, Any], groups: Collection[str]) -> str | None:
    """The full key or group that a short name (lr, epochs, optimizer) abbreviates, or None."""
    keys = [*groups, *dotted(config)]
    last = {key: key.replace("/", ".").rpartition(".")[2] for key in keys}
    for candidate in (name, f"max_{name}", f"num_{name}", name.rstrip("s")):
        if matches := [key for key in keys if last[key] == candidate and key != name]:
            return matches[0]
    return None


def dotted(config: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Yield every key of nested dicts as a dotted path."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")


def show(value: Any) -> str:
    """A value as typed on the command line, truncated if it is long."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return truncate(repr(value), 80)


def truncate(text: str, length: int = 100) -> str:
    """Truncate `text` to `length` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def shell_quote(text: str) -> str:
    """Quote a command-line argument for the shell, in double quotes where that is enough."""
    if shlex.quote(text) == text:
        return text
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def format_override(key: str, value: object) -> str:
    """An override `key=value`, quoted for Hydra's grammar if the value needs it."""
    text = str(value)
    if re.fullmatch(r"[\w./-]+", text, re.ASCII):
        return f"{key}={text}"
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"{key}='{escaped}'"
