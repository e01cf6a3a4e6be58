"""What an update is made of."""

from __future__ import annotations

import numpy as np

from eagc_jax.testing._aggregation import Aggregation
from eagc_jax.testing.failures import Violation
from eagc_jax.testing.properties._base import about, off_by, relative, unit


def _weights(aggregate: Aggregation, matrix: np.ndarray) -> np.ndarray | None:
    """Weights, from the direction where they aren't known; None where it can't tell."""
    answer = aggregate(matrix)
    if answer.weights is not None:
        return answer.weights
    rows = matrix.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    if np.min(norms) == 0 or np.linalg.cond(rows / norms[:, None]) > 100:
        return None
    lengths = np.linalg.lstsq((rows / norms[:, None]).T, answer.direction, rcond=None)[
        0
    ]
    return lengths / norms


@about("general", 1e-4)
def nonnegative_weights(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""No objective is climbed: :math:`A(J) = \sum_k w_k g_k` with all :math:`w_k \ge 0`.

    A weighting's weights are looked at themselves, and none may be below 0. Of an
    aggregator they are found by least squares, where the gradients are independent;
    accepted are :math:`w_k n_k` down to minus the tolerance times the size.
    """
    answer, weights = aggregate(matrix), _weights(aggregate, matrix)
    if weights is None:
        return None
    if answer.weights is not None:
        return off_by(-float(np.min(weights)), 0.0, "minus the least weight is")
    lengths = weights * np.linalg.norm(matrix.astype(np.float64), axis=1)
    relative = float(np.max(-lengths)) / answer.size if answer.size > 0 else 0.0
    return off_by(relative, tolerance, "minus the least weight, times its norm, is")


@about("general", 1e-4)
def weighted_sum(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""The update is a sum of multiples of the gradients: :math:`A(J) = J^\top w`.

    The same multiple in every entry; not so for methods that decide entry by entry.
    "Weighted" in Quinton and Rey, arXiv:2406.16232, section 2.
    """
    answer, rows = aggregate(matrix), matrix.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1)
    units = rows / np.where(norms > 0, norms, 1.0)[:, None]
    weights = np.linalg.lstsq(units.T, answer.direction, rcond=1e-6)[0]
    return off_by(
        relative(weights @ units, answer.direction, answer.size),
        tolerance,
        "outside of the gradients' span lies a share of",
    )


@about("equal", 1e-4)
def follows_agreement(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""Agreement is followed: of K equal gradients g, :math:`A(J) = \lambda g`.

    With some :math:`\lambda > 0`. Accepted is the distance of unit vectors.
    """
    direction, rows = aggregate(matrix).direction, matrix.astype(np.float64)
    if not np.any(rows[0]):
        return None
    off = np.linalg.norm(unit(direction) - unit(rows[0]))
    return off_by(
        float(off), tolerance, "from their common direction the update is off by"
    )
