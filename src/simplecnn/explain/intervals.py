"""How far a number can be trusted: 95 % intervals of means and of shares."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from simplecnn.figures.explain.comparison import Series

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
        return {key: x if math.isfinite(x) else None for key, x in vars(self).items()}


def mean_interval(numbers: Sequence[float] | NDArray[Any], *, share: bool = False) -> Interval:
    """Of the mean of independent numbers (one a seed), by Student's t.

    The ends of a `share` stay within 0 and 1.
    """
    values = np.asarray(numbers, dtype=float)
    n, mean = len(values), float(values.mean())
    margin = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * stats.sem(values)) if n > 1 else math.nan
    low, high = np.clip([mean - margin, mean + margin], *((0, 1) if share else (None, None)))
    return Interval(mean, float(low), float(high), n)


def share_interval(count: int, n: int) -> Interval:
    """Of a share of n independent images, by Wilson's score."""
    low, high = stats.binomtest(count, n).proportion_ci(LEVEL, method="wilson")
    return Interval(count / n, float(low), float(high), n)


def interval_over(shares: NDArray) -> Interval:
    """Of the mean of shares (networks, images), from 0 to 1.

    Over networks where there are several: they differ by more than the choice of images does. Of
    one network, over its images.
    """
    if len(shares) > 1:
        return mean_interval(shares.mean(1), share=True)
    if shares.dtype == bool:
        return share_interval(int(shares.sum()), shares.size)
    return mean_interval(shares[0], share=True)


def over(shares: NDArray) -> str:
    """What the interval of these shares (networks, images) is over: `3 networks`."""
    return f"{len(shares)} networks" if len(shares) > 1 else f"{shares.size:,} images"


def percent_series(shares: Sequence[NDArray]) -> Series:
    """What a figure compares: shares (networks, images) for each category, in percent."""
    means = [100 * share.mean(1) for share in shares]
    values = np.full((len(means), max(map(len, means))), np.nan)
    for row, mean in zip(values, means, strict=True):
        row[: len(mean)] = mean
    intervals = [interval_over(share) for share in shares]
    low, high = (100 * np.array([getattr(x, end) for x in intervals]) for end in ("low", "high"))
    return Series(values, low, high)
