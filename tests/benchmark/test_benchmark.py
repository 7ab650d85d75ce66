"""The benchmark measures what it says; its table and picture say what it measured."""

import itertools
import json
import os
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import compose_run
from matplotlib.backends.backend_agg import FigureCanvasAgg

from simplecnn.benchmark import baselines, benchmark, report
from simplecnn.benchmark import steps as benchmark_steps
from simplecnn.data.mnist import MNIST5kDataModule
from simplecnn.figures.benchmark import Bars, benchmark_figure
from simplecnn.models.simple_cnn import SimpleCNN


def test_the_baseline_is_the_tutorials_network_and_transform(bundled):
    torch.manual_seed(0)
    theirs, ours = baselines.TutorialCNN(), SimpleCNN().eval()
    ours.load_state_dict(theirs.state_dict())
    images, labels = torch.from_numpy(bundled[0][:20].copy()), torch.from_numpy(bundled[1][:20])
    dataset = baselines.torchvision_mnist(images, labels)
    batch = torch.stack([image for image, _ in dataset])
    assert torch.equal(batch[:, 0], images / 255)
    assert [label for _, label in dataset] == labels.tolist()
    assert torch.equal(theirs(batch), ours(batch))
    normal = baselines.torchvision_mnist(images, labels, normalize=True)[3][0]
    torch.testing.assert_close(normal, (batch[3] - 0.1307) / 0.3081)


def test_the_tutorials_loop_learns_and_reports_its_accuracy(bundled):
    torch.manual_seed(0)
    part = torch.from_numpy(bundled[0][::5].copy()), torch.from_numpy(bundled[1][::5].copy())
    seen = []
    baselines.train_tutorial(
        part,
        test=part,
        batch_size=64,
        device=torch.device("cpu"),
        epoch_done=lambda a: seen.append(a) or len(seen) == 3,
    )
    assert len(seen) == 3 and seen[-1] > max(seen[0], 0.5)


class Connection:
    """The other end of a row's connection: what it was told, and how often it waited."""

    def __init__(self):
        self.told = []
        self.num_waits = 0

    def send(self, answer):
        self.told.append(answer)

    def recv(self):
        self.num_waits += 1


def test_a_step_is_timed_in_windows_and_by_turns(monkeypatch):
    # 24 slow steps, then two turns of 8 steps to warm up and of three windows of eight steps,
    # seven of them short: 8, 16 and 8 seconds. In between 1000 seconds of waiting.
    clock = itertools.accumulate([100.0] * 24 + [1000.0] + 2 * TURN_AND_WAIT)
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    connection = Connection()
    timer = benchmark_steps.Steps(connection, steps=24, rounds=2)
    assert timer.num_ends == 24 + 2 * 32
    assert [timer.done() for _ in range(timer.num_ends)] == [False] * 87 + [True]
    assert connection.told == [None, 1, 1]
    assert connection.num_waits == 3
    assert timer.seconds_waited == 3000
    # Steps that Lightning sees as one batch are timed as one window, in whole windows.
    timer = benchmark_steps.Steps(connection, steps=24, rounds=2, window=16)
    assert timer.num_ends == 3 * 16 + 2 * (16 + 32)


WINDOWS = [first for seconds in (8, 16, 8) for first in [0.5] * 7 + [seconds - 3.5]]
TURN_AND_WAIT = [*[50.0] * 8, *WINDOWS, 1000.0]


def test_what_fails_in_a_process_is_told():
    def row(work):
        return benchmark_steps.Row(work, steps=8, rounds=1)

    with pytest.raises(ZeroDivisionError):
        row(divide)
    with pytest.raises(RuntimeError, match="ended with exit code 3"):
        row(partial(exit_with, 3))


def divide(steps):
    return 1 / 0


def exit_with(code, steps):
    os._exit(code)


def test_flop_of_a_step_are_those_counted_by_hand():
    # Multiplications of the forward pass, and of the backward pass, which is twice as much but
    # for the first convolution: nobody asks for the gradient of the images.
    forward = 112_896 + 903_168 + 903_168 + 73_728 + 1_280
    backward = 112_896 + 2 * (903_168 + 903_168 + 73_728 + 1_280)
    assert benchmark.flop_of_step(64) == 64 * 2 * (forward + backward)


