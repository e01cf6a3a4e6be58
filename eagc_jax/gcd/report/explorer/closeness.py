"""What to look at first: near-duplicates, label suspects, outliers, neighbours."""

from __future__ import annotations

import numpy as np

from eagc_jax.gcd.report.explorer.layout import unit_rows
from eagc_jax.gcd.runs.assignment import Assignment

SEARCHED = (
    12_000  # items that are all compared with each other; beyond, within clusters
)
_BLOCK = 2_048
_LEAST_GAP = 1e-4  # of cosines, below which rounding decides


def near_duplicates(
    features: np.ndarray, clusters: np.ndarray, most: int = 100
) -> list[tuple[int, int, float]]:
    """Pairs of items that are closer than a tenth of what is usual.

    Usual is the median distance, one less the cosine, of an item to its nearest one.
    Where there are many items, only those of one cluster are compared.

    Args:
      features: (N, D) floats, of the frozen backbone.
      clusters: (N,) integers.
      most: pairs.

    Returns:
      Two rows and their cosine, the nearest pair first; each item with its nearest.

    Examples:
      >>> rows = np.array([[1, 0], [1, 0.001], [0, 1], [0.5, 1], [1, 0.7], [-1, 0.2]])
      >>> [pair[:2] for pair in near_duplicates(rows, np.zeros(6, int))]
      [(0, 1)]
    """
    unit = unit_rows(features)
    nearest, cosine = np.full(len(unit), -1), np.full(len(unit), -2.0, np.float32)
    whole = len(unit) <= SEARCHED
    for rows in [np.arange(len(unit))] if whole else _members(clusters):
        rows = rows[:SEARCHED]  # of a cluster as large as that, the first
        if len(rows) < 2:
            continue
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            cosines = unit[some] @ unit[rows].T
            cosines[np.arange(len(some)), np.arange(start, start + len(some))] = -2
            best = cosines.argmax(axis=1)
            nearest[some] = rows[best]
            cosine[some] = cosines[np.arange(len(some)), best]
    gaps = np.maximum(1 - cosine, 0)
    found = np.flatnonzero(nearest >= 0)
    if not len(found):
        return []
    bound = max(float(np.median(gaps[found])) / 10, _LEAST_GAP)
    close = found[gaps[found] <= bound]
    pairs = {}
    for row in close[np.argsort(gaps[close], kind="stable")].tolist():
        one, other = sorted((row, int(nearest[row])))
        pairs.setdefault((one, other), float(min(cosine[row], 1)))
    return [(*pair, value) for pair, value in pairs.items()][:most]


def _members(clusters: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(clusters, kind="stable")
    return np.split(order, np.cumsum(np.bincount(clusters))[:-1])


def label_suspects(assignment: Assignment, most: int = 200) -> np.ndarray:
    """Rows of labeled items that sit in another cluster, the farthest off first.

    A labeled item keeps its label; its margin is negative where it lies nearer to another
    category than to its own.
    """
    rows = np.flatnonzero((assignment.labels >= 0) & (assignment.margin < 0))
    return rows[np.argsort(assignment.margin[rows], kind="stable")][:most]


def outliers(assignment: Assignment, most: int = 100) -> np.ndarray:
    """Rows of items unusually far from their cluster's centre, the farthest first.

    Farther than the upper quartile of the cluster's distances by one and a half times
    the distance between the quartiles, Tukey's rule; in the order of how many such
    distances it is.
    """
    far = np.zeros(len(assignment))
    for rows in _members(assignment.clusters):
        if len(rows) < 4:
            continue
        lower, upper = np.quantile(assignment.distance[rows], [0.25, 0.75])
        spread = max(float(upper - lower), 1e-9)
        far[rows] = (assignment.distance[rows] - upper) / spread
    rows = np.flatnonzero(far > 1.5)
    return rows[np.argsort(-far[rows], kind="stable")][:most]


def nearest_other(
    features: np.ndarray, centres: np.ndarray, rows: np.ndarray, own: np.ndarray
) -> np.ndarray:
    """Of some rows, the category, besides their own, whose centre is nearest."""
    unit = unit_rows(features[rows])
    gaps = (centres**2).sum(axis=1) - 2 * unit @ centres.T
    gaps[np.arange(len(rows)), own] = np.inf
    return gaps.argmin(axis=1)


def nearest_known(
    centres: np.ndarray, num_known: int, most: int = 3
) -> list[list[tuple[int, float]]]:
    """Of every category, the known classes besides itself and the centres' cosines.

    Examples:
      >>> nearest_known(np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]), 2, most=1)
      [[(1, 0.0)], [(0, 0.0)], [(1, 0.8)]]
    """
    unit = unit_rows(centres)
    cosines = (unit @ unit[:num_known].T).astype(float)
    own = np.arange(min(num_known, len(cosines)))
    cosines[own, own] = -np.inf
    order = np.argsort(-cosines, axis=1, kind="stable")[:, :most]
    return [
        [
            (k, round(float(cosines[row, k]), 3))
            for k in near
            if cosines[row, k] > -np.inf
        ]
        for row, near in enumerate(order.tolist())
    ]
