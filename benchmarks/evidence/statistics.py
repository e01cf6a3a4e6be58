"""Paired comparisons of logarithms, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from benchmarks.evidence.rows import Row
from eagc_jax.gcd.runs.comparison.intervals import Interval, paired_interval


class Comparison(NamedTuple):
    """An arm against another on a task, seeds paired."""

    difference: Interval  # of log error: negative is better
    p: float  # two-sided, of a paired t test; NaN with fewer than two pairs
    wins: int  # seeds in which it was better


def compared(values: Mapping[int, float], control: Mapping[int, float]) -> Comparison:
    """By seed, errors > 0: the mean log ratio over the seeds that both have."""
    seeds = sorted(values.keys() & control.keys())
    ours = np.log([values[seed] for seed in seeds])
    theirs = np.log([control[seed] for seed in seeds])
    interval = paired_interval(ours, theirs)
    wins = int((ours < theirs).sum())
    if len(seeds) < 2:
        return Comparison(interval, math.nan, wins)
    differences = ours - theirs
    deviation = differences.std(ddof=1)
    if deviation == 0:
        return Comparison(interval, 1.0 if interval.mean == 0 else 0.0, wins)
    t = differences.mean() / (deviation / math.sqrt(len(seeds)))
    p = float(2 * stats.t.sf(abs(t), len(seeds) - 1))
    return Comparison(interval, p, wins)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p values that bound the chance of one false claim among all.

    The i-th smallest of m is multiplied by m - i + 1, and none may be below one that is
    smaller. A NaN stays one and doesn't count.

    Examples:
      >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
      [0.03, 0.06, 0.06]

    References:
      Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
      Journal of Statistics 1979.
    """
    p = np.asarray(p_values, float)
    adjusted = np.full(p.shape, np.nan)
    order = [i for i in np.argsort(p, kind="stable") if not np.isnan(p[i])]
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[index]))
        adjusted[index] = largest
    return adjusted.tolist()


class Spread(NamedTuple):
    """Errors of an arm's seeds."""

    seeds: int
    median: float
    geometric_mean: float
    low: float  # the best tenth ends here
    high: float  # the worst tenth begins here
    worst: float


def spread(values: Sequence[float]) -> Spread:
    """Of errors > 0."""
    v = np.asarray(values, float)
    low, high = np.quantile(v, [0.1, 0.9])
    mean = np.exp(np.log(v).mean())
    numbers = (np.median(v), mean, low, high, v.max())
    return Spread(len(v), *(float(number) for number in numbers))


# What counts for a run that ended in a NaN, or with an error above it.
FAILED = {
    "physics": 100.0,
    "multitask": 10.0,
    "continual": 1.0,
    "language": 100.0,
    "rewards": 1000.0,
}


def failed(row: Row) -> bool:
    """Whether the run's error is beyond the family's bound."""
    return not row.value < FAILED.get(row.family, math.inf)


def errors(rows: Sequence[Row]) -> dict[int, float]:
    """By seed; the family's bound for a run that failed."""
    return {
        row.seed: FAILED.get(row.family, math.inf) if failed(row) else row.value
        for row in rows
    }