def test_everything_that_is_on_by_default_is_off_in_one_row(tmp_path):
    config = compose_run(tmp_path)
    assert set(report.WITHOUT[report.NOTHING]) == {*config["callbacks"], *config["logger"]}
    pictures = {
        name
        for name, node in config["callbacks"].items()
        if node.get("dirpath", "").endswith("images")
    }
    assert set(report.PICTURES) == pictures


@pytest.mark.parametrize("row", [report.WHOLE, report.BARE])
def test_a_bare_step_is_one_batch_whatever_lightning_sees_together(row, tmp_path, monkeypatch):
    config = compose_run(tmp_path, "data.batch_size=32", "data.steps_together=4")
    config |= {"quick": True, "augmentation": None}
    sizes, forward = [], SimpleCNN.forward

    def counted(network, images):
        sizes.append(len(images))
        return forward(network, images)

    monkeypatch.setattr(SimpleCNN, "forward", counted)
    steps = benchmark_steps.Steps(Connection(), steps=8, rounds=1)
    benchmark_steps.rows(config, tmp_path)[row](steps)
    assert sum(sizes) == 32 * steps.num_ends


@pytest.mark.filterwarnings("ignore")  # the baselines do what people do
@pytest.mark.long
def test_rows_of_steps_are_measured(tmp_path):
    config = compose_run(tmp_path, "callbacks=[default]", "data.batch_size=16")
    config |= {"rounds": 2, "steps": 16, "quick": True}
    config["augmentation"] = {"_target_": "simplecnn.data.augmentation.RandomElastic", "bend": 0.5}
    found = benchmark.steps(config, tmp_path)
    rows = found["ms_per_step"]
    assert set(rows) == {
        *(report.TUTORIAL, report.USUAL, report.TEMPLATE, report.WHOLE),
        *(report.BARE, report.FIT, report.ALONE, report.CHANGED, report.NOTHING),
    }
    assert {*benchmark_steps.rows({**config, "quick": False}, tmp_path)} == {*rows, *report.WITHOUT}
    assert all(len(times) == 2 and 0.1 < min(times) < 10_000 for times in rows.values())
    ratios = sorted(a / b for a, b in zip(rows[report.TUTORIAL], rows[report.FIT], strict=True))
    assert found["tutorial_against_fit"] == pytest.approx(sum(ratios) / 2, rel=0.01)
    assert set(found["seconds_of_a_fit"]) == {
        *(report.FIT, report.ALONE, report.CHANGED, report.NOTHING)
    }
    assert found["feeding"] > 10
    assert list((tmp_path / "images").glob("*.png"))  # pictures were drawn, and so were counted


STEPS = {
    report.TUTORIAL: [14.0, 16.0, 15.0],
    report.USUAL: [20.0, 20.0, 20.0],
    report.TEMPLATE: [30.0, 30.0, 30.0],
    report.WHOLE: [7.0, 7.0, 7.0],
    report.BARE: [6.0, 6.0, 6.0],
    report.FIT: [6.3, 6.3, 6.3],
    "without pictures": [6.2, 6.2, 6.2],
}
RESULT = {
    "machine": {"processor": "Some CPU", "num_threads": 2, "torch": "2.15.0"},
    "batch_size": 64,
    "rounds": 3,
    "repeats": 1,
    "ms_per_step": STEPS,
    "memory_mb": {name: 1000.0 for name in STEPS},
    "seconds_of_a_fit": {report.FIT: 3.0, "without pictures": 2.0},
    "seconds_of_feeding_60000": {"torchvision DataLoader": [6.0], "ours": [0.02]},
    "sgemm_gflops": [150.0],
    "peak_gflops": 150.0,
    "gflop_per_step": 0.751,
    "share_of_sgemm": 0.6,
    "feeding": 300.0,
    "seconds_of_start": {n: [float(i + 1)] for i, n in enumerate(report.START_UP)},
    "seconds_by_phase": {"import": 13.0, "fit": 2.0},
    "first_step_against_import": 1.1,
    "peak_memory_mb": 1000.0,
    "fast": {
        "seconds": [12.0, 14.0],
        "test_accuracy": [0.992, 0.993],
        "mean_accuracy": 0.9925,
        "deviation": 0.0007,
    },
    "tutorial": {"seconds": 120.0, "test_accuracy": [0.98, 0.991], "reached": True},
    "tutorial_against_fast": 9.2,
}


