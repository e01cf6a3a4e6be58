"""Which method has which property, as data: one row a method.

Another method is another row; ``test_properties.py`` runs every row. A row's ``weights``
is a pure weighting with nothing random left in it (a fixed key or order).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

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


def of_the_rest(weights, rows):
    """A zero row changes nothing: A(the others)."""
    return weights(rows[:, :-1])


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
    Row(  # in a fixed order, which depends on the order of the objectives
        "pcgrad",
        weightings.pcgrad,
        frozenset({"rotation", "nonnegative", "linear_under_scaling"}),
        identical=lambda g, n, number: number * g,
        zero_row=of_the_rest,
    ),
    Row(
        "gradvac",
        lambda gram: weightings.gradvac(gram, jnp.full(gram.shape, 0.3))[0],
        frozenset({"rotation", "nonnegative", "linear_under_scaling"}),
        identical=lambda g, n, number: number * g,
        zero_row=of_the_rest,
    ),
    Row(
        "cagrad",
        weightings.cagrad,
        frozenset({"permutation", "rotation", "descent", "nonnegative"}),
        single=lambda g, n: 1.4 * g,
        identical=lambda g, n, number: 1.4 * g,
        zero_row=mean_of_the_rest,
    ),
    Row(
        "imtl_g",
        weightings.imtl_g,
        frozenset({"permutation", "rotation"}),
        zero_row=of_the_rest,
    ),
    Row(
        "nash_mtl",
        weightings.nash_mtl,
        QP | {"rescale_direction"},
        degree=0.0,
        single=lambda g, n: g / n,
        identical=lambda g, n, number: number**0.5 * g / n,
        zero_row=of_the_rest,
    ),
    Row(
        "fairgrad",
        lambda gram: weightings.fairgrad(gram, alpha=2.0),
        QP,
        # -1/3, but the power of the scale is off by some 1e-6 in float32; that the
        # direction has no scale is tested in test_equal_angles.py.
        degree=None,
        single=lambda g, n: g / n ** (4 / 3),
        identical=lambda g, n, number: number ** (1 / 3) * g / n ** (4 / 3),
        zero_row=of_the_rest,
    ),
    Row(
        "aligned_mtl",
        weightings.aligned_mtl,
        frozenset({"permutation", "rotation", "descent"}),
        zero_row=mean_of_the_rest,
    ),
    Row(
        "conflict_free",
        weightings.conflict_free,
        frozenset({"permutation", "rotation", "non_conflicting", "descent"})
        | {"rescale_direction", "linear_under_scaling"},
        identical=lambda g, n, number: number * g,
        zero_row=of_the_rest,
    ),
    Row(
        "sdmgrad",
        lambda gram: weightings.sdmgrad(gram, learning_rate=1.0)[0],
        frozenset({"permutation", "rotation", "nonnegative"}),
    ),
    Row(
        "modo",
        lambda gram: weightings.modo(gram)[0],
        frozenset({"permutation", "rotation", "nonnegative"}),
    ),
    Row(
        "random_weighting",
        lambda gram: weightings.random_weighting(gram, key=jax.random.key(0)),
        frozenset({"rotation", "nonnegative", "linear_under_scaling"}),
        opposed=None,
    ),
    Row(
        "gem",
        weightings.gem,
        frozenset({"rotation", "nonnegative"}),
        zero_row=of_the_rest,
    ),
    Row(
        "a_gem",
        weightings.a_gem,
        frozenset({"rotation", "nonnegative"}),
        zero_row=of_the_rest,
    ),
    Row(  # in the middle of its part, at equal losses, it is MGDA
        "pmtl",
        weightings.pmtl,
        QP,
        zero_row=lambda weights, rows: 0 * rows[:, 0],
    ),
    Row(  # at equal losses: the steepest descent of the sum that raises none
        "epo",
        weightings.epo,
        frozenset({"rotation", "descent", "nonnegative"}),
        opposed=None,
    ),
    Row(  # opposed to its primary objective: the secondary one has its share
        "pcd",
        weightings.pcd,
        frozenset({"rotation", "nonnegative"}),
        zero_row=of_the_rest,
        opposed=None,
    ),
]
