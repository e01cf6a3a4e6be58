"""The parts of a cluster that is split."""

from __future__ import annotations

import numpy as np
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits

_RESTARTS = 10
_SEED = 0


def divide(features: np.ndarray, number: int) -> np.ndarray:
    """Divides rows by k-means on their directions; no part is empty.

    Args:
      features: (N, D) floats, finite.
      number: of parts, at most N.

    Returns:
      (N,) integers in [0, number), the largest part first. Equal input gives equal
      output.

    Examples:
      >>> divide(np.array([[1.0, 0.0], [0.0, 1.0], [0.1, 2.0]]), 2).tolist()
      [1, 0, 0]
    """
    rows = np.asarray(features, np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows / np.maximum(lengths, 1e-12)
    different = len(np.unique(rows, axis=0))
    # One thread: the order of sums must not depend on how many there are.
    with threadpool_limits(limits=1):
        model = KMeans(min(number, different), n_init=_RESTARTS, random_state=_SEED)  # type: ignore[arg-type]
        found = model.fit_predict(rows)
    for part in range(number):
        if part not in found:  # fewer different rows than parts: any will do
            sizes = np.bincount(found, minlength=number)
            found[np.flatnonzero(found == sizes.argmax())[-1]] = part
    order = np.argsort(-np.bincount(found, minlength=number), kind="stable")
    return np.argsort(order)[found]
