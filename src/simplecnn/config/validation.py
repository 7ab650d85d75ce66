"""Validate a configuration by the models of `schema`, and word the errors."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from simplecnn.config.build import name_mistakes
from simplecnn.config.schema import BUILT_IN, COMMANDS, Part, Train
from simplecnn.config.spelling import missing_key, show, unknown_key, wrong_value
from simplecnn.errors import InputError

Config = Mapping[str, Any]


def validation_errors(command: str, config: Config) -> dict[str, str]:
    """An error message for each invalid key of a command's resolved configuration."""
    model = COMMANDS[command]
    sentences: dict[str, str] = {}
    # Remove keys that are invalid by themselves, so that rules across keys check the others.
    for _ in range(3):
        try:
            across_keys = dict(_problems(model.model_validate(config)))
        except ValidationError as error:
            new = _sentences(error, config, model)
            sentences = {**new, **sentences}
            config = _without(config, set(new))
        else:
            return across_keys | sentences
    return sentences


def checked_parts(config: Config, source: str) -> dict[str, Any]:
    """The validated `model` and `data` of a run's configuration, which is untrusted.

    Raises InputError; each message begins with `source`.
    """
    parts = {key: config[key] for key in ("model", "data")}
    if sentences := {**validation_errors("parts", parts), **name_mistakes(parts)}:
        raise InputError(*(f"{source}: {sentence}" for sentence in sentences.values()))
    return parts


def _problems(part: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (key, message) for each violated rule of a part and of the parts nested in it."""
    if isinstance(part, Part):
        for sentence in part.problems():
            yield f"{prefix}{sentence.split()[0]}", f"{prefix}{sentence}"
        values = {name: getattr(part, name) for name in type(part).model_fields}
    else:
        values = part if isinstance(part, dict) else {}
    for name, value in values.items():
        yield from _problems(value, f"{prefix}{name}.")


def _sentences(error: ValidationError, config: Any, model: type[Part]) -> dict[str, str]:
    """An error message for each key that pydantic rejects."""
    sentences: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        path, value, parent = _locate(config, problem["loc"])
        fields = _fields(parent, path, model)
        last = path.rpartition(".")[2]
        cause = problem.get("ctx", {}).get("error")
        if problem["type"] == "missing":
            name = f"{path}.{problem['loc'][-1]}".lstrip(".")
            sentences[name] = missing_key(name)
        elif problem["type"] == "extra_forbidden":
            where = path.rpartition(".")[0] or "the configuration"
            of = parent.get("_target_", where) if isinstance(parent, Mapping) else where
            names = [name for name in fields if not name.startswith("_")]
            sentences[path] = unknown_key(path, last, names, f"of {of}")
        elif cause is not None:
            sentences[path] = f"{path} is {show(value)}: it must be {cause}."
        elif path not in sentences:
            field = fields.get(last)
            schema = json_schema(field) if field else {}
            sentences[path] = wrong_value(path, value, schema)
    return sentences


def accepts(command: str, config: Config, key: str, value: Any) -> bool:
    """Whether a key may have a value, by its schema; without one, by the value that it has."""
    path, old, parent = _locate(config, tuple(key.split(".")))
    old, parent = (old, parent) if path == key else (None, old)
    field = _fields(parent, key, COMMANDS.get(command, Train)).get(key.rpartition(".")[2])
    if field is None:
        return old is None or type(old) is type(value)
    try:
        TypeAdapter(field.rebuild_annotation()).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


def json_schema(field: FieldInfo) -> dict[str, Any]:
    """The JSON schema of a single key."""
    schema = TypeAdapter(field.rebuild_annotation()).json_schema()
    return {**schema, "description": field.description} if field.description else schema


def _locate(config: Any, loc: tuple[int | str, ...]) -> tuple[str, Any, Any]:
    """The key of an error location of pydantic, its value, and the mapping that contains it.

    Skips the parts of a location that are not keys: tags of a union, and indices of a list.
    """
    path, value, parent = "", config, None
    for part in loc:
        if isinstance(value, Mapping) and part in value:
            path, value, parent = f"{path}.{part}".lstrip("."), value[part], value
    return path, value, parent


def _fields(parent: Any, path: str, model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys that are allowed beside `path`."""
    if isinstance(parent, Mapping) and str(parent.get("_target_")) in BUILT_IN:
        model = BUILT_IN[parent["_target_"]]
    else:
        for part in path.split(".")[:-1]:
            field = model.model_fields.get(part)
            inner = field.annotation if field else None
            if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
                return {}
            model = inner
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _without(config: Any, keys: set[str], prefix: str = "") -> Any:
    """A copy of a configuration without the given keys, which are dotted paths."""
    if not isinstance(config, Mapping):
        return config
    return {
        name: _without(value, keys, f"{prefix}{name}.")
        for name, value in config.items()
        if f"{prefix}{name}" not in keys
    }
