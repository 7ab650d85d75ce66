"""Validation of a command line before any file is created: options, overrides, keys, classes.

Only `check_imported` and `prepare_data` import torch and Lightning.
"""

import argparse
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf

from simplecnn.checkpoint_file import check_checkpoint, read_checkpoint
from simplecnn.config import resolvers
from simplecnn.config.arguments import check_classes
from simplecnn.config.build import build, target_nodes
from simplecnn.config.composition import Composed, compose_checked, drop_replaced_arguments
from simplecnn.config.help import command_help
from simplecnn.config.search_path import ConfigDirPlugin, config_names
from simplecnn.config.spelling import did_you_mean, find_full_key, shell_quote
from simplecnn.directories import CHECKPOINTS, RECORD, latest, read_record
from simplecnn.errors import InputError, RunError, relative_path, reraise
from simplecnn.run_directory import RunDirectory, raise_if_links_lead_out, raise_unless_new
from simplecnn.slurm import is_further_process, slurm_job, was_requeued
from simplecnn.sweeps.plan import SweepPlan, check_plugins, plan_sweep, sweep_values

TRAIN = "train"  # the command whose jobs each write a run directory
Request = Composed | SweepPlan | None


def check_command_line(name: str, argv: Sequence[str]) -> Request:
    """Return the configuration or the sweep plan that a command line describes.

    Returns None if only Hydra composes the configuration: to print it, to resume a run, in a sweep
    of another command than train, or in a further process of a run. Prints the help and exits for
    `--help`. Does not import torch. Raises InputError with all mistakes in the overrides and in
    simplecnn's keys and values.
    """
    for argument in argv:
        try:
            os.fsencode(argument).decode()
            argument.encode()
        except UnicodeDecodeError:
            raise InputError(f"{argument!a} is not UTF-8: rename it, or name its folder.") from None
        except UnicodeEncodeError:
            raise InputError(f"{argument!a}: type export PYTHONUTF8=1 first.") from None
    options = _parse(argv)
    overrides = list(options.overrides)
    if options.help:
        print(command_help(name))
        sys.exit(0)
    prints_info = options.hydra_help or options.info
    if options.version:
        print(f"simplecnn {version('simplecnn')}, Hydra {version('hydra-core')}")
        sys.exit(0)
    if options.shell_completion or prints_info and not overrides:
        return None
    if options.cfg == "hydra" and options.resolve:
        raise InputError(
            "--cfg hydra cannot be resolved without the job's part: type --cfg all --resolve."
        )
    if options.config_dir and not Path(options.config_dir).is_dir():
        raise InputError(f"--config-dir {options.config_dir}: there is no such folder.")
    ConfigDirPlugin.path = options.config_dir and os.path.abspath(options.config_dir)
    config_names[name] = options.config_name or name
    prints_only = prints_info or options.cfg
    if not prints_only and (options.multirun or "hydra.mode=MULTIRUN" in overrides):
        if any(override.lstrip("+").startswith("resume=") for override in overrides):
            raise InputError(
                "resume continues one run: leave out -m. A sweep is resumed by its own command."
            )
        if name == TRAIN:
            return plan_sweep(name, overrides)
        for job_overrides in sweep_values(overrides):
            compose_checked(name, job_overrides)
        return None
    if name == TRAIN and was_requeued():
        _resume_requeued_run(overrides)
    values, config = compose_checked(name, overrides)
    check_plugins(config)
    if options.cfg == "job" and options.package not in (None, "_global_"):
        if OmegaConf.select(config, options.package) is None:
            raise InputError(f"--package {options.package}: the configuration has no such key.")
    if prints_only:
        composed: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
        lists = [o for o in (*composed["task"], *composed["hydra"]) if o not in overrides]
        if lists:  # rewritten from key=a,b, which Hydra itself would read as a sweep
            raise InputError(f"With --cfg, write a list in brackets: {shell_quote(lists[0])}.")
        return None
    if is_further_process():
        return None
    if config.hydra.sweeper.get("params"):
        key = "hparams_search" if config.hydra.runtime.choices.get("hparams_search") else "sweeper"
        raise InputError(f"{key} describes several runs: add -m to run them all.")
    if values.get("resume") is not None:
        _check_resume(values["resume"], overrides)
        return None
    _check_start(name, overrides, values, config)
    return values, config


