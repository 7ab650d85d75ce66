"""What is typed, checked before anything is made: Hydra's options, words, keys, values, classes.

Only `check_imported` imports anything heavy.
"""

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import OmegaConf

from simplecnn.checkpoint_file import check_checkpoint, read_checkpoint
from simplecnn.config import composition
from simplecnn.config.build import build, check_classes, first_line, target_nodes
from simplecnn.config.composition import (
    Composed,
    TypedFolder,
    command_help,
    compose_checked,
    latest,
    settle,
)
from simplecnn.config.spelling import in_quotes, meant
from simplecnn.errors import InputError, RunError, short
from simplecnn.run_directory import RECORD, RunDirectory, already_exists, read_record
from simplecnn.slurm import is_further_process, slurm_job, was_requeued
from simplecnn.sweeps.plan import SweepPlan, plan_sweep, sweep_values

LEAVES_RUNS = "train"  # the command whose jobs are runs, with a record each
Request = Composed | SweepPlan | None


def check_command_line(name: str, argv: Sequence[str]) -> Request:
    """What a command line asks for: one configuration, the plan of a sweep, or only to be shown.

    Imports nothing heavy. Raises InputError with every mistake in words, and in keys and values of
    ours. Prints the help, and ends the process with it.
    """
    options = _options(argv)
    words = list(options.overrides)
    if options.help:
        print(command_help(name))
        sys.exit(0)
    shows = options.hydra_help or options.info
    if options.shell_completion or options.version or shows and not words:
        return None
    if options.cfg == "hydra" and options.resolve:
        raise InputError(
            "--cfg hydra is a part, which refers to the rest: type --cfg all --resolve."
        )
    if options.config_dir and not Path(options.config_dir).is_dir():
        raise InputError(f"--config-dir {options.config_dir}: there is no such folder.")
    TypedFolder.path = options.config_dir and os.path.abspath(options.config_dir)
    composition.primary = {name: options.config_name or name}
    shown = shows or options.cfg
    if not shown and (options.multirun or "hydra.mode=MULTIRUN" in words):
        if name == LEAVES_RUNS:
            return dataclasses.replace(plan_sweep(name, words), command=list(argv))
        for line in sweep_values(words):
            compose_checked(name, line)
        return None
    if name == LEAVES_RUNS and was_requeued():
        _take_up_requeued(words)
    values, config = compose_checked(name, words)
    if options.cfg == "job" and options.package not in (None, "_global_"):
        if OmegaConf.select(config, options.package) is None:
            raise InputError(f"--package {options.package}: the configuration has nothing there.")
    if shown:
        given = config.hydra.overrides
        lists = [w for w in (*given.task, *given.hydra) if w not in words]
        if lists:  # Hydra, which shows it, reads key=a,b as a sweep
            raise InputError(f"With --cfg, write a list in brackets: {in_quotes(lists[0])}.")
        return None
    if is_further_process():
        return None
    if config.hydra.sweeper.get("params"):
        key = "hparams_search" if config.hydra.runtime.choices.get("hparams_search") else "sweeper"
        raise InputError(f"{key} describes several runs: add -m to do them all.")
    if values.get("resume") is not None:
        _check_resume(values["resume"], words)
        return None
    run_dir = Path(short(config.hydra.runtime.output_dir))
    if name == LEAVES_RUNS and "run" not in composition.claimed and (run_dir / RECORD).exists():
        raise InputError(already_exists(run_dir))
    if problem := _cannot_be_made(run_dir):
        raise InputError(f"hydra.run.dir is {str(run_dir)!r}: {problem}.")
    if values.get("ckpt_path") is not None:
        check_checkpoint(Path(values["ckpt_path"]))
    return values, config


def check_imported(name: str, request: Request) -> None:
    """Import the classes that a configuration names, and hold its arguments against them.

    `settle` has then left out, in the values of the request, what is of a class before. Prints
    what a dry run would do, and ends the process with it.
    """
    mistakes: dict[str, None] = {}
    checked = set()
    for values, config in _composed(request):
        try:
            settle(values, config.hydra, name)
            parts = {k: v for k, v in values.items() if any(True for _ in target_nodes(v))}
            text = json.dumps(parts, default=str, sort_keys=True)
            if parts and text not in checked:
                checked.add(text)
                check_classes(values)
                mistakes |= dict.fromkeys(_differences(values))
        except InputError as error:
            mistakes |= dict.fromkeys(error.mistakes)
    if mistakes:
        raise InputError(*mistakes)
    if any(values.get("dry_run") for values, _ in _composed(request)):
        if not isinstance(request, SweepPlan):
            print("This is a valid run; nothing was started.")
        elif request.jobs is None:
            print("A search chooses the values of each job. The ends of its space are valid.")
        else:
            for number, job in enumerate(request.jobs):
                print(f"job {number}   {' '.join(w for w in job if not w.startswith('dry_run='))}")
        sys.exit(0)


