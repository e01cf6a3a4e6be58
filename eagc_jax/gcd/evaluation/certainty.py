"""How sure an assignment is, by where the features lie."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from eagc_jax.gcd.clustering import assign, fit_temperature

_BLOCK = 2**16  # rows at once


class Certainty(NamedTuple):
    """Of N items; see `certainty`."""

    probability: np.ndarray  # (N,) float32, of the cluster that the item is in
    margin: np.ndarray  # (N,) float32, may be negative
    distance: np.ndarray  # (N,) float32, squared


def certainty(
    features: np.ndarray, centres: ArrayLike, clusters: np.ndarray, labels: np.ndarray
) -> Certainty:
    """How well items fit the clusters that they are in, and how well the next best.

    With d the squared distances of the item's feature (brought to length 1) to the
    centres and a its cluster: the distance is `d[a]`, the margin `min(d[k] : k != a) -
    d[a]`, the probability `softmax(-d / T)[a]`. T is fitted to the labeled items, see
    `clustering.fit_temperature`. An item that is labeled, or in a cluster of bounded
    size, may be nearer to another centre: then its margin is negative.

    Args:
      features: (N, D) floats.
      centres: (K, D), K >= 2, of the clusters.
      clusters: (N,) integers, of each item.
      labels: (N,) integers, -1 where there is none.

    Returns:
      `Certainty(probability, margin, distance)`.

    Examples:
      >>> rows = np.array([[1.0, 0.0], [1.0, 0.2], [0.0, 1.0], [0.8, 0.6]])
      >>> found = certainty(rows, np.eye(2), np.array([0, 0, 1, 1]), np.full(4, -1))
      >>> found.distance.round(2), (found.margin > 0).tolist()
      (array([0.  , 0.04, 0.  , 0.8 ], dtype=float32), [True, True, True, False])
    """
    centres = np.asarray(centres)
    temperature = fit_temperature(features, centres, labels, clusters)
    nearest = assign(features, centres, temperature=temperature)
    probability, margin, distance = (
        np.array(x, np.float64)
        for x in (nearest.probabilities, nearest.margins, nearest.distances)
    )
    elsewhere = np.flatnonzero(nearest.clusters != clusters)
    for start in range(0, len(elsewhere), _BLOCK):
        rows = elsewhere[start : start + _BLOCK]
        own = _squared_distances(features[rows], centres[clusters[rows]])
        farther = own - distance[rows]
        probability[rows] *= np.exp(-farther / temperature)
        margin[rows], distance[rows] = -farther, own
    return Certainty(*(x.astype(np.float32) for x in (probability, margin, distance)))


def _squared_distances(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.sum((rows / np.maximum(lengths, 1e-12) - centres) ** 2, axis=1)
