"""Metrics, pictures and hyperparameters on disk: `metrics.csv` and TensorBoard events."""

import csv
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from children import events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from simplecnn.figures.filters import filters_figure
from simplecnn.figures.raster import encode_png
from simplecnn.run_directory import tensorboard_command
from simplecnn.training.loggers import MetricsCSV, TensorBoard


def test_csv_has_one_row_per_step_and_one_column_per_metric(tmp_path):
    logger = MetricsCSV(str(tmp_path))
    logger.log_metrics({"lr": 0.1}, step=0)
    logger.log_metrics({"train/loss": torch.tensor(0.25), "epoch": 0}, step=9)
    logger.save()
    logger.log_metrics({"val/acc": 0.5, "epoch": 0}, step=9)
    logger.save()  # writes at most once per second
    assert "val/acc" not in (tmp_path / "metrics.csv").read_text()
    logger.flush()
    assert "val/acc" in (tmp_path / "metrics.csv").read_text()
    logger.log_metrics({"val/acc": float("nan"), "epoch": 1}, step=19)
    logger.finalize("success")
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"step": "0", "epoch": "", "lr": "0.1", "train/loss": "", "val/acc": ""},
        {"step": "9", "epoch": "0", "lr": "", "train/loss": "0.25", "val/acc": "0.5"},
        {"step": "19", "epoch": "1", "lr": "", "train/loss": "", "val/acc": "nan"},
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_csv_keeps_the_rows_of_another_process(tmp_path):
    fit_logger, test_logger = MetricsCSV(str(tmp_path)), MetricsCSV(str(tmp_path))
    fit_logger.log_metrics({"train/loss": 0.5, "epoch": 0}, step=9)
    fit_logger.save()
    test_logger.log_metrics({"test/acc": 0.9}, step=9)
    test_logger.save()
    assert (tmp_path / "metrics.csv").read_text() == (
        "step,epoch,test/acc,train/loss\n9,0,0.9,0.5\n"
    )


def test_no_csv_is_written_if_nothing_was_logged(tmp_path):
    MetricsCSV(str(tmp_path)).finalize("success")
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_has_one_directory_per_stage_and_one_for_everything_else(tmp_path):
    logger = TensorBoard(str(tmp_path))
    logger.log_metrics({"train/loss": 0.7, "lr-Adam": 0.125, "epoch": 0}, step=3)
    logger.log_metrics({"val/loss": 0.5, "epoch": 0}, step=3)
    png, width, height = encode_png(filters_figure(torch.ones(4, 1, 3, 3).numpy()))
    logger.add_png("filters/conv1", png, width, height, step=3)
    logger.save()
    logger.finalize("success")
    logger.log_metrics({"test/acc": 0.75}, step=4)
    logger.log_hyperparams({"lr": 0.1, "channels": "[16, 32]", "fused": True, "graph": False})
    logger.close()
    files = [path.relative_to(tmp_path) for path in tmp_path.rglob("events.out.tfevents*")]
    assert sorted(str(f.parent) for f in files) == [".", "test", "train", "val"]
    assert events(tmp_path) == {
        "train/loss": [(3, pytest.approx(0.7))], "val/loss": [(3, 0.5)],
        "test/acc": [(4, 0.75)], "lr-Adam": [(3, 0.125)],
        "pictures/filters/conv1": [(3, png)],
    }  # fmt: skip
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"images": 0}).Reload()
    (image,) = accumulator.Images("pictures/filters/conv1")
    assert (image.width, image.height) == (width, height)
    # No experiment summary: TensorBoard would apply the first one it finds to all runs.
    hparams = [tag for tag in accumulator.summary_metadata if tag.startswith("_hparams_")]
    assert sorted(hparams) == ["_hparams_/session_end_info", "_hparams_/session_start_info"]
    metadata = accumulator.summary_metadata["_hparams_/session_start_info"]
    logged = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert {k: v.string_value or v.number_value for k, v in logged.items()} == {
        "lr": 0.1, "channels": "[16, 32]", "fused": "true", "graph": "false",
    }  # fmt: skip


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's socket tables")
def test_the_printed_tensorboard_command_listens_on_loopback_only(
    tmp_path, activated_environment, proves
):
    logdir = tmp_path / "a run"
    logdir.mkdir()
    program, *arguments = shlex.split(tensorboard_command(logdir))
    assert program == "tensorboard" and arguments[-1] == str(logdir)
    command = [sys.executable, "-m", "tensorboard.main", *arguments, "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            port = next(int(m[1]) for m in map(URL.search, server.stderr) if m)
            endpoints = [
                line.split()[1].split(":")
                for name in ("tcp", "tcp6")
                for line in Path("/proc/net", name).read_text().splitlines()[1:]
                if line.split()[3] == "0A"  # LISTEN
            ]
        finally:
            server.terminate()
    addresses = [address for address, port_hex in endpoints if int(port_hex, 16) == port]
    assert addresses and set(addresses) <= {"0100007F", "00000000000000000000000001000000"}
    proves(
        "Hostile input",
        "The TensorBoard command that a run prints listens on the loopback address only.",
        addresses_checked=len(addresses),
    )


URL = re.compile(r"at http://localhost:(\d+)/")
