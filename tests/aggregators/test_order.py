"""The order of the objectives doesn't matter: one row a method that reads the Gram.

In exact arithmetic a permutation of the objectives permutes the weights. In float32 it
may change the order of sums, so that they are rounded otherwise; where a matrix is
singular, or nearly, a method that decides or divides by what rounding left would magnify
that. Each row says what its method does about it, and what is left. Errors are relative
to ``sum_k |w_k| n_k``.
"""

import functools

import jax
import numpy as np
import pytest

from eagc_jax import weightings
from eagc_jax.testing import matrices as samplers
from tests.aggregators import properties

EPS = properties.EPS
BATCH, NUMBER, SIZE = 6, 6, 20
ORDERS = 4

# By a bound in eps: the last rounding of K weights, at most half an eps each, and of sums
# of them. No condition number: these methods solve with twice the digits.
EXACT = 4
ROWS = {
    "mean": (weightings.mean, EXACT),
    "mgda": (weightings.mgda, EXACT),
    "upgrad": (weightings.upgrad, EXACT),
    "dualproj": (weightings.dualproj, EXACT),
    # And the logarithms and exponentials of energies.
    "elastic_cone": (weightings.elastic_cone, EXACT),
    "cagrad": (weightings.cagrad, EXACT),
    "cagrad_1": (functools.partial(weightings.cagrad, c=1.0), EXACT),
    "imtl_g": (weightings.imtl_g, EXACT),
    "conflict_free": (weightings.conflict_free, EXACT),
    # Newton's method ends at a relative step of 1e-3, whose square, 1e-6, is its error
    # where it converges quadratically; at nearly stationary gradients not quite, and the
    # order decides whether another step is made: some 340 eps were seen.
    "nash_mtl": (weightings.nash_mtl, 1000),
    "fairgrad": (functools.partial(weightings.fairgrad, alpha=2.0), 1000),
    # Float32 eigenvectors, divided by roots of eigenvalues; those below its tolerance of
    # ten K eps are left out: at most 1 / sqrt(10 K eps), some 400, times their rounding.
    "aligned_mtl": (weightings.aligned_mtl, 400),
    # Twenty steps on the simplex, none of which magnifies what the ones before rounded.
    "sdmgrad": (lambda gram: weightings.sdmgrad(gram, learning_rate=0.1)[0], 40),
    "modo": (lambda gram: weightings.modo(gram)[0], EXACT),
    "pmtl": (weightings.pmtl, EXACT),
}
# The others take the objectives one after another (pcgrad and gradvac project on each in
# turn, in an order that is drawn, or the given one), single one out (gem, a_gem, pcd), or
# draw numbers for them (random_weighting): there the order is part of the method. epo
# takes a vertex of a linear program, of those that are best to rounding the first.
BY_NATURE = {"pcgrad", "gradvac", "gem", "a_gem", "pcd", "random_weighting", "epo"}


def matrices():
    """Regular; of lower rank; of rank 1, opposed or not; stationary, all or some rows."""
    rng = np.random.default_rng(0)
    regular = samplers.normal(rng, BATCH, NUMBER, SIZE)
    low = samplers.of_rank(rng, BATCH, NUMBER, SIZE, 3)
    line = samplers.of_rank(rng, BATCH, NUMBER, SIZE, 1)
    parallel = line * np.sign(line[:, :, :1])
    stationary = samplers.strongly_stationary(rng, BATCH, NUMBER, SIZE)
    weakly = samplers.normal(rng, BATCH, NUMBER, SIZE)
    weakly[:, 2] = -weakly[:, 0] - 0.5 * weakly[:, 1]
    thin = weakly.copy()
    thin[:, 2] += 1e-3 * samplers.normal(rng, BATCH, 1, SIZE)[:, 0]
    return np.concatenate([regular, low, line, parallel, stationary, weakly, thin])


def test_every_weighting_has_a_row():
    named = {name for name in weightings.__all__ if name != "ensure_nonconflict"}
    assert named == {name for name in ROWS if name != "cagrad_1"} | BY_NATURE


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name, marks=pytest.mark.slow if name in ("cagrad", "cagrad_1") else ()
        )
        for name in ROWS
    ],
)
def test_the_order_of_objectives_does_not_matter(name):
    weighting, bound = ROWS[name]
    weights = jax.jit(jax.vmap(weighting))
    rng, rows = np.random.default_rng(1), matrices()
    gram = samplers.gram_of(rows).astype(np.float32)
    found = np.asarray(weights(gram), np.float64)
    direction = np.einsum("bk,bkn->bn", found, rows)
    size = properties.size_of(found, rows)
    for _ in range(ORDERS):
        order = rng.permutation(NUMBER)
        again = np.asarray(weights(gram[:, order][:, :, order]), np.float64)
        other = np.einsum("bk,bkn->bn", again, rows[:, order])
        assert properties.error(other, direction, size) <= bound * EPS
