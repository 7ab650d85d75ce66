"""The command behind scripts/explain.py: select runs and parts, compute each part and save it."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from simplecnn.config.overrides import select
from simplecnn.config.spelling import did_you_mean, dotted
from simplecnn.config.validation import checked_parts
from simplecnn.errors import InputError, require_packages
from simplecnn.run_directory import (
    RunDirectory,
    name_from,
    raise_if_links_lead_out,
    relative_path,
    tensorboard_command,
)
from simplecnn.sweeps.directory import SweepDirectory
from simplecnn.sweeps.jobs import read_jobs, varied_keys

log = logging.getLogger(__name__)
Config = Mapping[str, Any]

# In the order in which they run: the module and function of a part, and whether it compares
# several networks.
PARTS = {
    "channels": ("channel_cards", False),
    "attribution": ("attribution", False),
    "translation": ("translation", True),
    "robustness": ("robustness", True),
    "embedding": ("embedding", False),
    "claims": ("claims", True),
}
FOLDER = "explain"
MAX_NAME = 200  # characters of the folder of several runs
MAX_KEYS = 3  # in which compared runs differ, as shown in the tables
SAME_RECIPE = ("data.seed", "data.data_dir", "trainer.default_root_dir")  # may differ


def plan(config: Config) -> tuple[list[tuple[RunDirectory, Path, dict[str, Any]]], list[str], Path]:
    """Return (run, checkpoint, swept values) for each run, the parts, and the output folder.

    Does not import torch, so that mistakes are reported within a second. Raises InputError if a
    run, a checkpoint or a part does not exist or cannot be explained.
    """
    if bool(config["run"]) == bool(config["sweep"]):
        raise InputError(
            "Specify what to explain by exactly one of run=<run directory>, "
            "run=[<run directory>,<run directory>,…] and sweep=<sweep directory>."
        )
    if config["sweep"]:
        runs, folder = _runs_of_sweep(config["sweep"]), Path(config["sweep"])
    else:
        paths = config["run"] if isinstance(config["run"], list) else [config["run"]]
        opened = [RunDirectory.open(path) for path in paths]
        runs = list(zip(opened, _different_values(opened), strict=True))
        folder = opened[0].path
        if len(runs) > 1:
            folder = Path(os.path.commonpath([run.path.absolute() for run in opened]))
    for run, _ in runs:
        checked_parts(run.config(), relative_path(run.path))
    with_checkpoints = [(run, run.checkpoint(config["checkpoint"]), values) for run, values in runs]
    is_list = len(runs) > 1 and not config["sweep"]
    if not is_list:
        raise_if_links_lead_out(folder)
    # Not a sweep's folder, nor that of another list.
    names = (name_from(folder, run.path) for run, _ in runs if is_list)
    name = "_".join((FOLDER, *names))[:MAX_NAME]
    return with_checkpoints, _parts(config["parts"], several=len(runs) > 1), folder / name


def explain(config: Config) -> Path:
    """Compute the parts that `config` selects, save each to a subfolder, and return their folder.

    A part is saved completely or not at all.
    """
    runs, parts, folder = plan(config)
    # Imported only now: these import torch, and the plan reports mistakes without it.
    from simplecnn.console import configure_lightning_logging
    from simplecnn.explain.findings import NotApplicable
    from simplecnn.explain.subject import Subject, load_subject
    from simplecnn.figures.style import drawing
    from simplecnn.inference.trained_run import TrainedRun

    configure_lightning_logging()
    subjects: list[Subject] = [
        load_subject(TrainedRun(run, checkpoint), data=config.get("data"), values=values)
        for run, checkpoint, values in runs
    ]
    first = subjects[0]
    for other in subjects:
        if other.data_name != first.data_name or other.images.shape != first.images.shape:
            first_data, other_data = (
                f"{s.data_name}, shape {tuple(s.images.shape)}" for s in (first, other)
            )
            raise InputError(
                f"{first.name} is tested on {first_data}, and {other.name} on {other_data}: they "
                "cannot be compared. Select one data set for all of them, for example data=mnist."
            )
    log.info("%s\nparts: %s", _heading(runs), ", ".join(parts))
    for part in parts:
        start = time.perf_counter()
        if len(subjects) > 1:  # can take minutes
            log.info("\n%s of %d networks ...", part, len(subjects))
        name, compares = PARTS[part]
        function = getattr(import_module(f"simplecnn.explain.{name}"), name)
        with drawing(ink=first.ink):
            try:
                findings = function(
                    subjects if compares else first, **config[part], seed=config["seed"]
                )
            except NotApplicable as error:
                if config["parts"] != "all":
                    raise
                log.info("\nskipped      %s", error)
                continue
            findings.save(folder, part)
        seconds = time.perf_counter() - start
        log.info("\n%s   %.1f s   %s", part, seconds, relative_path(folder / part))
        log.info("%s", "\n".join(f"  {line}" for line in findings.lines))
    log.info("\nfolder       %s", relative_path(folder))
    if "embedding" in parts:
        log.info("projector    %s", tensorboard_command(folder / "embedding"))
    return folder


def _parts(selected: Any, *, several: bool) -> list[str]:
    """Check the config value `parts` and return the parts in the order in which they run."""
    comparing = [part for part, (_, compares) in PARTS.items() if compares]
    if selected == "all":
        selected = comparing if several else list(PARTS)
    names = selected if isinstance(selected, list) else [selected]
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        value = ", ".join(map(str, unknown)) or "empty"
        hint = did_you_mean(str(unknown[0]), ["all", *PARTS]) if unknown else ""
        raise InputError(
            f"parts is {value}: it must be all, or a list of {', '.join(PARTS)}.{hint}"
        )
    single = [name for name in names if name not in comparing]
    if single and several:
        raise InputError(
            f"parts: {', '.join(single)} can explain only one network. Give a single run=…, or "
            f"choose from {', '.join(comparing)}."
        )
    if "attribution" in names:
        require_packages("parts: attribution", "captum")
    return [part for part in PARTS if part in names]


def _runs_of_sweep(path: str) -> list[tuple[RunDirectory, dict[str, Any]]]:
    """Return the finished runs of a sweep, in job order, with their values of the swept keys.

    The seed is left out, so that runs that differ only in their seed form one group.
    """
    jobs = [job for job in read_jobs(SweepDirectory.open(path)) if job.status == "finished"]
    if not jobs:
        raise InputError(f"sweep={path}: no run of this sweep has finished.")
    keys = [key for key in varied_keys(jobs) if key != "seed"]
    return [(RunDirectory.open(job.path), {k: job.params.get(k) for k in keys}) for job in jobs]


def _different_values(runs: Sequence[RunDirectory]) -> list[dict[str, Any]]:
    """For each run, its values of the keys of model, data and trainer in which the runs differ.

    Its path instead, if they differ in more than MAX_KEYS. Seeds and paths are left out, so that
    runs that differ only in their seed form one group.
    """
    configs = []
    for run in runs:
        config = run.config()
        parts = {part: config[part] for part in ("model", "data", "trainer")}
        leaves = {key: select(parts, key) for key in dotted(parts)}
        configs.append({k: v for k, v in leaves.items() if not isinstance(v, Mapping)})
    keys = [k for k in dict.fromkeys(k for c in configs for k in c) if k not in SAME_RECIPE]
    keys = [k for k in keys if len({repr(c.get(k)) for c in configs}) > 1]
    if len(keys) > MAX_KEYS:
        return [{"run": relative_path(run.path)} for run in runs]
    return [{key: c.get(key) for key in keys} for c in configs]


def _heading(runs: Sequence[tuple[RunDirectory, Path, Any]]) -> str:
    run, checkpoint, _ = runs[0]
    paths = [relative_path(other.path) for other, _, _ in runs]
    if len(runs) > 3:
        return f"{len(runs)} runs, from {paths[0]} to {paths[-1]}"
    if len(runs) > 1:
        return f"{len(runs)} runs: {', '.join(paths)}"
    accuracy = run.metrics_of(checkpoint).get("test/acc")
    result = f", test accuracy {100 * accuracy:.2f} %" if accuracy is not None else ""
    return f"{relative_path(run.path)}, {checkpoint.name}{result}"