def test_the_table_says_what_was_measured():
    text = report.table(RESULT)
    lines = {line[:32].strip(): line for line in text.splitlines()}
    assert lines[report.FIT].split()[-8:] == [
        "6.30",
        "1.05",
        "2.38",
        "x",
        "1000",
        "MB",
        "3.00",
        "s",
    ]
    assert "60 % of sgemm's 150 GFLOP/s (0.751 GFLOP a step)" in text
    assert "feeding 60,000 digits 20 ms, torchvision's DataLoader 6.0 s: 300 times as fast" in text
    assert "experiment=fast: 99.25 % ± 0.07 (n = 2) in 13.0 s" in text
    assert "the tutorial's loop reached 99.0 % in 120.0 s, 2 epochs: 9.2 times as long" in text
    assert "its peak memory: 1000 MB" in text
    assert "Some CPU, 2 threads, torch 2.15.0, batch 64" in text
    json.dumps(RESULT)


def test_on_a_gpu_its_own_ceiling_is_named():
    gpu = {"name": "Some GPU", "sgemm_gflops": 50_000, "copy_gb_per_s": 2000, "launch_us": 2.5}
    text = report.table({**RESULT, "gpu": gpu, "peak_gflops": 50_000, "share_of_sgemm": 0.12})
    assert "12 % of sgemm's 50000 GFLOP/s" in text
    assert "a copy on the GPU 2000 GB/s, a launch 2.5 µs" in text
    assert "Some GPU, Some CPU, 2 threads" in text


def test_the_picture_has_a_bar_a_row_as_long_as_its_time():
    panels = report.panels(RESULT)
    assert [len(panel.rows) for panel in panels] == [6, 5, 2]
    figure = benchmark_figure(panels, title=report.caption(RESULT))
    for ax, panel in zip(figure.axes, panels, strict=True):
        assert [bar.get_width() for bar in ax.patches] == [row[1] for row in panel.rows]
        assert [text.get_text() for text in ax.texts] == [row[2] for row in panel.rows]
        assert ax.get_xlim()[0] == 0
    FigureCanvasAgg(figure).draw()
    frame = np.asarray(figure.canvas.buffer_rgba())[:, :, :3]
    for edge in (frame[0], frame[-1], frame[:, 0], frame[:, -1]):
        assert (edge == 255).all()  # nothing is cut off


def test_ours_have_another_colour():
    (ax,) = benchmark_figure(
        [Bars("s", [("a", 1, "1", False), ("b", 2, "2", True)])], title=""
    ).axes
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()


def test_sgemm_is_a_rate():
    start = time.perf_counter()
    rate = benchmark.sgemm(256)
    elapsed = time.perf_counter() - start
    assert 6 * 2 * 256**3 / elapsed / 1e9 <= rate < 10_000


@pytest.mark.parametrize("reaches", [True, False])
def test_time_to_accuracy_compares_whole_runs(reaches, tmp_path, monkeypatch):
    """Five runs of ours by their records, and the tutorial's loop until it is there."""

    def our_run(command, **_):
        place = Path(next(w for w in command if w.startswith("hydra.run.dir")).split("'")[1])
        seed = int(place.name[-1])
        assert "trainer.accelerator=cpu" in command
        place.mkdir()
        record = {"seconds": {"fit": 9.0 + seed, "test": 1.0}, "metrics": {"test/acc": 0.99}}
        (place / "run.json").write_text(json.dumps(record))

    def loop(train, *, test, batch_size, device, epoch_done):
        assert device == torch.device("cpu")
        assert (len(train[0]), len(test[0]), batch_size) == (4500, 500, 64)
        for accuracy in [0.98, 0.99 if reaches else 0.98] + 20 * [0.98]:
            if epoch_done(accuracy):
                return

    monkeypatch.setattr(benchmark.subprocess, "run", our_run)
    monkeypatch.setattr(benchmark, "train_tutorial", loop)
    data = {"_target_": "simplecnn.data.mnist.MNIST5kDataModule", "batch_size": 64, "data_dir": "d"}
    monkeypatch.setattr(benchmark, "build", lambda node: MNIST5kDataModule(val_size=0))
    config = {**compose_run(tmp_path), "data": data}
    found = benchmark.time_to_accuracy(config, tmp_path)
    assert found["fast"]["seconds"] == [11.0, 12.0, 13.0, 14.0, 15.0]
    assert (found["fast"]["mean_accuracy"], found["fast"]["deviation"]) == (0.99, 0)
    assert found["tutorial"]["reached"] is reaches
    assert len(found["tutorial"]["test_accuracy"]) == (2 if reaches else benchmark.MOST_EPOCHS)
