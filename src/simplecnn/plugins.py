"""Which plugins of Hydra a configuration may use, and which of them must be installed. No torch.

Hydra builds everything below `hydra.launcher`, `hydra.sweeper` and `hydra.callbacks` itself, before
a job begins: what may stand there is on a list, as is what a run is made of (`targets`).
"""

import importlib.util
from collections.abc import Iterator, Sequence

from omegaconf import DictConfig, OmegaConf

from simplecnn.targets import allowed, not_allowed, target_nodes

PLUGINS = frozenset(
    {
        "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        "hydra_plugins.simplecnn_joblib.JoblibLauncher",
        "hydra_plugins.simplecnn_optuna.OptunaSweeper",
        "simplecnn.before_sweep.BeforeSweep",
    }
)
OPTUNA = "hydra_plugins.simplecnn_optuna.OptunaSweeper"
# A launcher, the module it needs, and the extra that installs it.
LAUNCHERS = {
    "hydra/launcher=ray": ("hydra_plugins.hydra_ray_launcher", "ray"),
    "hydra/launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "hydra/launcher=submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
}


def missing_launchers(words: Sequence[str]) -> list[str]:
    """A sentence for each launcher that a command line names and that is not installed."""
    return [
        _not_installed(word, LAUNCHERS[word][1])
        for word in words
        if word in LAUNCHERS and not _is_installed(LAUNCHERS[word][0])
    ]


def mistakes(config: DictConfig) -> Iterator[str]:
    """A sentence for each class below `hydra` that is not on the list, or lacks its package."""
    for part in ("launcher", "sweeper", "callbacks"):
        node = OmegaConf.select(config, f"hydra.{part}")
        plain = OmegaConf.to_container(node, resolve=False) if node is not None else None
        for found in target_nodes(plain, f"hydra.{part}"):
            if found.target not in PLUGINS | allowed():
                yield f"{found.key}._target_: {not_allowed(found.target)}."
            elif found.target == OPTUNA and not _is_installed("optuna"):
                yield _not_installed("hydra/sweeper=optuna", "optuna")


def _not_installed(choice: str, extra: str) -> str:
    return (
        f"{choice} needs what a plain installation leaves out. Type uv sync --extra {extra}, "
        f"or pip install 'simplecnn[{extra}]'."
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False
