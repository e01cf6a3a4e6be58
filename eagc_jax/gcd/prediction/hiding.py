"""Calibration on novel classes, learned by hiding known ones."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LogisticRegression

from eagc_jax.gcd.clustering import assign, semi_supervised_kmeans
from eagc_jax.gcd.prediction.calibration import logit

_ROUNDS = 4  # a quarter of the known classes is hidden in each
_RESTARTS, _FEW_RESTARTS = 10, 3  # of k-means; the latter where it takes long
_LONG = 2**17  # rows times categories
_ROWS = 20_000  # of all items, that take part
_FEWEST = 4  # known classes
_FLATTEST = 0.05  # slope: more likely is never less probable


class Judged(NamedTuple):
    """What one round says of the labeled items whose label was hidden."""

    likelihoods: np.ndarray  # (M,) softmax of the cluster they are in
    right: np.ndarray  # (M,) bool
    novel: np.ndarray  # (M,) bool, their class was hidden


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    *,
    temperature: float,
    novel_share: float,
    seed: int = 0,
) -> tuple[float, float] | None:
    """Slope and intercept that make a softmax the probability to be right.

    A softmax of distances is too sure of itself: clusters are not classes, and what it
    leaves out are clusters that hold two classes or a part of one. Labeled items can't
    show that, whose class has a centre. So a quarter of the known classes is hidden, as
    are half of the labels of the others; all items are clustered anew, and clusters
    matched with the hidden classes. Then it is known of the labeled items who is right.
    Four times, so that each class is hidden once, then a logistic regression of right on
    the softmax's logit, in which hidden and known classes weigh as novel and known ones
    do among the items to be judged.

    Args:
      features: (N, D), of which labels did not decide.
      labels: (N,) integers, -1 where there is none.
      num_classes: K.
      temperature: of the softmax.
      novel_share: of the unlabeled items, that are in novel clusters.
      seed: of what is hidden.

    Returns:
      `(slope, intercept)`; None where there are fewer than four known classes, or all
      that was judged was right, or none.
    """
    known = int(labels.max(initial=-1)) + 1
    if known < _FEWEST:
        return None
    random = np.random.default_rng(seed)
    rows = _some(labels, random)
    chosen, given = np.asarray(features[rows]), labels[rows]
    parts = np.array_split(random.permutation(known), _ROUNDS)
    rounds = [
        _judged(
            chosen,
            given,
            *_hidden(given, part, random),
            num_classes,
            temperature,
            jax.random.key(number),
        )
        for number, part in enumerate(parts)
    ]
    found = Judged(*(np.concatenate(x) for x in zip(*rounds, strict=True)))
    return _regressed(found, novel_share)


def _some(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Rows that take part: at most so many, half of them labeled if there are as many."""
    labeled, rest = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    first = random.permutation(labeled)[: max(_ROWS // 2, _ROWS - len(rest))]
    return np.sort([*first, *random.permutation(rest)[: _ROWS - len(first)]])


def _hidden(
    labels: np.ndarray, hidden: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Labels that are left, numbered without a gap, and which classes those are."""
    kept = np.setdiff1d(labels[labels >= 0], hidden)
    number = np.full(labels.max() + 2, -1)
    number[kept] = np.arange(len(kept))
    left = number[labels]  # the label -1 takes the last, which is -1
    spare = random.permutation(np.flatnonzero(left >= 0))
    _, first = np.unique(left[spare], return_index=True)
    spare = np.delete(spare, first)  # each class keeps a label
    left[spare[: (len(spare) + len(first)) // 2]] = -1
    return left, kept


def _judged(
    features: np.ndarray,
    labels: np.ndarray,
    left: np.ndarray,
    kept: np.ndarray,
    num_classes: int,
    temperature: float,
    key: jax.Array,
) -> Judged:
    long = len(features) * num_classes > _LONG
    restarts = _FEW_RESTARTS if long else _RESTARTS
    found = semi_supervised_kmeans(
        key, features, num_classes, left, left >= 0, restarts=restarts
    )
    clusters = np.asarray(found.assignments)
    rows = np.flatnonzero((labels >= 0) & (left < 0))
    novel = ~np.isin(labels[rows], kept)
    of_cluster = np.full(num_classes, -1)
    of_cluster[: len(kept)] = kept
    counts = np.zeros((num_classes, labels.max() + 1), np.int64)
    np.add.at(counts, (clusters[rows[novel]], labels[rows[novel]]), 1)
    some, classes = linear_sum_assignment(counts[len(kept) :], maximize=True)
    of_cluster[len(kept) + some] = classes
    sure = assign(features[rows], found.centres, temperature=temperature)
    return Judged(sure.probabilities, of_cluster[clusters[rows]] == labels[rows], novel)


def _regressed(found: Judged, novel_share: float) -> tuple[float, float] | None:
    if found.right.all() or not found.right.any():
        return None
    share = found.novel.mean()
    weights = np.where(
        found.novel,
        novel_share / max(share, 1e-6),
        (1 - novel_share) / max(1 - share, 1e-6),
    )
    # Scikit-learn has no types: what is found by looking at its code is wrong.
    model: Any = LogisticRegression(C=10.0)
    model.fit(logit(found.likelihoods)[:, None], found.right, sample_weight=weights)
    return max(float(model.coef_[0, 0]), _FLATTEST), float(model.intercept_[0])
