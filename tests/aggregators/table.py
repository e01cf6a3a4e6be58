"""The weightings, one row a method: what is claimed of it, and its edge cases.

What a method claims is said by :data:`eagc_jax.testing.CLAIMS`; a row says it only where
its options aren't the defaults. ``test_properties.py`` runs every row. A row's
``weights`` is a pure weighting with nothing random left in it (a fixed key or order).
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from eagc_jax import weightings
from eagc_jax.aggregators._weighting import problem_of
from eagc_jax.aggregators.elastic_cone import elastic_method
from eagc_jax.testing import CLAIMS

HOMOGENEOUS = {"homogeneous", "sum_for_one_objective"}


@dataclasses.dataclass(frozen=True)
class Row:
    """What one method promises. Edge cases are multiples; None where not promised."""

    name: str
    weights: Callable  # (K, K) -> (K,)
    properties: frozenset | None = None  # None for those of CLAIMS.
    single: Callable | None = None  # (g, norm) -> A([g]); None: as claimed
    identical: Callable | None = lambda g, n, number: g  # A([g] * number)
    # Rows g (B, K, n), zero but for the first two -> the direction, (B, n).
    zero_row: Callable | None = None
    opposed: str | None = "zero"  # (g, -g): "zero", or None where not promised.

    @property
    def claims(self):
        own = self.properties
        return CLAIMS[self.name].properties if own is None else own


def mean_of_the_rest(weights, rows):
    """The mean over all K, of which two aren't zero: ``2/K`` of A(the two)."""
    return weights(rows[:, :2]) * 2 / rows.shape[1]


def of_the_rest(weights, rows):
    """Zero rows change nothing: A(the two that aren't)."""
    return weights(rows[:, :2])


def first_of_persistent(gram):
    """The elastic cone's with ``conflict_memory``; it has no pure weighting."""
    number = gram.shape[0]
    method = elastic_method(jnp.ones(number), 0.5, 1.0, 1.0, 50.0)
    return method.apply(problem_of(gram), method.init(number))[0]


ROWS = [
    Row(
        "mean",
        weightings.mean,
        zero_row=mean_of_the_rest,
    ),
    Row("mgda", weightings.mgda, zero_row=lambda weights, rows: 0 * rows[:, 0]),
    Row(
        "mgda_l2",
        lambda gram: weightings.mgda(gram, normalizer="l2"),
        CLAIMS["mgda"].properties - HOMOGENEOUS | {"normalized", "rescaling_invariant"},
        single=lambda g, n: g / n,
        identical=lambda g, n, number: g / n,
        zero_row=lambda weights, rows: 0 * rows[:, 0],
    ),
    Row(
        "upgrad",
        weightings.upgrad,
        zero_row=mean_of_the_rest,
    ),
    Row("dualproj", weightings.dualproj, zero_row=mean_of_the_rest),
    Row(
        "elastic_cone",
        weightings.elastic_cone,
        identical=lambda g, n, number: number * g,
        zero_row=of_the_rest,
    ),
    Row(
        "elastic_cone_full",
        lambda gram: weightings.elastic_cone(gram, balance=1.0),
        CLAIMS["elastic_cone"].properties
        | {"rescaling_invariant", "linear_under_scaling"},
        identical=lambda g, n, number: number * g,
        zero_row=of_the_rest,
    ),
    Row(  # a first step, in which all conflict persists
        "elastic_cone_persistent",
        first_of_persistent,
        CLAIMS["elastic_cone"].properties,
        identical=lambda g, n, number: number * g,
        zero_row=of_the_rest,
    ),
    Row(  # in a fixed order, which depends on the order of the objectives
        "pcgrad",
        weightings.pcgrad,
        identical=lambda g, n, number: number * g,
        zero_row=of_the_rest,
    ),
    Row(
        "gradvac",
        lambda gram: weightings.gradvac(gram, jnp.full(gram.shape, 0.3))[0],
        identical=lambda g, n, number: number * g,
        zero_row=of_the_rest,
    ),
    Row(
        "cagrad",
        weightings.cagrad,
        single=lambda g, n: 1.4 * g,
        identical=lambda g, n, number: 1.4 * g,
        zero_row=mean_of_the_rest,
    ),
    Row(
        "imtl_g",
        weightings.imtl_g,
        zero_row=of_the_rest,
    ),
    Row(
        "nash_mtl",
        weightings.nash_mtl,
        CLAIMS["nash_mtl"].properties - HOMOGENEOUS | {"normalized"},
        single=lambda g, n: g / n,
        identical=lambda g, n, number: number**0.5 * g / n,
        zero_row=of_the_rest,
    ),
    Row(
        "fairgrad",
        lambda gram: weightings.fairgrad(gram, alpha=2.0),
        # Of degree -1/3, but the power of the scale is off by some 1e-6 in float32; that
        # the direction has no scale is tested in test_equal_angles.py.
        CLAIMS["fairgrad"].properties - HOMOGENEOUS - {"rescaling_invariant"},
        single=lambda g, n: g / n ** (4 / 3),
        identical=lambda g, n, number: number ** (1 / 3) * g / n ** (4 / 3),
        zero_row=of_the_rest,
    ),
    Row(
        "aligned_mtl",
        weightings.aligned_mtl,
        zero_row=mean_of_the_rest,
    ),
    Row(
        "conflict_free",
        weightings.conflict_free,
        identical=lambda g, n, number: number * g,
        zero_row=of_the_rest,
    ),
    Row(
        "sdmgrad",
        lambda gram: weightings.sdmgrad(gram, learning_rate=1.0)[0],
    ),
    Row(
        "modo",
        lambda gram: weightings.modo(gram)[0],
    ),
    Row(
        "random_weighting",
        lambda gram: weightings.random_weighting(gram, key=jax.random.key(0)),
        opposed=None,
    ),
    Row(
        "gem",
        weightings.gem,
        zero_row=of_the_rest,
    ),
    Row(
        "a_gem",
        weightings.a_gem,
        zero_row=of_the_rest,
    ),
    Row(  # in the middle of its part, at equal losses, it is MGDA
        "pmtl",
        weightings.pmtl,
        zero_row=lambda weights, rows: 0 * rows[:, 0],
    ),
    Row(  # at equal losses: the steepest descent of the sum that raises none
        "epo",
        weightings.epo,
        opposed=None,
    ),
    Row(  # opposed to its primary objective: the secondary one has its share
        "pcd",
        weightings.pcd,
        zero_row=of_the_rest,
        opposed=None,
    ),
]
