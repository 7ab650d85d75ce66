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

    def text(self, spec: str = ".2f", *, factor: float = 1.0) -> str:
        """`98.91 [98.70, 99.12]`, or the mean alone where there is no interval."""
        mean, low, high = (format(factor * x, spec) for x in (self.mean, self.low, self.high))
        return mean if math.isnan(self.low) else f"{mean} [{low}, {high}]"

    def record(self) -> dict[str, float | int | None]:
        """For a JSON file, which knows no NaN."""
        ends = (self.mean, self.low, self.high)
        mean, low, high = (float(x) if math.isfinite(x) else None for x in ends)
        return {"mean": mean, "low": low, "high": high, "n": self.n}


def mean_interval(numbers: Sequence[float] | NDArray[Any], *, share: bool = False) -> Interval:
    """Of the mean of independent numbers (one a seed), by Student's t.

    The ends of a `share` stay within 0 and 1.
    """
    values = np.asarray(numbers, dtype=float)
    n, mean = len(values), float(values.mean())
    if n < 2:
        return Interval(mean, math.nan, math.nan, n)
    margin = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * stats.sem(values))
    low, high = mean - margin, mean + margin
    return Interval(mean, max(0.0, low) if share else low, min(1.0, high) if share else high, n)


def share_interval(count: int, n: int) -> Interval:
    """Of a share of n independent images, by Wilson's score."""
    low, high = stats.binomtest(count, n).proportion_ci(LEVEL, method="wilson")
    return Interval(count / n, float(low), float(high), n)
