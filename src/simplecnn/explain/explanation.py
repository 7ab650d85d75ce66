"""What a network learned, in parts: which parts for which runs, and where they are written."""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from simplecnn.config.mistakes import checked_parts
from simplecnn.errors import InputError
from simplecnn.run_directory import RunDirectory, read_record, short, tensorboard
from simplecnn.sweeps.directory import SweepDirectory
from simplecnn.sweeps.jobs import read_jobs, varied

log = logging.getLogger(__name__)
Config = Mapping[str, Any]

# In the order in which they are done: the function of a part, and whether it compares networks.
PARTS = {
    "channels": ("channel_cards", False),
    "attribution": ("attribution", False),
    "translation": ("translation", True),
    "robustness": ("robustness", True),
    "embedding": ("embedding", False),
    "claims": ("claims", True),
}
FOLDER = "explain"


def plan(config: Config) -> tuple[list[tuple[RunDirectory, Path, dict[str, Any]]], list[str], Path]:
    """The runs with their checkpoints and what a sweep varied, the parts, and the folder for it.

    Imports no torch. Raises InputError where runs, checkpoints or parts cannot be had.
    """
    given = [key for key in ("run", "sweep") if config[key]]
    if len(given) != 1:
        raise InputError(
            "Say what to explain: run=<folder of a run>, run=[<folder>,<folder>,…] or "
            "sweep=<folder of a sweep>, one of them."
        )
    if config["sweep"]:
        runs, folder = _runs_of_sweep(config["sweep"]), Path(config["sweep"])
    else:
        asked = config["run"] if isinstance(config["run"], list) else [config["run"]]
        runs = [(RunDirectory.open(path), {}) for path in asked]
        folder = runs[0][0].path
        if len(runs) > 1:
            folder = Path(os.path.commonpath([run.path.absolute() for run, _ in runs]))
    for run, _ in runs:
        checked_parts(run.config(), short(run.path))
    which = config["checkpoint"]
    chosen = [
        (run, run.checkpoint(which) if which else run.any_checkpoint(), values)
        for run, values in runs
    ]
    return chosen, _parts(config["parts"], several=len(runs) > 1), folder / FOLDER


def explain(config: Config) -> Path:
    """Do the parts that `config` asks for and write each into a folder of its own.

    All of a part is written, or nothing of it. Returns the folder of them all.
    """
    runs, parts, folder = plan(config)
    # After the plan: a mistake is answered before torch is imported.
    from simplecnn.console import configure_lightning_logging
    from simplecnn.explain.subject import Subject, load_subject
    from simplecnn.figures.style import drawing

    configure_lightning_logging()
    subjects: list[Subject] = [
        load_subject(run, checkpoint, data=config.get("data"), values=values)
        for run, checkpoint, values in runs
    ]
    first = subjects[0]
    for other in subjects:
        if other.data_name != first.data_name or other.images.shape != first.images.shape:
            raise InputError(
                f"{first.name} was made for {first.data_name}, {other.name} for "
                f"{other.data_name}: they cannot be compared. Name one set for all: data=mnist."
            )
    log.info("%s\nparts: %s", _heading(runs), ", ".join(parts))
    for part in parts:
        start = time.perf_counter()
        if len(subjects) > 1:  # it can take minutes
            log.info("\n%s of %d networks ...", part, len(subjects))
        name, compares = PARTS[part]
        function = getattr(import_module(f"simplecnn.explain.{name}"), name)
        with drawing(ink=first.ink):
            findings = function(
                subjects if compares else first, **config[part], seed=config["seed"]
            )
            findings.save(folder, part)
        seconds = time.perf_counter() - start
        log.info("\n%s   %.1f s   %s", part, seconds, short(folder / part))
        log.info("%s", "\n".join(f"  {line}" for line in findings.lines))
    log.info("\nfolder       %s", short(folder))
    if "embedding" in parts:
        log.info("projector    %s", tensorboard(folder / "embedding"))
    return folder


def _parts(asked: Any, *, several: bool) -> list[str]:
    comparing = [part for part, (_, compares) in PARTS.items() if compares]
    if asked == "all":
        asked = comparing if several else list(PARTS)
    names = asked if isinstance(asked, list) else [asked]
    unknown = [name for name in names if name not in PARTS]
    if unknown or not names:
        what = ", ".join(map(str, unknown)) or "empty"
        raise InputError(f"parts is {what}: choose all, or a list of {', '.join(PARTS)}.")
    single = [name for name in names if name not in comparing]
    if single and several:
        raise InputError(f"parts: {', '.join(single)} look at one network: name a single run=….")
    if "attribution" in names and find_spec("captum") is None:
        raise InputError(
            "parts: attribution needs what a plain installation leaves out. Type "
            "uv sync --extra explain, or pip install 'simplecnn[explain]'."
        )
    return [part for part in PARTS if part in names]


def _runs_of_sweep(path: str) -> list[tuple[RunDirectory, dict[str, Any]]]:
    """The finished runs of a sweep with what was varied, seeds apart, in the order of the jobs."""
    jobs = [job for job in read_jobs(SweepDirectory.open(path)) if job.status == "finished"]
    if not jobs:
        raise InputError(f"sweep={path}: none of its runs has finished.")
    keys = [key for key in varied(jobs) if key != "seed"]
    return [(RunDirectory.open(job.path), {k: job.words.get(k) for k in keys}) for job in jobs]


def _heading(runs: Sequence[tuple[RunDirectory, Path, Any]]) -> str:
    run, checkpoint, _ = runs[0]
    if len(runs) > 1:
        return f"{len(runs)} runs, from {short(run.path)} to {short(runs[-1][0].path)}"
    accuracy = (read_record(run.path).get("metrics") or {}).get("test/acc")
    said = f", test accuracy {100 * accuracy:.2f} %" if accuracy is not None else ""
    return f"{short(run.path)}, {checkpoint.name}{said}"
