"""The resolvers of conf/: `run_dir`, `output_subdir`, `mode_of` a metric, a restricted `oc.env`."""

import re
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.resolvers import oc

from simplecnn.directories import latest

READABLE = ("HOME", "USER", "LOGNAME", "HOSTNAME", "TMPDIR", "SCRATCH", "SLURM_JOB_ID",
            "SLURM_ARRAY_TASK_ID", "CUDA_VISIBLE_DEVICES")  # fmt: skip
MIN = {"nll", "mse", "mae", "rmse", "perplexity", "ppl", "err", "cost", "distance"}
MAX_NAME = 64  # characters of the overrides in the name of a run directory
requeued_run: dict[str, str] = {}  # "run": the directory that a requeued job resumes


def _run_dir(default: str, *, _root_: Any) -> str:
    """A new directory, named after the overrides, or the directory of a resumed run."""
    if _root_.get("resume") is not None:
        return latest(str(_root_.resume))
    overrides: Any = OmegaConf.to_container(_root_.hydra.overrides.task, resolve=False)
    return requeued_run.get("run", default + _override_suffix(overrides))


def _override_suffix(overrides: Sequence[str]) -> str:
    """The suffix of a run directory that names the overrides: `_lr-0.01_seed-3`."""
    name = ""
    last = {text.partition("=")[0].lstrip("+~"): text for text in overrides}  # it takes effect
    for text in last.values():
        key, _, value = text.partition("=")
        if not key.lstrip("+~").startswith(("hydra", "experiment", "name", "paths", "ckpt_path")):
            short = re.split("[./@+~]", key.removesuffix("._target_"))[-1]
            value = re.sub(r"[^,[]*/", "", value.rstrip("/"))  # of a path, the last part
            pair = f"no-{short}" if text.startswith("~") else f"{short}-{value.replace(',', '-')}"
            pair = "_" + re.sub(r"[^\w.+-]", "", pair, flags=re.ASCII)
            if len(name + pair) > MAX_NAME:
                return name or pair[:MAX_NAME]
            name += pair
    return name


def _output_subdir(default: str, *, _root_: Any) -> str | None:
    """Hydra's output subdirectory; None for a resumed run, which keeps its files."""
    return default if _root_.get("resume") is None and "run" not in requeued_run else None


def mode_of(metric: Any) -> str:
    """`min` for a metric whose smaller values are better, by its name; `max` for any other."""
    name = str(metric).lower()
    return "min" if re.search("loss|error", name) or MIN & {*re.split("[/_.-]", name)} else "max"


def _env(name: str, *default: Any) -> str | None:
    """OmegaConf's `oc.env` for harmless variables, so that no secret gets into a file or a URL."""
    if not name.startswith("SIMPLECNN_") and name not in READABLE:
        allowed = f"SIMPLECNN_… and {', '.join(READABLE)}"
        raise ValueError(f"environment variable {name} is not readable: only {allowed} are")
    return oc.env(name, *default)


OmegaConf.register_new_resolver("run_dir", _run_dir, replace=True)
OmegaConf.register_new_resolver("output_subdir", _output_subdir, replace=True)
OmegaConf.register_new_resolver("mode_of", mode_of, replace=True)
OmegaConf.register_new_resolver("oc.env", _env, replace=True)
