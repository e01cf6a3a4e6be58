"""Where an aggregator stops, and where it may not."""

from __future__ import annotations

import numpy as np

from eagc_jax.testing._aggregation import Aggregation
from eagc_jax.testing.failures import Violation
from eagc_jax.testing.properties._base import about, off_by, relative


@about("stationary", 1e-4)
def stationary_at_pareto(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""It stops where nothing can be gained: :math:`A(J) = 0` where :math:`J^\top w = 0`.

    For some w, all of whose entries are positive: the point is Pareto stationary, with
    every objective taking part. Désidéri, "Multiple-Gradient Descent Algorithm (MGDA)
    for Multiobjective
    Optimization", Comptes Rendus Mathématique 350, 2012; Quinton and Rey,
    arXiv:2406.16232, section 2.
    """
    answer = aggregate(matrix)
    found = relative(answer.direction, np.zeros_like(answer.direction), answer.size)
    return off_by(found, tolerance, "the update, relative to its size, is")


@about("descendable")
def moves_unless_stationary(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    r"""It stops nowhere else: :math:`A(J) \ne 0` where all objectives can gain.

    That is, where some x has :math:`\langle g_k, x\rangle > 0` for every k. "Strong
    stationarity" in TorchJD's tests is its contrapositive.
    """
    del tolerance
    direction = aggregate(matrix).direction
    if np.any(direction) and np.all(np.isfinite(direction)):
        return None
    return Violation(f"the update is {direction.tolist()}", "any other than 0")


@about("zero")
def zero_at_zero(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    """Without gradients there is no update: A(0) = 0, exactly."""
    largest = float(np.max(np.abs(aggregate(matrix).direction)))
    return off_by(largest, tolerance, "an entry of the update is")


@about("one", 1e-5)
def sum_for_one_objective(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    """One objective has nothing to be reconciled with: for K = 1, A(J) = g, the sum."""
    rows = matrix.astype(np.float64)
    found = relative(aggregate(matrix).direction, rows[0], float(np.linalg.norm(rows)))
    return off_by(found, tolerance, "from the one gradient the update is off by")
