"""Tables of text."""

import pytest

from simplecnn.callbacks.progress import value_text
from simplecnn.sweeps.report import metric_text
from simplecnn.table import is_percentage, table


def test_columns_are_aligned_on_a_terminal():
    """A Chinese or Japanese character occupies two columns."""
    assert table([["class", "n"], ["梨", "12"], ["apple", "3"]]).splitlines() == [
        "class    n",
        "梨      12",
        "apple    3",
    ]


@pytest.mark.parametrize(("metric", "expected"), [
    ("acc", True), ("val/acc", True), ("val/accuracy", True), ("val_acc", True),
    ("test/top2_acc", True), ("val/macro_accuracy", True), ("val/acc_top5", True),
    ("train/accuracy_step", True), ("val/loss", False), ("val/accel_mae", False),
    ("val/vacc", False), ("val/inaccuracy", False), ("acc/loss", False), ("accuracy_of/f1", False),
])  # fmt: skip
def test_a_run_and_its_sweep_agree_on_what_is_a_percentage(metric, expected):
    assert is_percentage(metric) == expected
    texts = ("98.76 %", "98.76") if expected else ("0.9876", "0.9876")
    assert (value_text(metric, 0.9876), metric_text(metric, 0.9876)) == texts
