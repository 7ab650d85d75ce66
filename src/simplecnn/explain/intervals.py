"""95 % confidence intervals of means and of proportions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from simplecnn.figures.explain.comparison import Series

LEVEL = 0.95
MIN_NUMBERS = 3  # of two, the interval of the mean is 25 times their standard error


@dataclass(frozen=True)
class Interval:
    """The mean of n numbers and its 95 % confidence interval, NaN for n < 3."""

    mean: float
    low: float
    high: float
    n: int

    def text(self, spec: str = ".2f", *, factor: float = 1.0) -> str:
        """Format as `98.91 [98.70, 99.12]`, or as the mean alone without an interval."""
        mean, low, high = (format(factor * x, spec) for x in (self.mean, self.low, self.high))
        return mean if math.isnan(self.low) else f"{mean} [{low}, {high}]"

    def record(self) -> dict[str, float | int | None]:
        """Return the fields for JSON, which has no NaN: None instead."""
        return {key: x if math.isfinite(x) else None for key, x in vars(self).items()}


def mean_interval(numbers: Sequence[float] | NDArray[Any], *, top: float | None = None) -> Interval:
    """Student's t interval for the mean of independent numbers, for example one per seed.

    Fractions (`top=1`) and percentages (`top=100`) have their interval clipped to 0 and `top`.
    """
    values = np.asarray(numbers, dtype=float)
    n, mean = len(values), float(values.mean())
    margin = math.nan
    if n >= MIN_NUMBERS:
        margin = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * stats.sem(values))
    low, high = np.clip([mean - margin, mean + margin], None if top is None else 0, top)
    return Interval(mean, float(low), float(high), n)


def share_interval(count: int, n: int) -> Interval:
    """Wilson's score interval for the proportion `count / n` of independent images."""
    low, high = stats.binomtest(count, n).proportion_ci(LEVEL, method="wilson")
    return Interval(count / n, float(low), float(high), n)


def interval_over(shares: NDArray) -> Interval:
    """The interval for the mean of fractions (networks, images) from 0 to 1.

    Several networks are the sample: they vary more than the choice of images does. For a single
    network, its images are the sample.
    """
    if len(shares) > 1:
        return mean_interval(shares.mean(1), top=1)
    if shares.dtype == bool:
        return share_interval(int(shares.sum()), shares.size)
    return mean_interval(shares[0], top=1)


def sample_size(shares: NDArray) -> str:
    """The sample of `interval_over(shares)`, for example `3 networks` or `500 images`."""
    if len(shares) > 1:
        return f"{len(shares)} networks{' (too few)' * (len(shares) < MIN_NUMBERS)}"
    return f"{shares.size:,} images"


def percent_series(shares: Sequence[NDArray]) -> Series:
    """Convert fractions (networks, images), one array per category, to a series in percent."""
    means = [100 * share.mean(1) for share in shares]
    values = np.array(list(zip_longest(*means, fillvalue=np.nan))).T
    intervals = [interval_over(share) for share in shares]
    low, high = (100 * np.array([getattr(x, end) for x in intervals]) for end in ("low", "high"))
    return Series(values, low, high)