def _check_start(
    name: str, overrides: Sequence[str], values: dict[str, Any], config: DictConfig
) -> None:
    """Raise InputError if the directory or the checkpoint of a new run cannot be used."""
    run_dir = Path(relative_path(config.hydra.runtime.output_dir))
    if name == TRAIN and "run" not in resolvers.requeued_run:
        if run_dir.resolve() == Path.cwd():
            raise InputError(
                "hydra.run.dir is the working directory: a run needs a new directory of its own."
            )
        raise_unless_new(run_dir)
    writes = name == TRAIN or config.hydra.output_subdir is not None
    if writes and (reason := _why_not_creatable(run_dir)):
        raise InputError(f"hydra.run.dir is {str(run_dir)!r}: {reason}.")
    if name == "receptive_field" and values["run"]:
        typed = [o for o in overrides if re.match(r"[+~]*model\b", o)]
        if typed:
            raise InputError(f"{typed[0]}: run has a model of its own. Leave out one of the two.")
        RunDirectory.open(latest(values["run"], needs=CHECKPOINTS)).checkpoint()
    if values.get("ckpt_path") is not None:
        check_checkpoint(Path(values["ckpt_path"]))


def check_imported(name: str, request: Request) -> None:
    """Import the configured classes and validate their arguments. Raises InputError.

    Modifies the request's values: `drop_replaced_arguments` removes the arguments of classes that
    were replaced. For `dry_run=true`, prints what would run and exits.
    """
    mistakes: dict[str, None] = {}  # in order, without duplicates
    checked = set()
    for values, config in _composed(request):
        try:
            drop_replaced_arguments(values, config.hydra, name)
            if isinstance(request, SweepPlan):
                plugins = {
                    name: OmegaConf.to_container(config.hydra[name], resolve=True)
                    for name in ("launcher", "sweeper")
                }
                values = {**values, "hydra": plugins}
            parts = {k: v for k, v in values.items() if any(True for _ in target_nodes(v))}
            text = json.dumps(parts, default=str, sort_keys=True)
            if parts and text not in checked:
                checked.add(text)
                check_classes(values)
                mistakes |= dict.fromkeys(_checkpoint_conflicts(values))
        except InputError as error:
            mistakes |= dict.fromkeys(error.mistakes)
    if mistakes:
        raise InputError(*mistakes)
    if any(values.get("dry_run") for values, _ in _composed(request)):
        if not isinstance(request, SweepPlan):
            print("The configuration is valid; nothing was started.")
        elif request.jobs is None:
            print("The bounds of the search space are valid; the search chooses each job's values.")
        else:
            for number, job in enumerate(request.jobs):
                shown = (override for override in job if not override.startswith("dry_run="))
                print(f"job {number}   {' '.join(shown)}")
            print("All jobs are valid; none was started.")
        sys.exit(0)


def prepare_data(request: Request) -> None:
    """Download or decode the data, so that missing or damaged data leave no run directory.

    For a single run, Lightning prepares a custom data module. For a sweep, every data module is
    prepared here, once for all jobs, so that only this node needs internet access. Raises
    InputError or RunError.
    """
    # Applies until Hydra configures logging.
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    prepared = []
    for values, _ in _composed(request):
        data, name = values["data"], str(values["data"].get("_target_"))
        data_set = {key: value for key, value in data.items() if key != "seed"}
        is_custom = not name.startswith("simplecnn.data.")
        if data_set in prepared or (is_custom and not isinstance(request, SweepPlan)):
            continue
        prepared.append(data_set)
        with reraise(f"{name}.prepare_data", RunError):  # a custom class may raise anything
            build(data).prepare_data()


def _composed(request: Request) -> Sequence[Composed]:
    return request.configs if isinstance(request, SweepPlan) else [request] if request else []


def _checkpoint_conflicts(values: dict[str, Any]) -> Iterator[str]:
    """Yield an error for each part of the model that cannot be loaded from `ckpt_path`."""
    path, model = values.get("ckpt_path"), values.get("model") or {}
    if not path or not values["train"] or values["ckpt_weights_only"]:
        return
    only_weights = "load only its weights with ckpt_weights_only=true"
    saved_model = read_checkpoint(Path(path)).get("hyper_parameters") or {}
    for part in ("network", "optimizer", "scheduler") if "network" in saved_model else ():
        saved, new = (
            {k: v for k, v in (node.get(part) or {}).items() if v is not None}
            for node in (saved_model, model)
        )
        compared = {"network": saved.keys() & new.keys(), "scheduler": {"T_max"} & saved.keys()}
        keys = ("_target_", *sorted(compared.get(part, ())))
        if key := next((key for key in keys if saved.get(key) != new.get(key)), None):
            value, other = new.get(key, "null"), saved.get(key, "null")
            # The weights of another network do not fit.
            advice = "" if part == "network" else f", or {only_weights}"
            yield (
                f"model.{part}.{key} is {value}, but in {relative_path(path)} it is {other}: use "
                f"the same value{advice}."
            )
        elif str(saved.get("_target_")).endswith("OneCycleLR"):
            yield (
                f"model.scheduler is OneCycleLR, whose length is fixed by the run of "
                f"{relative_path(path)}: {only_weights}."
            )


