"""Which method has which property, as data: one row a method.

Another method is another row; ``test_properties.py`` runs every row. A row's ``weights``
is a pure weighting with nothing random left in it (a fixed key or order).
"""

import dataclasses
from collections.abc import Callable

from eagc_jax import weightings

PROPERTIES = frozenset(
    {
        "permutation",  # equivariant
        "rotation",  # equivariant
        "non_conflicting",  # cosine with every objective >= -1e-6, norm ratios to 1e4
        "descent",  # cosine with the sum >= -1e-6
        "nonnegative",  # weights
        "rescale_direction",  # direction invariant to rescaling one objective
        "linear_under_scaling",
    }
)
QP = frozenset({"permutation", "rotation", "non_conflicting", "descent", "nonnegative"})


@dataclasses.dataclass(frozen=True)
class Row:
    """What one method promises. Edge cases are multiples; None where not promised."""

    name: str
    weights: Callable  # (K, K) -> (K,)
    properties: frozenset
    degree: float | None = 1.0  # A(c J) = c^degree A(J)
    single: Callable | None = lambda g, n: g  # (g, norm) -> A([g])
    identical: Callable | None = lambda g, n, number: g  # A([g] * number)
    # Rows g (B, K, n), zero but for the first K - 1 -> the direction, (B, n).
    zero_row: Callable | None = None
    opposed: str | None = "zero"  # (g, -g): "zero", or None where not promised.

    def __post_init__(self):
        assert self.properties <= PROPERTIES, self.properties - PROPERTIES


def mean_of_the_rest(weights, rows):
    """The mean over all K, of which the last is zero: ``(K-1)/K`` of A(the others)."""
    number = rows.shape[1]
    return weights(rows[:, :-1]) * (number - 1) / number


ROWS = [
    Row(
        "mean",
        weightings.mean,
        frozenset({"permutation", "rotation", "descent", "nonnegative"})
        | {"linear_under_scaling"},
        zero_row=mean_of_the_rest,
    ),
    Row("mgda", weightings.mgda, QP, zero_row=lambda weights, rows: 0 * rows[:, 0]),
    Row(
        "mgda_l2",
        lambda gram: weightings.mgda(gram, normalizer="l2"),
        QP | {"rescale_direction"},
        degree=0.0,
        single=lambda g, n: g / n,
        identical=lambda g, n, number: g / n,
        zero_row=lambda weights, rows: 0 * rows[:, 0],
    ),
    Row(
        "upgrad",
        weightings.upgrad,
        QP | {"linear_under_scaling"},
        zero_row=mean_of_the_rest,
    ),
    Row("dualproj", weightings.dualproj, QP, zero_row=mean_of_the_rest),
]
