"""Numbers at the ends of their range, and none."""

from __future__ import annotations

import numpy as np

from eagc_jax.testing._aggregation import Aggregation
from eagc_jax.testing.failures import Violation
from eagc_jax.testing.properties._base import about


@about("hostile")
def finite_on_hostile_input(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    """Finite gradients give a finite update, whatever they are.

    Scales from 1e-15 to 1e15 side by side, denormals, zeros, gradients that are equal,
    opposed, or of low rank.
    """
    del tolerance
    direction = aggregate(matrix).direction
    if np.all(np.isfinite(direction)):
        return None
    return Violation(f"the update is {direction.tolist()}", "finite entries")


@about("nonfinite")
def propagates_nonfinite(
    aggregate: Aggregation, matrix: np.ndarray, tolerance: float
) -> Violation | None:
    """A NaN or an infinity in a gradient is not hidden: the update isn't finite either.

    So that ``optax.apply_if_finite`` behind it, and whoever looks, can see it.
    """
    del tolerance
    answer = aggregate(matrix)
    shown = answer.direction if answer.weights is None else answer.weights
    if not np.all(np.isfinite(shown)):
        return None
    return Violation(f"the update is {shown.tolist()}", "an entry that isn't finite")
