"""The benchmark's ratios and table, and rows that train in turns."""

import argparse
import importlib.util
import math

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("benchmark", ROOT / "scripts" / "benchmark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ratios_are_computed_within_a_round(benchmark):
    assert benchmark.ratio([2.0, 30.0, 4.0], [1.0, 10.0, 4.0]) == 2.0


def test_the_table_has_one_row_per_program_with_ratios(benchmark):
    ms = {"tutorial": [20.0, 40.0], "bare": [10.0, 20.0], "ours": [11.0, 22.0]}
    rows = benchmark.step_table(ms).splitlines()
    (ours,) = [row.split() for row in rows if row.startswith("Trainer.fit")]
    assert ours[-3:] == ["16.5", "1.10", "1.00"]
    (tutorial,) = [row.split() for row in rows if row.startswith("the tutorial")]
    assert tutorial[-2:] == ["2.00", "1.82"]


@pytest.mark.long
def test_rows_train_in_turns(benchmark):
    args = argparse.Namespace(rounds=1, steps=2)
    ms = benchmark.measure_steps(["bare", "plain"], args)
    assert {row: len(values) for row, values in ms.items()} == {"bare": 1, "plain": 1}
    assert all(0 < value < math.inf for values in ms.values() for value in values)