def prepare_data(request: Request) -> None:
    """Fetch or decode the data before a run has a directory: they may not be there, or damaged.

    For a data module of the user's own, Lightning does so; for a sweep, it is done here, once for
    all jobs, so that no other node needs the internet. Raises InputError or RunError.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)  # till Hydra's
    prepared = []
    for values, _ in _composed(request):
        data, name = values["data"], str(values["data"].get("_target_"))
        what = {key: value for key, value in data.items() if key != "seed"}
        is_ours = name.startswith("simplecnn.data.")
        if (is_ours or isinstance(request, SweepPlan)) and what not in prepared:
            prepared.append(what)
            try:
                build(data).prepare_data()
            except (InputError, RunError):
                raise
            except Exception as error:  # of a class of the user's own
                raise RunError(f"{name}.prepare_data: {first_line(error)}") from error


def _composed(request: Request) -> Sequence[Composed]:
    return request.configs if isinstance(request, SweepPlan) else [request] if request else []


def _differences(values: dict[str, Any]) -> Iterator[str]:
    """What a run cannot take from a checkpoint, because it is of something else."""
    path, model = values.get("ckpt_path"), values.get("model") or {}
    if not path or not values["train"] or values["ckpt_weights_only"]:
        return
    weights_alone = "take its weights alone with ckpt_weights_only=true."
    saved = read_checkpoint(Path(path)).get("hyper_parameters") or {}
    for part in ("network", "optimizer", "scheduler") if "network" in saved else ():
        its, mine = saved.get(part) or {}, model.get(part) or {}
        its, mine = ({k: v for k, v in node.items() if v is not None} for node in (its, mine))
        keys = {"network": its.keys() & mine.keys(), "scheduler": {"T_max"} & its.keys()}
        different = [
            key
            for key in ("_target_", *sorted(keys.get(part, ())))
            if its.get(key) != mine.get(key)
        ]
        if different:
            key = different[0]
            yield (
                f"model.{part}.{key} is {mine.get(key)}, and in {short(path)} it is "
                f"{its.get(key)}: type the same, or {weights_alone}"
            )
        elif str(its.get("_target_")).endswith("OneCycleLR"):
            yield (
                f"model.scheduler is OneCycleLR, whose length is that of {short(path)}'s run: "
                f"{weights_alone}"
            )


def _check_resume(path: str, words: Sequence[str]) -> None:
    """Raise InputError unless this process can resume the interrupted run in that directory."""
    others = [w for w in words if not w.lstrip("+").startswith(("resume=", "hydra."))]
    if others:
        raise InputError(
            f"{others[0]}: resume uses the run's own configuration and directory. To change "
            f"something, type ckpt_path={latest(path)}/checkpoints/last.ckpt instead, and all "
            f"words of the run."
        )
    raise_if_links_lead_out(RunDirectory.to_resume(latest(path)).path)


def raise_if_links_lead_out(path: Path) -> None:
    """Raise InputError where a run, which may be a stranger's, has links that lead out of it."""
    for part in path.rglob("*"):
        if part.is_symlink() and not part.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{short(part)} is a link out of the run: nothing is written there.")


def _take_up_requeued(words: Sequence[str]) -> None:
    """In a job that SLURM started again: have it resume the run that it was interrupted in."""
    named = [w.partition("=")[2] for w in words if w.startswith("hydra.run.dir=")]
    records = [Path(path) / RECORD for path in named] or Path("outputs").glob(f"*/*/{RECORD}")
    for record in records:
        run = read_record(record.parent)
        if run.get("slurm_job") == slurm_job() and run.get("status") != "finished":
            composition.claimed["run"] = str(record.parent.absolute())
            return


def _cannot_be_made(path: Path) -> str | None:
    """Why a directory cannot be made, or None."""
    try:
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    if not there.is_dir():
        return f"{there} is a file, not a folder"
    return None if os.access(there, os.W_OK) else f"{there} cannot be written to"


class _Parser(argparse.ArgumentParser):
    """Raises a sentence instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}. --help shows what there is.")


def _options(argv: Sequence[str]) -> argparse.Namespace:
    """Hydra's options as they are typed. Raises InputError where they make no sense."""
    parser = _Parser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    for names in (("--help", "-h"), ("--hydra-help",), ("--version",), ("--resolve",)):
        parser.add_argument(*names, action="store_true")
    for names in (("--package", "-p"), ("--config-name", "-cn"), ("--config-dir", "-cd"),
                  ("--config-path", "-cp"), ("--experimental-rerun",)):  # fmt: skip
        parser.add_argument(*names)
    one = parser.add_mutually_exclusive_group()
    for names in (("--run", "-r"), ("--multirun", "-m"), ("--shell-completion", "-sc")):
        one.add_argument(*names, action="store_true")
    one.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    shown = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    one.add_argument("--info", "-i", const="all", nargs="?", choices=shown)
    args, apart = parser.parse_known_args(argv)
    for word in apart:
        if word.startswith("-"):
            name = word.lstrip("-").partition("=")[0]
            key = meant(name, compose_checked("train", [])[0], ["model/optimizer"])
            hint = f"type {key}=…, without dashes" if key else "--help shows what there is"
            raise InputError(f"{word} is not an option: {hint}.")
        raise InputError(f"{word!r} stands apart: write all key=value together, options first.")
    if args.config_path:
        raise InputError("--config-path is not taken: --config-dir adds a folder of your own.")
    if args.experimental_rerun:
        raise InputError("--experimental-rerun is not taken: it runs what is in a pickle.")
    if (args.resolve or args.package) and not (args.cfg or args.help):
        flag = "--resolve" if args.resolve else "--package model"
        raise InputError(f"{flag} belongs to --cfg: type --cfg job {flag}.")
    return args
