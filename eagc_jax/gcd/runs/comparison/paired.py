"""The accuracies of two assignments of the same items, item by item."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

_DRAWS = 10_000
METHOD = (
    "percentile bootstrap over items, the matching of clusters to classes kept; p of "
    "McNemar's exact test"
)


class PairedAccuracy(NamedTuple):
    """What the second has that the first has not."""

    difference: float  # of the accuracies, second less first; NaN of no item
    low: float  # ends of its interval
    high: float
    better: int  # items that are right only in the second
    worse: int  # right only in the first
    p_value: float  # that so uneven a division comes by chance, McNemar's exact test


def paired_accuracy(
    first: ArrayLike, second: ArrayLike, *, level: float = 0.95, seed: int = 0
) -> PairedAccuracy:
    """The difference of two accuracies, with an interval over items.

    Items are drawn anew, with replacement, ten thousand times; the interval is between
    the quantiles of the differences. It says what other items of the same kind would
    change, not what another seed of the run would.

    Args:
      first: (N,) booleans, which items are right.
      second: (N,) booleans of the same items.
      level: of confidence, in (0, 1).
      seed: of the draws.

    Returns:
      The difference and its interval.

    Raises:
      ValueError: shapes differ, or the level is not in (0, 1).

    Examples:
      >>> found = paired_accuracy([True] * 50 + [False] * 50, [True] * 70 + [False] * 30)
      >>> found.better, found.worse, round(found.difference, 6), found.low > 0
      (20, 0, 0.2, True)

    References:
      McNemar, "Note on the sampling error of the difference between correlated
      proportions or percentages", Psychometrika 1947. Efron, "Bootstrap methods: another
      look at the jackknife", Annals of Statistics 1979.
    """
    a, b = np.asarray(first, bool), np.asarray(second, bool)
    if a.ndim != 1 or a.shape != b.shape:
        raise ValueError(
            f"first and second must have the same shape (N,), got {a.shape} and {b.shape}"
        )
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    number, better, worse = len(a), int((b & ~a).sum()), int((a & ~b).sum())
    if not number:
        return PairedAccuracy(np.nan, np.nan, np.nan, 0, 0, np.nan)
    # Of a draw, only how many items are better, worse and neither counts.
    shares = np.array([better, worse, number - better - worse]) / number
    drawn = np.random.default_rng(seed).multinomial(number, shares, _DRAWS)
    ends = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile((drawn[:, 0] - drawn[:, 1]) / number, ends).tolist()
    return PairedAccuracy(
        (better - worse) / number, low, high, better, worse, _mcnemar(better, worse)
    )


def _mcnemar(better: int, worse: int) -> float:
    if not better + worse:
        return 1.0
    return float(stats.binomtest(better, better + worse).pvalue)
