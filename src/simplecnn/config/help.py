"""The text of `--help`, from the comments of the YAML files."""

import re
from collections.abc import Sequence

from hydra import compose

from simplecnn.config.search_path import conf_dir, group_options, initialized


def command_help(name: str) -> str:
    """The text of `--help`: purpose and examples, config groups, and keys with their comments."""
    purpose, *blocks = _blocks(f"{name}.yaml")
    with initialized():
        config = compose(name, return_hydra_config=True)
        choices = config.hydra.runtime.choices
        hidden = re.compile("hydra|arguments|local|paths|.*@")
        # The choices lack groups that are lists, such as callbacks.
        groups = [
            g for g in sorted({*choices, *config}) if group_options(g) and not hidden.match(g)
        ]
        if name == "train":
            groups += ["hydra/launcher", "hydra/sweeper"]
        options = [f"  {group}: {', '.join(group_options(group))}" for group in groups]
    parts = [re.sub("^# ?", "", purpose, flags=re.MULTILINE)]
    if groups:
        parts.append("\n".join(["Config groups (group=option)", *options]))
    parts.append("\n".join(["Keys (key=value)", *_indented(blocks)]))
    for group in ("model", "model/optimizer", "data", "trainer") if name == "train" else ("model",):
        if choice := choices.get(group):
            prefix = f"{group.replace('/', '.')}."
            keys = _indented(_blocks(f"{group}/{choice}.yaml")[1:], prefix)
            parts.append("\n".join([f"Keys of {group}={choice}", *keys]))
    parts.append("--cfg job shows the composed configuration, --hydra-help the options of Hydra.")
    return "\n\n".join(parts)


def _blocks(file: str) -> list[str]:
    """The head of a YAML file, then the text of each key, without `defaults` and `hydra`."""
    text = (conf_dir() / file).read_text(encoding="utf-8")
    head, *keys = re.split(r"\n(?=[a-z])", re.sub("^# yaml-language-server.*\n", "", text))
    return [head, *(key for key in keys if not key.startswith(("defaults:", "hydra:")))]


def _indented(blocks: Sequence[str], prefix: str = "") -> list[str]:
    lines = (f"{prefix}{block}".split("\n") for block in blocks)
    return [f"  {line}" for block in lines for line in block if line.strip()]
