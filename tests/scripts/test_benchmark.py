"""The benchmark's ratios and report; that a row trains in turns."""

import argparse
import importlib.util
import math
import sys

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "scripts" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["benchmark"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["benchmark"]


def test_ratios_are_taken_within_a_round(benchmark):
    assert benchmark.ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == 2.0


def test_the_report_has_a_row_a_program_and_the_ratios(benchmark):
    ms = {"tutorial": [20.0, 40.0], "bare": [10.0, 20.0], "ours": [11.0, 22.0]}
    found = {
        "processor": "P", "num_cores": 2, "torch": "2",
        "steps": {"ms": ms, "sgemm_gflops": 200.0},
        "start-up": {"first_step_s": [9.0], "import_lightning_s": [10.0]},
        "to 99 %": {"fast_s": [10.0], "fast_acc": [0.992],
                    "tutorial": {"seconds": 100.0, "accuracies": [0.98, 0.991]}},
        "feeding": {"ours_us": 0.2, "usual_us": 40.0},
    }  # fmt: skip
    text = benchmark.report(found)
    (ours,) = [line.split() for line in text.splitlines() if line.startswith("Trainer.fit")]
    assert ours[-3:] == ["16.5", "1.10", "1.00"]
    rows = [line.split() for line in text.splitlines() if line.startswith("the tutorial")]
    tutorial, _ = rows
    assert tutorial[-2:] == ["2.00", "1.82"]
    assert "0.90 of importing Lightning" in text and "200 times as long" in text
    assert "99.20% after 10.0 s" in text and "10.0 times as long" in text


@pytest.mark.long
def test_rows_train_in_turns(benchmark):
    args = argparse.Namespace(rounds=2, steps=2)
    found = benchmark.measure_steps(["bare", "plain"], args)
    assert {row: len(values) for row, values in found.items()} == {"bare": 2, "plain": 2}
    assert all(0 < ms < math.inf for values in found.values() for ms in values)
