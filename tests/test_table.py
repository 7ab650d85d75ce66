"""Tables of text."""

from simplecnn.table import table


def test_columns_are_aligned_on_a_terminal():
    """A Chinese or Japanese character occupies two columns."""
    assert table([["class", "n"], ["梨", "12"], ["apple", "3"]]).splitlines() == [
        "class    n",
        "梨      12",
        "apple    3",
    ]
