"""Write the JSON schemas with which editors complete and validate the YAML files of conf/.

    uv run scripts/schema.py

The schemas are generated from the models in src/simplecnn/config/schema.py. Each YAML file names
its schema in its first line, `# yaml-language-server: $schema=…`, for VS Code and JetBrains.
"""

import json
import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from simplecnn.config import schema
from simplecnn.config.validation import json_schema

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "schemas"
INTERPOLATION = {"type": "string", "pattern": r"\$\{|^\?\?\?$"}
GLOBAL = ("experiment", "debug", "hparams_search")  # files with `# @package _global_`
GROUPS: dict[str, Any] = {
    "model": schema.Train.model_fields["model"],
    "model/optimizer": schema.Classifier.model_fields["optimizer"],
    "model/scheduler": schema.Classifier,  # files with `# @package model`
    "data": schema.Train.model_fields["data"],
    "data/augmentation": schema.MNIST.model_fields["augmentation"],
    "trainer": schema.Trainer,
    "callbacks": schema.Train.model_fields["callbacks"],
    "logger": schema.Train.model_fields["logger"],
    "paths": schema.Paths,
}


def schema_name(path: Path) -> str | None:
    """The name of the schema for a file of conf/; None for Hydra's own configuration."""
    group = path.relative_to(ROOT / "conf").parent.as_posix()
    if group == ".":
        return path.stem
    if "# @package _global_" in path.read_text(encoding="utf-8"):
        return "train"
    return group.replace("/", "_") if group in GROUPS else None


def header(path: Path) -> str | None:
    """The comment in which a file of conf/ names its schema, or None."""
    name = schema_name(path)
    target = os.path.relpath(FOLDER / f"{name}.json", path.parent)
    return f"# yaml-language-server: $schema={Path(target).as_posix()}" if name else None


def schemas() -> dict[str, dict[str, Any]]:
    """All schemas by name."""
    models: dict[str, Any] = {k: m for k, m in schema.COMMANDS.items() if k != "parts"}
    named = {name: _for_files(TypeAdapter(model).json_schema()) for name, model in models.items()}
    for group, model in GROUPS.items():
        is_field = not isinstance(model, type)
        content = json_schema(model) if is_field else TypeAdapter(model).json_schema()
        named[group.replace("/", "_")] = _for_files(content)
    return named


def _for_files(complete: dict[str, Any]) -> dict[str, Any]:
    """Adapt a schema to a file, which may set a subset of the keys and use interpolations."""
    parts = complete.pop("$defs", {})
    parts["_file_"] = complete
    for part in parts.values():
        part.pop("required", None)
        if part.get("title") == "Other":
            part["required"] = ["_target_"]
            part["properties"]["_target_"]["not"] = {"enum": sorted(schema.BUILT_IN)}
        for name, value in part.get("properties", {}).items():
            if name != "_target_":
                shown = {k: value.pop(k) for k in ("description", "default") if k in value}
                part["properties"][name] = {**shown, "anyOf": [value, INTERPOLATION]}
    file = parts.pop("_file_")
    defaults = {"type": "array", "description": "files that this one builds on"}
    for part in (file, *parts.values()):
        if "properties" in part:
            part["properties"] |= {"defaults": defaults, "hydra": {"type": "object"}}
        for entries in part.get("anyOf", ()):  # callbacks and loggers by name
            if "additionalProperties" in entries:
                entries["properties"] = {"defaults": defaults}
    # A file that sets few keys may match several classes, which oneOf would reject.
    text = json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", **file,
                       "$defs": parts}).replace('"oneOf"', '"anyOf"')  # fmt: skip
    final: dict[str, Any] = json.loads(text)
    return final


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, content in schemas().items():
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        (FOLDER / f"{name}.json").write_text(text, encoding="utf-8")
        print(f"schemas/{name}.json")
