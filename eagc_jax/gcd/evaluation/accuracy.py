"""Clustering accuracy as the category discovery papers print it: All, Old and New."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment


class Accuracy(NamedTuple):
    """Shares of correctly clustered samples, each in [0, 1].

    A share over no sample at all (no known class among them, say) is NaN.
    """

    all: float  # every sample
    old: float  # samples of the known classes
    new: float  # samples of the novel classes


def cluster_accuracy(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    old_mask: ArrayLike,
    *,
    balanced: bool = False,
) -> Accuracy:
    """Accuracy under the best one-to-one matching of clusters to classes.

    The matching is found once, on all samples together (the protocol called "v2" in
    the literature): with `w[a, c]` the number of samples of class `c` in cluster `a`,
    it is the permutation that maximises `sum_c w[match(c), c]`. A class is known if
    any of its samples has `old_mask` set. More clusters than classes are fine: the
    surplus clusters count as wrong.

    Args:
      y_true: (N,) integers >= 0, true classes.
      y_pred: (N,) integers >= 0, cluster of each sample.
      old_mask: (N,) booleans, True where the sample belongs to a known class.
      balanced: False counts samples; True gives the mean over classes of each class's
        accuracy, so that a rare class weighs as much as a frequent one.

    Returns:
      `Accuracy(all, old, new)`; Python floats in [0, 1], NaN over an empty group.

    Raises:
      ValueError: shapes differ or are not (N,), N = 0, a class or cluster is not a
        non-negative integer, or a class is marked known and novel at once.

    Examples:
      Cluster 1 is class 0, cluster 0 is class 1; one sample of class 1 went astray.

      >>> cluster_accuracy([0, 0, 1, 1], [1, 1, 0, 1], [True, True, False, False])
      Accuracy(all=0.75, old=1.0, new=0.5)

    References:
      Vaze et al., "Generalized Category Discovery", CVPR 2022.
    """
    true, pred, old = _checked(y_true, y_pred, old_mask)
    size = int(max(true.max(), pred.max())) + 1
    counts = np.zeros((size, size), np.int64)
    np.add.at(counts, (pred, true), 1)
    clusters, classes = linear_sum_assignment(counts, maximize=True)
    correct = np.zeros(size)
    correct[classes] = counts[clusters, classes]

    total = counts.sum(axis=0)
    is_old = np.bincount(true[old], minlength=size) > 0
    if np.any(is_old[true[~old]]):
        raise ValueError(
            "old_mask marks the same class as known on some samples and as novel on "
            "others; it must depend on the class alone"
        )
    present = total > 0
    average = _mean_of_classes if balanced else _mean_of_samples
    return Accuracy(
        average(correct, total, present),
        average(correct, total, present & is_old),
        average(correct, total, present & ~is_old),
    )


def correct_samples(y_true: ArrayLike, y_pred: ArrayLike) -> np.ndarray:
    """Which samples the matching of `cluster_accuracy` counts as right.

    Args:
      y_true: (N,) integers >= 0, true classes.
      y_pred: (N,) integers >= 0, cluster of each sample.

    Returns:
      (N,) booleans, of which the mean is the accuracy over all.

    Raises:
      ValueError: as `cluster_accuracy`.

    Examples:
      >>> correct_samples([0, 0, 1, 1], [1, 1, 0, 1]).tolist()
      [True, True, True, False]
    """
    true, pred, _ = _checked(y_true, y_pred, np.zeros(np.shape(y_true), bool))
    counts = np.zeros((pred.max() + 1, true.max() + 1), np.int64)
    np.add.at(counts, (pred, true), 1)
    class_of = np.full(len(counts), -1)
    clusters, classes = linear_sum_assignment(counts, maximize=True)
    class_of[clusters] = classes
    return class_of[pred] == true


def _mean_of_samples(
    correct: np.ndarray, total: np.ndarray, chosen: np.ndarray
) -> float:
    count = total[chosen].sum()
    return float(correct[chosen].sum() / count) if count else float("nan")


def _mean_of_classes(
    correct: np.ndarray, total: np.ndarray, chosen: np.ndarray
) -> float:
    return float(np.mean(correct[chosen] / total[chosen])) if chosen.any() else np.nan


def _checked(
    y_true: ArrayLike, y_pred: ArrayLike, old_mask: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    true = _class_ids("y_true", y_true)
    pred = _class_ids("y_pred", y_pred)
    old = np.asarray(old_mask)
    if old.dtype != np.bool_:
        raise ValueError(f"old_mask must be boolean, got dtype {old.dtype}")
    if not true.shape == pred.shape == old.shape:
        raise ValueError(
            "y_true, y_pred and old_mask must have the same shape (N,), got "
            f"{true.shape}, {pred.shape} and {old.shape}"
        )
    return true, pred, old


def _class_ids(name: str, values: ArrayLike) -> np.ndarray:
    ids = np.asarray(values)
    if ids.ndim != 1 or ids.size == 0:
        raise ValueError(f"{name} must have shape (N,) with N >= 1, got {ids.shape}")
    if not np.issubdtype(ids.dtype, np.integer) or ids.min() < 0:
        raise ValueError(f"{name} must hold integers >= 0, got dtype {ids.dtype}")
    return ids
