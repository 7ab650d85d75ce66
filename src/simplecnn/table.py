"""Aligned text tables and shares, for the screen and the log."""

from collections.abc import Sequence
from operator import add
from unicodedata import east_asian_width


def table(rows: Sequence[Sequence[str]], *, gap: int = 3) -> str:
    """Rows of texts as lines: the first column to the left, the others to the right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = (" " * (n - _width(cell)) for n, cell in zip(widths, row, strict=True))
        cells = [row[0] + first, *map(add, others, row[1:])]
        lines.append((" " * gap).join(cells).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    """Columns that a terminal gives a text: two for each Chinese or Japanese character."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def percent(share: float, *, digits: int = 1) -> str:
    """Never 100 % for what is less than certain."""
    if share < 1 and float(f"{100 * share:.{digits}f}") >= 100:
        return f"> {100 - 10**-digits:.{digits}f} %"
    return f"{100 * share:.{digits}f} %"
