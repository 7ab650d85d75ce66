"""Wording of error messages: nearest spellings, allowed values, quoted values."""

import difflib
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

MAX_NAMES = 20  # in one message
SYNONYMS = {"learningrate": "lr", "gpu": "device", "cuda": "gpu"}  # without underscores and plural
LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def unknown_key(key: str, name: Any, names: Sequence[Any], where: str) -> str:
    """The message for an unknown key, with the nearest of `names`, or else all of them."""
    keys = [str(n) for n in names]
    if hint := did_you_mean(str(name), keys):
        return f"{key} is not a key {where}.{hint}"
    if not keys:
        return f"{key} is not a key {where}, which has none."
    more = f" and {len(keys) - MAX_NAMES} more" if len(keys) > MAX_NAMES else ""
    return f"{key} is not a key {where}. Available: {', '.join(keys[:MAX_NAMES])}{more}."


def wrong_value(key: str, value: Any, schema: Mapping[str, Any]) -> str:
    """The message for a value that the JSON schema of its key does not allow."""
    allowed, hint = describe(schema), ""
    if isinstance(value, str):
        options = (option.get("enum", ()) for option in (schema, *schema.get("anyOf", ())))
        hint = did_you_mean(value, [n for names in options for n in names if isinstance(n, str)])
    elif type(value) in (int, float) and allowed.startswith("a string"):
        hint = f" Type {shell_quote(format_override(key, value))}"
    return f"{key} is {show(value)}: it must be {allowed}.{hint}"


def missing_key(key: str) -> str:
    """The message for a required key without a value."""
    if key in ("run", "sweep"):
        return f"{key} is missing: type {key}=last, or {key}=<directory>"
    return f"{key} is missing: type {key}=…"


def did_you_mean(given: str, names: Collection[str]) -> str:
    """` Did you mean …?` with the nearest of `names`, or an empty string if none is near."""
    near = _same(given, names) or difflib.get_close_matches(given, names)
    near = near or [name for name in names if len(name) > 3 and given.startswith(name)]
    if not near:
        return ""
    swapped = (name for name in near if sorted(name) == sorted(given))  # modle: model, not mode
    return f" Did you mean {next(swapped, near[0])}?"


def describe(schema: Mapping[str, Any]) -> str:
    """The values that a JSON schema allows, in words."""
    match schema:
        case {"anyOf": options} | {"oneOf": options}:
            return ", or ".join(dict.fromkeys(map(describe, options)))
        case {"enum": values}:
            return " or ".join([", ".join(map(str, values[:-1])), str(values[-1])])
        case {"const": value}:
            return str(value).lower() if isinstance(value, bool) else str(value)
        case {"type": "integer" | "number" as kind}:
            text = "an integer" if kind == "integer" else "a number"
            if {"minimum", "maximum"} <= schema.keys():
                return f"{text} from {schema['minimum']} to {schema['maximum']}"
            limits = [f"{sign} {schema[name]}" for name, sign in LIMITS.items() if name in schema]
            return f"{text} {' and '.join(limits)}".rstrip()
        case {"prefixItems": items}:
            return f"a list of {len(items)}: {'; '.join(map(describe, items))}"
        case {"type": "array", "items": items}:
            return f"a list, each item {describe(items)}"
        case {"type": kind}:
            names = {"boolean": "true or false", "string": "a string", "null": "null"}
            return names.get(kind, "a mapping")
    return "a class to build, with a _target_ and its arguments"


def find_full_key(
    name: str, config: Mapping[Any, Any], groups: Collection[str], cutoff: float = 1.0
) -> str | None:
    """The full key or group that a name (lr, epochs, optimizer.lr) abbreviates, or None."""
    depth = name.count(".") + 1
    paths = {key: key.replace("/", ".").split(".") for key in [*groups, *dotted(config)]}
    if _same(name, [key for key in config if key != name]):
        return None  # seeds: seed, and not data.seed
    ends = {key: ".".join(path[-depth:]) for key, path in paths.items() if len(path) > depth}
    found = _same(name, ends.values()) or difflib.get_close_matches(name, ends.values(), 1, cutoff)
    return next((key for key, end in ends.items() if end in found[:1]), None)


def _same(name: str, names: Collection[str]) -> list[str]:
    """Those of `names` that a name is a form of, or a synonym."""
    plain = _plain(name)
    forms = (plain, f"max{plain}", f"num{plain}", SYNONYMS.get(plain, plain))
    return [other for form in forms for other in names if _plain(other) == form]


def _plain(name: str) -> str:
    """A name without what is easily mistaken: capitals, underscores, the s of a plural."""
    return re.sub(r"[_-]|s?(?=\.|$)", "", name.lower())


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
    # Without quotes, Hydra would read a number, or another word that YAML reserves.
    is_other = re.fullmatch(r"[\d.e_+-]*\d[\d.e_+-]*|[+-]?(inf|nan)|null|true|false", text, re.I)
    if re.fullmatch(r"[\w./-]+", text, re.ASCII) and not is_other:
        return f"{key}={text}"
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", text)
    escaped = re.sub(r"(\\+)$", r"\1\1", escaped)
    return f"{key}='{escaped}'"