def _check_resume(path: str, overrides: Sequence[str]) -> None:
    """Raise InputError unless this process can resume the interrupted run in directory `path`."""
    changes = (o for o in overrides if not o.lstrip("+").startswith(("resume=", "hydra.")))
    others = [*changes, *(o for o in overrides if o.startswith("hydra.run.dir="))]
    if others:
        last = Path(latest(path), "checkpoints", "last.ckpt")
        raise InputError(
            f"{others[0]}: resume uses the run's own configuration and directory. To change "
            f"something, type the run's command again with the change"
            f"{f' and ckpt_path={last}' if last.is_file() else ''}."
        )
    raise_if_links_lead_out(RunDirectory.open_to_resume(latest(path)).path)


def _resume_requeued_run(overrides: Sequence[str]) -> None:
    """In a job that SLURM requeued, select the run that was interrupted, to be resumed."""
    chosen = [o.partition("=")[2] for o in overrides if o.startswith("hydra.run.dir=")]
    records = [Path(path) / RECORD for path in chosen] or Path("outputs").glob(f"*/*/{RECORD}")
    for record in records:
        run = read_record(record.parent)
        if run.get("slurm_job") == slurm_job() and run.get("status") != "finished":
            resolvers.requeued_run["run"] = str(record.parent.absolute())
            return


def _why_not_creatable(path: Path) -> str | None:
    """Return why a directory cannot be created, or None if it can."""
    try:
        existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    except (OSError, ValueError) as error:
        return str(getattr(error, "strerror", None) or error)
    if not existing.is_dir():
        return f"{existing} is a file, not a folder"
    return None if os.access(existing, os.W_OK) else f"{existing} is not writable"


class _Parser(argparse.ArgumentParser):
    """Raise InputError instead of exiting."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message[:1].upper()}{message[1:]}. --hydra-help lists the options.")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    """Parse Hydra's options. Raises InputError for invalid options and combinations."""
    parser = _Parser(add_help=False)
    parser.add_argument("overrides", nargs="*")
    for names in (("--help", "-h"), ("--hydra-help",), ("--version",), ("--resolve",)):
        parser.add_argument(*names, action="store_true")
    for names in (("--package", "-p"), ("--config-name", "-cn"), ("--config-dir", "-cd"),
                  ("--config-path", "-cp")):  # fmt: skip
        parser.add_argument(*names)
    one = parser.add_mutually_exclusive_group()
    for names in (("--run", "-r"), ("--multirun", "-m"), ("--shell-completion", "-sc")):
        one.add_argument(*names, action="store_true")
    one.add_argument("--cfg", "-c", choices=["job", "hydra", "all"])
    info_choices = ["all", "config", "defaults", "defaults-tree", "plugins", "searchpath"]
    one.add_argument("--info", "-i", const="all", nargs="?", choices=info_choices)
    args, unparsed = parser.parse_known_args(argv)
    for argument in unparsed:
        if argument.startswith("-"):
            name = argument.lstrip("-").partition("=")[0]
            keys = compose_checked("train", [])[0]
            key = name if name in keys else find_full_key(name, keys, ["model/optimizer"])
            near = did_you_mean(f"--{name}", re.findall(r"--[\w-]+", parser.format_usage()))
            hint = f"type {key}=…, without dashes" if key else "--hydra-help lists the options"
            raise InputError(f"{argument} is not an option: {hint}.{'' if key else near}")
        raise InputError(
            f"{argument!r} is separated from the other overrides by an option: write options first."
        )
    if args.config_path:
        raise InputError("--config-path is not supported: add your folder with --config-dir.")
    if (args.resolve or args.package) and not (args.cfg or args.help):
        flag = "--resolve" if args.resolve else "--package model"
        raise InputError(f"{flag} requires --cfg: type --cfg job {flag}.")
    return args
