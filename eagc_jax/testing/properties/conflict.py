"""Conflict with the objectives, and descent on their sum."""

from __future__ import annotations

import numpy as np

from eagc_jax.testing._aggregation import EPS, Aggregation, Answer
from eagc_jax.testing.failures import Violation
from eagc_jax.testing.properties._base import about, off_by

# Shorter than this, relative to its size, a direction is what rounding left of zero.
# Where weights aren't known, the size may be less than what it was a sum of: then
# relative to the longest gradient too.
NOTHING, NOTHING_SEEN = 1e-5, 1e-4


def _conflict(answer: Answer, row: np.ndarray, rows: np.ndarray) -> float:
    """The cosine's negative; 0 for a direction that is zero to rounding.

    What rounding may add to the product is taken off: eight eps of the size, for the
    entries of a direction in float32, or for weights that are some eps off.
    """
    length, norm = np.linalg.norm(answer.direction), np.linalg.norm(row)
    size, nothing = answer.size, NOTHING
    if answer.weights is None:
        nothing = NOTHING_SEEN
        size = max(size, float(np.max(np.linalg.norm(rows, axis=1))))
    if np.isfinite(length) and length <= nothing * size:
        return 0.0
    rounding = 8 * EPS * norm * answer.size
    product = float(row @ answer.direction) + rounding
    if not np.isfinite(product):
        return np.inf
    return float(-product / (length * norm)) if product < 0 else 0.0


@about("general", 1e-6)
def non_conflicting(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""No objective is worse off: :math:`\langle g_k, A(J)\rangle \ge 0` for every k.

    Accepted is a cosine of at least minus the tolerance. Quinton and Rey, "Jacobian
    Descent for Multi-Objective Optimization", arXiv:2406.16232, section 2.
    """
    answer, rows = aggregate(matrix), matrix.astype(np.float64)
    worst = [_conflict(answer, row, rows) for row in rows]
    k = int(np.argmax(worst))
    return off_by(worst[k], tolerance, f"minus the cosine with objective {k} is")


@about("general", 1e-6)
def descends(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""The sum is not worse off: :math:`\langle \sum_k g_k, A(J)\rangle \ge 0`.

    Accepted is a cosine of at least minus the tolerance. For the sum's descent in a
    method that may conflict see Liu et al., "Conflict-Averse Gradient Descent",
    arXiv:2110.14048.
    """
    rows = matrix.astype(np.float64)
    found = _conflict(aggregate(matrix), rows.sum(axis=0), rows)
    return off_by(found, tolerance, "minus the cosine with the sum of the gradients is")
