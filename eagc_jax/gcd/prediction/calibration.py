"""Calibrated probabilities, and an alarm for items that are unlike anything seen."""

from __future__ import annotations

import dataclasses
import math

import numpy as np

FALSE_ALARMS = 0.01
_SURE = 1e-6  # likelihoods are kept so far from 0 and 1
_BLOCK = 2**14  # rows at once


@dataclasses.dataclass(frozen=True)
class Calibration:
    """From softmax and distance to a probability and an alarm.

    The probability is `sigmoid(intercept + slope logit(s))` with s the softmax of the
    category at `temperature`: of squared distances to the centres, negative, or of the
    heads' logits. An item is unlike anything seen where its squared distance
    to the nearest category's centre exceeds `threshold`; that of `false_alarms` of the
    discovery's items does, each judged as if it had not been there.
    """

    temperature: float
    by_distance: bool = True
    slope: float = 1.0
    intercept: float = 0.0
    threshold: float = math.inf
    false_alarms: float = FALSE_ALARMS
    source: str = ""  # what the probability was fitted to

    def probability(self, likelihoods: np.ndarray) -> np.ndarray:
        """(N,) float32, that the category is right, from the softmax."""
        score = self.intercept + self.slope * logit(likelihoods)
        return sigmoid(score).astype(np.float32)


def threshold(
    features: np.ndarray, clusters: np.ndarray, centres: np.ndarray, false_alarms: float
) -> float:
    """The squared distance to the nearest centre that few of the items exceed.

    A centre is a mean of which each of its n items is a part, and so too near to it: the
    distance to the mean of the others is `n / (n - 1)` times as long, and counts. (In
    units of each category's own spread, the rate would be the same, but far fewer items
    of none of the categories would be found: a cluster of many kinds has a large one.)

    Args:
      features: (N, D), taken to length 1 here.
      clusters: (N,) integers.
      centres: (K, D) means of the items of each.
      false_alarms: share of items that may exceed it.

    Returns:
      The threshold; infinite where no category has two items.

    Examples:
      >>> rows = np.array([[1, 0.1], [1, -0.1], [0.1, 1], [-0.1, 1.0]])
      >>> centres = np.array([[0.995, 0], [0, 0.995]])
      >>> round(threshold(rows, np.array([0, 0, 1, 1]), centres, 0.01), 3)
      0.04
    """
    counts = np.bincount(clusters, minlength=len(centres))
    parts = []
    for start in range(0, len(features), _BLOCK):
        of = clusters[start : start + _BLOCK]
        apart = squared_distances(features[start : start + _BLOCK], centres)
        at = np.arange(len(of)), of
        apart[at] *= (counts[of] / np.maximum(counts[of] - 1, 1)) ** 2
        parts.append(apart.min(axis=1)[counts[of] > 1])
    found = np.concatenate(parts)
    if not len(found):
        return math.inf
    return float(np.quantile(found, 1 - false_alarms, method="higher"))


def squared_distances(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(N, K) from rows, taken to length 1, to centres."""
    unit, centres = unit_rows(rows), np.asarray(centres, np.float32)
    squares = np.sum(unit**2, axis=1)[:, None] + np.sum(centres**2, axis=1)
    return np.maximum(squares - 2 * unit @ centres.T, 0)


def unit_rows(rows: np.ndarray) -> np.ndarray:
    """Float32 rows of length 1; a zero row stays zero."""
    rows = np.asarray(rows, np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.maximum(lengths, 1e-12)


def means(features: np.ndarray, clusters: np.ndarray, number: int) -> np.ndarray:
    """(K, D) float32 means of each cluster's rows, taken to length 1."""
    sums = np.zeros((number, features.shape[1]))
    for start in range(0, len(features), _BLOCK):
        rows = unit_rows(features[start : start + _BLOCK])
        np.add.at(sums, clusters[start : start + _BLOCK], rows)
    counts = np.bincount(clusters, minlength=number)
    return (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)


def with_top(scores: np.ndarray, clusters: np.ndarray, top: np.ndarray) -> np.ndarray:
    """Softmax of scores, each row at the temperature at which one category has `top`.

    Args:
      scores: (N, K).
      clusters: (N,) which category is to have it, and at least any other's probability.
      top: (N,) in (0, 1).

    Returns:
      (N, K) float64; uniform where `top` is below 1 / K.

    Examples:
      >>> with_top(np.array([[2.0, 1.0, 0.0]]), np.array([0]), np.array([0.5])).round(2)
      array([[0.5 , 0.31, 0.19]])
    """
    at = np.arange(len(scores)), clusters
    gaps = scores[at][:, None].astype(np.float64) - scores
    gaps = np.maximum(gaps, 0)  # heads that assign may not be the nearest centre
    largest = np.where(np.isfinite(gaps), gaps, 0).max(axis=1, initial=1e-9)
    low, high = np.full(len(scores), -50.0), np.full(len(scores), 50.0)
    for _ in range(60):  # of the logarithm of what multiplies the gaps
        middle = (low + high) / 2
        of_top = 1 / np.exp(-gaps * _times(middle, largest)).sum(axis=1)
        low, high = (
            np.where(of_top < top, middle, low),
            np.where(of_top < top, high, middle),
        )
    weights = np.exp(-gaps * _times(high, largest))
    return weights / weights.sum(axis=1, keepdims=True)


def _times(logarithm: np.ndarray, largest: np.ndarray) -> np.ndarray:
    return (np.exp(logarithm) / largest)[:, None]


def logit(likelihoods: np.ndarray) -> np.ndarray:
    """In float64, kept finite."""
    inside = np.clip(np.asarray(likelihoods, np.float64), _SURE, 1 - _SURE)
    return np.log(inside) - np.log1p(-inside)


def sigmoid(scores: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-x))` without overflow."""
    return 0.5 * (1 + np.tanh(0.5 * np.asarray(scores)))
