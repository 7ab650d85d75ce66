"""Aligned text tables and percentages, for the screen and the log."""

import re
from collections.abc import Sequence
from operator import add
from unicodedata import east_asian_width


def table(rows: Sequence[Sequence[str]], *, gap: int = 3) -> str:
    """Format rows as lines: the first column left-aligned, all other columns right-aligned."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        padding = [" " * (n - _width(cell)) for n, cell in zip(widths, row, strict=True)]
        cells = [row[0] + padding[0], *map(add, padding[1:], row[1:])]
        lines.append((" " * gap).join(cells).rstrip())
    return "\n".join(lines)


def _width(text: str) -> int:
    """Width of `text` in terminal columns: two for each Chinese or Japanese character."""
    return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)


def is_percentage(metric: str) -> bool:
    """Whether a metric is an accuracy, shown in percent: `val/acc`, `acc_top5`, but not `accel`."""
    return bool(re.search(r"(^|[/_])acc(uracy)?$|(^|/)acc(uracy)?_[^/]*$", metric))


def percent(share: float, *, digits: int = 1) -> str:
    """Format a share of 1 in percent; a share below 1 is never rounded up to 100 %."""
    if share < 1 and float(f"{100 * share:.{digits}f}") >= 100:
        return f"> {100 - 10**-digits:.{digits}f} %"
    return f"{100 * share:.{digits}f} %"
