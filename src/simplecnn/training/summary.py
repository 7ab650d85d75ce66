"""What a run prints: its device and results, its directory, and the next command to type."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from simplecnn import errors
from simplecnn.callbacks.progress import metric_text, split_metric, value_text
from simplecnn.config.spelling import format_override, shell_quote
from simplecnn.run_directory import RunDirectory, relative_path, shell_command, tensorboard_command
from simplecnn.table import table
from simplecnn.training.loggers import TensorBoard

# Keys that conf/ interpolates from other keys: shown only if the user has changed them.
COPIES = {"data/seed": "seed", "model/scheduler/max_lr": "model/optimizer/lr"}


def summary(directory: RunDirectory, trainer: pl.Trainer, page: Path | None) -> str:
    """A table of the metrics, the time spent, the run directory, and how to view the results."""
    record, config = directory.record, directory.config()
    epochs = dict.fromkeys(("train", "val", "test"), record["num_epochs"])
    validated = [
        int(row["epoch"]) + 1
        for row in directory.metric_rows()
        if any(value and split_metric(key)[0] == "val" for key, value in row.items())
    ]
    if validated:  # not after every epoch
        epochs["val"] = validated[-1]
        if "test" not in record["seconds"]:  # test metrics are those of test_each_epoch
            epochs["test"] = validated[-1]
    if record["best"] and "test" in record["seconds"]:
        epochs["test"] = record["best"]["epoch"]
    lines = [metrics_table(record["metrics"], epochs)]
    if record["ended"]:
        lines += ["", f"training     {record['ended']}"]
    if best := record["best"]:
        value = metric_text(config["monitor"], best["value"])
        tested = " (tested)" if "test" in record["seconds"] else ""
        lines.append(f"best         {value} after epoch {best['epoch']}{tested}")
    lines.append(_seconds(record["seconds"]))
    if parts := record.get("seconds_of_fit"):
        lines.append(f"of the fit   {_seconds(parts)}")
    lines.append(f"\ndirectory    {relative_path(directory.path)}")
    if any(isinstance(logger, TensorBoard) for logger in trainer.loggers):
        # All runs of this name: for a single run, TensorBoard's HPARAMS tab shows no metrics.
        parent = directory.path.parent
        logdir = parent if parent.name == config["name"] else directory.path
        lines.append(f"tensorboard  {tensorboard_command(logdir)}")
    return "\n".join(lines) + page_line(page)


def page_line(page: Path | None) -> str:
    """A line with the path of report.html, or nothing if it was not written."""
    return "" if page is None else f"\nview         {relative_path(page)}"


def resume_instructions(directory: RunDirectory) -> str:
    """Instructions to resume an interrupted run."""
    path = relative_path(directory.path)
    if (directory.path.parent / "sweep.json").is_file():
        return f"Run the command of the sweep again to resume {path}"
    override = format_override("resume", path)
    chdir = " hydra.job.chdir=true" * (errors.command_directory is not None)
    if str(directory.record.get("command")).startswith("simplecnn.train("):
        command = f"simplecnn.train([{override!r}])"
    else:
        command = shell_command(f"{relative_path(sys.argv[0])} {shell_quote(override)}{chdir}")
    has_checkpoint = directory.last_checkpoint() is not None
    action = "Resume it" if has_checkpoint else "No epoch was finished: start it again"
    return f"{action} with\n{command}"


def device_and_reason(trainer: pl.Trainer, accelerator: str) -> tuple[str, str]:
    """The device of a run, and why it was chosen; `accelerator` is the configured one."""
    device = trainer.strategy.root_device
    name = device.type.upper()
    if device.type == "cuda":
        name = f"CUDA ({torch.cuda.get_device_name(device)})"
    if trainer.world_size > 1:
        name = f"{trainer.world_size} x {name}"
    if accelerator != "auto":
        return name, f"trainer.accelerator is {accelerator}"
    if device.type == "cpu":
        return name, "no CUDA or MPS device is available"
    return name, "the fastest device available"


def metrics_table(metrics: Mapping[str, float], epochs: Mapping[str, int]) -> str:
    """A table with one row per stage and one column per metric, loss and accuracy first.

    epochs: the epoch after which each stage was measured.
    """
    values = {split_metric(key): value for key, value in metrics.items()}
    names = list(dict.fromkeys(name for stage, name in values if stage))
    names.sort(key=lambda name: ["loss", "acc", name].index(name))
    headings = {"acc": "accuracy", "macro_acc": "macro accuracy"}
    rows = [["", "epoch", *(headings.get(name, name) for name in names)]]
    for stage, title in (("train", "training"), ("val", "validation"), ("test", "test")):
        cells = [
            value_text(name, values[stage, name]) if (stage, name) in values else ""
            for name in names
        ]
        if any(cells):
            rows.append([title, str(epochs[stage] or ""), *cells])
    return table(rows)


def _seconds(parts: Mapping[str, float]) -> str:
    return "   ".join(f"{name} {value:.1f} s" for name, value in parts.items())


def hyper_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a run as a flat dict for TensorBoard's HPARAMS tab, without copies."""
    sections = {key: config[key] for key in ("model", "data", "trainer", "seed")}
    flat = {k: v for k, v in _flatten(sections) if not k.endswith(("_target_", "data_dir"))}
    return {k: v for k, v in flat.items() if k not in COPIES or v != flat.get(COPIES[k])}


def _flatten(config: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(config, Mapping):
        for name, value in config.items():
            yield from _flatten(value, f"{key}/{name}" if key else str(name))
    else:
        value = "null" if config is None else config
        yield key, value if isinstance(value, bool | int | float | str) else str(value)
