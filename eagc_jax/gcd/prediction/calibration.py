"""How sure a prediction is: probabilities that hold, and what is unlike anything seen."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

FALSE_ALARMS = 0.01
_PRIOR = 10.0  # items that the spread of all categories counts as, in each one's own
_SURE = 1e-6  # likelihoods are kept so far from 0 and 1


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Calibration:
    """From softmax and distance to a probability and an alarm.

    The probability is `sigmoid(intercept + slope logit(s))` with s
    the softmax of the category at `temperature`. An item is unlike anything seen where
    its squared distance to the nearest centre, over that category's `spread`, exceeds
    `threshold`; so do `false_alarms` of the discovery's items, each judged as if it had
    not been there.
    """

    temperature: float
    slope: float
    intercept: float
    spreads: np.ndarray  # (K,) float32, of the categories' items
    threshold: float
    false_alarms: float = FALSE_ALARMS
    source: str = ""  # what the probability was fitted to

    def probability(self, likelihoods: np.ndarray) -> np.ndarray:
        """(N,) float32, that the category is right."""
        score = self.intercept + self.slope * logit(likelihoods)
        return sigmoid(score).astype(np.float32)

    def unlike(self, distances: np.ndarray, nearest: np.ndarray) -> np.ndarray:
        """(N,) bool, from squared distances to the nearest centre, and which it is."""
        return distances > self.threshold * self.spreads[nearest]


def spreads_and_threshold(
    distances: np.ndarray, clusters: np.ndarray, num_clusters: int, false_alarms: float
) -> tuple[np.ndarray, float]:
    """How far items lie from their centres, and how far is too far.

    A centre is a mean of which each of its n items is a part, and so too near to it; the
    distance to the mean of the others is `n / (n - 1)` times as long. Categories of few
    items borrow from all others' spread.

    Args:
      distances: (N,) squared, of each item to its category's centre.
      clusters: (N,) integers.
      num_clusters: K.
      false_alarms: share of items that may exceed the threshold.

    Returns:
      (K,) float32 spreads, and the threshold in units of them.

    Examples:
      >>> distances = np.array([0.1, 0.1, 0.4, 0.4])
      >>> spreads, threshold = spreads_and_threshold(
      ...     distances, np.array([0, 0, 1, 1]), 2, 0.01
      ... )
      >>> bool(spreads[0] < spreads[1]), round(threshold, 2)
      (True, 1.45)
    """
    counts = np.bincount(clusters, minlength=num_clusters)
    others = counts[clusters] - 1
    alone = others < 1
    apart = distances * (counts[clusters] / np.maximum(others, 1)) ** 2
    apart, of = apart[~alone].astype(np.float64), clusters[~alone]
    if not len(apart) or apart.max() <= 0:  # nothing is known of any spread
        return np.ones(num_clusters, np.float32), math.inf
    sums = np.bincount(of, apart, minlength=num_clusters)
    numbers = np.bincount(of, minlength=num_clusters)
    spreads = (sums + _PRIOR * apart.mean()) / (numbers + _PRIOR)
    threshold = np.quantile(apart / spreads[of], 1 - false_alarms, method="higher")
    return spreads.astype(np.float32), float(threshold)


def logit(likelihoods: np.ndarray) -> np.ndarray:
    """In float64, kept finite."""
    inside = np.clip(np.asarray(likelihoods, np.float64), _SURE, 1 - _SURE)
    return np.log(inside) - np.log1p(-inside)


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-x))` without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(scores)))
