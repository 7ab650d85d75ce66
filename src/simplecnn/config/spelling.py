"""Sentences about keys and values: what was given, what is allowed, what was probably meant."""

import difflib
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

MAX_NAMES = 20  # in a sentence


def unknown(key: str, name: Any, names: Sequence[Any], where: str) -> str:
    """The sentence for a key that does not exist: the nearest spelling, or all there are."""
    spelled = [str(n) for n in names]
    if hint := did_you_mean(str(name), spelled):
        return f"{key} is not a key {where}.{hint}"
    more = f" and {len(spelled) - MAX_NAMES} more" if len(spelled) > MAX_NAMES else ""
    return f"{key} is not a key {where}. There are: {', '.join(spelled[:MAX_NAMES])}{more}."


def did_you_mean(given: str, names: Collection[str], cutoff: float = 0.6) -> str:
    """The question whether the nearest of `names` was meant, or nothing where none is near."""
    same = [name for name in names if name.lower() == given.lower()]
    fuller = [name for name in names if name in (f"max_{given}", f"num_{given}")]  # epochs
    near = same or fuller or difflib.get_close_matches(given, names, 3, cutoff)
    if not near:
        return ""
    swapped = (name for name in near if sorted(name) == sorted(given))  # modle: model, not mode
    return f" Did you mean {next(swapped, near[0])}?"


def meant(name: str, config: Mapping[Any, Any], groups: Collection[str]) -> str | None:
    """The key or group of a configuration that a short name stands for: lr, epochs, optimizer."""
    keys = [*groups, *dotted(config)]
    last = {key: key.replace("/", ".").rpartition(".")[2] for key in keys}
    for fits in (name, f"max_{name}", f"num_{name}", name.rstrip("s")):
        if matches := [key for key in keys if last[key] == fits and key != name]:
            return matches[0]
    return None


def dotted(config: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Every key of nested dicts, inner ones by their whole path."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{key}.")


def show(value: Any) -> str:
    """A value as one would type it, cut where it is long."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return cut(repr(value), 80)


def cut(text: str, length: int = 100) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def in_quotes(text: str) -> str:
    """A word of a command line as one would type it in a shell."""
    if shlex.quote(text) == text:
        return text
    return shlex.quote(text) if set(text) & set('"$`\\!') else f'"{text}"'


def word(key: str, value: object) -> str:
    """key=value as Hydra reads it, in quotes where the value needs them."""
    text = str(value)
    if re.fullmatch(r"[\w./-]+", text, re.ASCII):
        return f"{key}={text}"
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"{key}='{escaped}'"
