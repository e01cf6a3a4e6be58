"""Runs against a control of the same seed, because seeds differ more than arms do."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from eagc_jax.gcd.runs.comparison.finished import MEASURES, FinishedRun, finished


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float
    pairs: int  # how many differences it is the mean of

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside; False where there is no interval."""
        return self.low > 0 or self.high < 0


def paired_interval(
    values: ArrayLike, control: ArrayLike, *, level: float = 0.95
) -> Interval:
    r"""Student's interval for the mean of paired differences.

    With differences d of n pairs, `mean(d) -+ t std(d) / sqrt(n)`, where std divides by
    n - 1 and t is the `(1 + level) / 2` quantile with n - 1 degrees of freedom. A pair
    with a NaN does not count.

    Args:
      values: (n,) floats.
      control: (n,) floats, each the partner of the value at its place.
      level: of confidence, in (0, 1).

    Returns:
      The mean and its interval; NaN ends with one pair, NaN throughout with none.

    Raises:
      ValueError: the shapes differ, or the level is not in (0, 1).

    Examples:
      >>> interval = paired_interval([0.9, 0.8, 0.7], [0.8, 0.7, 0.5])
      >>> print(f"{interval.mean:+.3f} {interval.low:+.3f} {interval.high:+.3f}")
      +0.133 -0.010 +0.277

    References:
      Student, "The Probable Error of a Mean", Biometrika 1908.
    """
    values, control = np.asarray(values, float), np.asarray(control, float)
    if values.ndim != 1 or values.shape != control.shape:
        raise ValueError(
            "values and control must have the same shape (n,), got "
            f"{values.shape} and {control.shape}"
        )
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    differences = values - control
    differences = differences[~np.isnan(differences)]
    pairs = len(differences)
    if pairs == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(differences.mean())
    if pairs == 1:
        return Interval(mean, math.nan, math.nan, 1)
    quantile = stats.t.ppf((1 + level) / 2, pairs - 1)
    half = float(quantile * differences.std(ddof=1) / math.sqrt(pairs))
    return Interval(mean, mean - half, mean + half, pairs)


class Summary(NamedTuple):
    """One arm on one data set over its seeds."""

    dataset: str
    arm: str
    seeds: int
    mean: Mapping[str, float]  # by measure; NaNs do not count
    deviation: Mapping[str, float]  # standard deviation over seeds, n - 1; NaN if n = 1
    difference: Mapping[
        str, Interval
    ]  # to the control, seeds in common; none for itself


def summarize(
    runs: Sequence[FinishedRun], control: str, *, level: float = 0.95
) -> list[Summary]:
    """Mean, deviation and paired difference to the control, by data set and arm.

    Args:
      runs: of any data sets, arms and seeds, each combination at most once.
      control: the arm that the others are compared with, seed by seed.
      level: of confidence, in (0, 1).

    Returns:
      One summary each data set and arm, both in the order of first appearance.

    Raises:
      ValueError: a run is there twice, or the level is not in (0, 1).
    """
    if len(finished(runs)) != len(runs):
        raise ValueError("runs must hold each data set, arm and seed at most once")
    by_arm: dict[str, dict[str, dict[int, FinishedRun]]] = {}
    for run in runs:
        by_arm.setdefault(run.dataset, {}).setdefault(run.arm, {})[run.seed] = run
    return [
        _summary(dataset, arm, seeds, arms.get(control, {}), arm == control, level)
        for dataset, arms in by_arm.items()
        for arm, seeds in arms.items()
    ]


def _summary(
    dataset: str,
    arm: str,
    seeds: Mapping[int, FinishedRun],
    control: Mapping[int, FinishedRun],
    is_control: bool,
    level: float,
) -> Summary:
    common = sorted(seeds.keys() & control.keys())
    means, deviations, differences = {}, {}, {}
    for measure in MEASURES:
        values = np.array([getattr(run, measure) for run in seeds.values()])
        values = values[~np.isnan(values)]
        means[measure] = float(values.mean()) if len(values) else math.nan
        deviations[measure] = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        if not is_control:
            differences[measure] = paired_interval(
                [getattr(seeds[seed], measure) for seed in common],
                [getattr(control[seed], measure) for seed in common],
                level=level,
            )
    return Summary(dataset, arm, len(seeds), means, deviations, differences)
