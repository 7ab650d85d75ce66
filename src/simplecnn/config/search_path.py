"""Hydra's search path: conf/ and the folder of `--config-dir`, and the config groups in them."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

config_names: dict[str, str] = {}  # command: its --config-name


def conf_dir() -> Path:
    """The directory of the YAML files: beside `src` in a checkout, in the package if installed."""
    here = Path(__file__).resolve().parents[1]
    for folder in (here / "conf", here.parents[1] / "conf"):
        if (folder / "train.yaml").is_file():
            return folder
    raise FileNotFoundError(f"No conf/train.yaml in {here} or {here.parents[1]}.")


class ConfigDirPlugin(SearchPathPlugin):
    """Adds the folder of `--config-dir` to the search path of compositions outside `hydra.main`."""

    path: str | None = None

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if self.path is not None:
            search_path.append("command-line", f"file://{self.path}")


def initialized() -> AbstractContextManager[Any]:
    """Initialize Hydra for `compose`, unless it is already initialized, as in a job."""
    if GlobalHydra.instance().is_initialized():
        return nullcontext()
    return initialize_config_dir(str(conf_dir()), version_base="1.3")


def loader() -> ConfigLoader:
    return GlobalHydra.instance().config_loader()


def override_text(override: Override) -> str:
    """An override as it was typed."""
    return str(override.input_line)


def group_options(group: str, overrides: Sequence[Override] = ()) -> list[str]:
    """The options of a config group, those that an override of hydra.searchpath adds included."""
    if not group or group.startswith("hydra.") or "." in group:
        return []
    searchpath = [override_text(o) for o in overrides if o.key_or_group == "hydra.searchpath"]
    if searchpath:
        name = config_names.get("train", "train")
        return sorted(loader().get_group_options(group, config_name=name, overrides=searchpath))
    # get_group_options would copy all sources, which takes 5 ms for each override
    sources = [source for source in loader().get_sources() if source.is_group(group)]
    return sorted({option for s in sources for option in s.list(group, ObjectType.CONFIG)})


Plugins.instance().register(ConfigDirPlugin)
# conf/trainer/auto.yaml includes this, so that other arguments of the Trainer need no plus.
ConfigStore.instance().store(
    group="arguments", name="any", node=OmegaConf.create({}, flags={"struct": False})
)
