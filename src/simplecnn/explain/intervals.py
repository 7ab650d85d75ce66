"""How far a number can be trusted: 95 % intervals of means and of shares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over n numbers and where it lies with 95 % confidence; NaN ends where n is 1."""

    mean: float
    low: float
    high: float
    n: int

    def text(self, *, digits: int = 2, factor: float = 1.0, unit: str = "", of: str = "") -> str:
        """`98.91 [98.70, 99.12] % (n = 3 networks)`, `of` networks.

        Without an interval where there is none.
        """
        mean, low, high = (f"{factor * x:.{digits}f}" for x in (self.mean, self.low, self.high))
        bounds = "" if math.isnan(self.low) else f" [{low}, {high}]"
        return f"{mean}{bounds}{unit} (n = {self.n:,}{' ' * bool(of)}{of})"


def mean_interval(numbers: Sequence[float] | NDArray[Any], *, share: bool = False) -> Interval:
    """Of the mean of independent numbers (one a seed), by Student's t.

    The ends of a `share` stay within 0 and 1.
    """
    values = np.asarray(numbers, dtype=float)
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / math.sqrt(n))
    low, high = mean - half, mean + half
    return (
        Interval(mean, max(0.0, low), min(1.0, high), n) if share else Interval(mean, low, high, n)
    )


def share_interval(count: int, n: int) -> Interval:
    """Of a share of n independent images, by Wilson's score."""
    z = float(stats.norm.ppf((1 + LEVEL) / 2))
    share = count / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half), n)
