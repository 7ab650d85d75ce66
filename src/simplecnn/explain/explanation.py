"""What a network learned, in parts: which parts for which runs, and where they are written."""

import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from simplecnn.errors import InputError
from simplecnn.run_directory import RunDirectory, read_record, short, tensorboard
from simplecnn.sweeps.directory import SweepDirectory
from simplecnn.sweeps.report import read_jobs, varied

log = logging.getLogger(__name__)
Config = Mapping[str, Any]

# In the order in which they are done. Some look at one network, some compare several as well.
OF_ONE = ("units", "attribution", "embedding")
OF_MANY = ("translation", "robustness", "verdicts")
PARTS = ("units", "attribution", "translation", "robustness", "embedding", "verdicts")
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
        run.checked_config()
    which = config["checkpoint"]
    found = [
        (run, run.checkpoint(which) if which else run.any_checkpoint(), values)
        for run, values in runs
    ]
    return found, _parts(config["parts"], alone=len(runs) == 1), folder / FOLDER


def explain(config: Config) -> Path:
    """Do the parts that `config` asks for and write each into a folder of its own.

    A part is written whole or not at all. Returns the folder of them all.
    """
    runs, parts, folder = plan(config)
    # Behind the plan: a mistake is answered before torch is imported.
    from simplecnn.console import configure_lightning_logging
    from simplecnn.explain.subject import Subject, load_subject

    configure_lightning_logging()
    if "attribution" in parts:
        from simplecnn.explain.attribution import check_installed

        check_installed()
    subjects: list[Subject] = [
        load_subject(run, checkpoint, data=config.get("data"), values=values)
        for run, checkpoint, values in runs
    ]
    _same_images(subjects)
    _check_layers(config, subjects, parts)
    log.info("%s", _heading(runs, parts))
    seconds = {}
    for part in parts:
        start = time.perf_counter()
        if len(subjects) > 1:  # it can take minutes
            log.info("\n%s of %d networks ...", part, len(subjects))
        findings = _do(part)(subjects, config)
        findings.save(folder, part)
        seconds[part] = round(time.perf_counter() - start, 1)
        log.info("\n%s   %.1f s   %s", part, seconds[part], short(folder / part))
        log.info("%s", "\n".join(f"  {line}" for line in findings.lines))
    log.info("\nfolder       %s", short(folder))
    if "embedding" in parts:
        log.info("projector    %s", tensorboard(folder / "embedding"))
    return folder


def _do(part: str) -> Callable[[Sequence[Any], Config], Any]:
    """The function behind a part; its room is imported when it is needed."""
    if part == "units":
        from simplecnn.explain.channel_cards import unit_cards

        return lambda s, c: unit_cards(s[0], **c["units"], seed=c["seed"])
    if part == "attribution":
        from simplecnn.explain.attribution import attribution

        return lambda s, c: attribution(s[0], **c["attribution"], seed=c["seed"])
    if part == "translation":
        from simplecnn.explain.translation import translation

        return lambda s, c: translation(s, **c["translation"], seed=c["seed"])
    if part == "robustness":
        from simplecnn.explain.robustness import robustness

        return lambda s, c: robustness(s, **c["robustness"], seed=c["seed"])
    if part == "embedding":
        from simplecnn.explain.embedding import embedding

        return lambda s, c: embedding(s[0], **c["embedding"], seed=c["seed"])
    from simplecnn.explain.claims import verdicts

    return lambda s, c: verdicts(s, **c["verdicts"], seed=c["seed"])


def _parts(asked: Any, *, alone: bool) -> list[str]:
    if asked == "all":
        return [p for p in PARTS if alone or p in OF_MANY]
    names = asked if isinstance(asked, list) else [asked]
    strange = [name for name in names if name not in PARTS]
    if strange or not names:
        what = ", ".join(map(str, strange)) or "empty"
        raise InputError(f"parts is {what}: choose all, or a list of {', '.join(PARTS)}.")
    single = [name for name in names if name in OF_ONE]
    if single and not alone:
        raise InputError(f"parts: {', '.join(single)} look at one network: name one run=… alone.")
    return [p for p in PARTS if p in names]


def _runs_of_sweep(path: str) -> list[tuple[RunDirectory, dict[str, Any]]]:
    """The finished runs of a sweep with what was varied, seeds apart, in the order of the jobs."""
    jobs = [job for job in read_jobs(SweepDirectory.open(path)) if job.status == "finished"]
    if not jobs:
        raise InputError(f"sweep={path}: none of its runs has finished.")
    keys = [key for key in varied(jobs) if key != "seed"]
    return [(RunDirectory.open(job.path), {k: job.words.get(k) for k in keys}) for job in jobs]


def _same_images(subjects: Sequence[Any]) -> None:
    first = subjects[0]
    for other in subjects[1:]:
        if other.data_name != first.data_name or other.images.shape != first.images.shape:
            raise InputError(
                f"{first.name} was made for {first.data_name}, {other.name} for "
                f"{other.data_name}: they cannot be compared. Name one set for all: data=mnist."
            )


def _check_layers(config: Config, subjects: Sequence[Any], parts: Sequence[str]) -> None:
    if "units" in parts:
        from simplecnn.explain.channel_cards import chosen_layers

        chosen_layers(subjects[0].network, config["units"]["layers"])


def _heading(runs: Sequence[tuple[RunDirectory, Path, Any]], parts: Sequence[str]) -> str:
    run, checkpoint, _ = runs[0]
    accuracy = (read_record(run.path).get("metrics") or {}).get("test/acc")
    told = f", test accuracy {100 * accuracy:.2f} %" if accuracy is not None else ""
    what = f"{short(run.path)}, {checkpoint.name}{told}"
    if len(runs) > 1:
        what = f"{len(runs)} runs, from {short(run.path)} to {short(runs[-1][0].path)}"
    return f"{what}\nparts: {', '.join(parts)}"


def summary(folder: Path) -> dict[str, Any]:
    """The records of all parts in the folder of an explanation, by part."""
    return {
        part: json.loads((folder / part / f"{part}.json").read_text(encoding="utf-8"))
        for part in PARTS
        if (folder / part / f"{part}.json").is_file()
    }
