"""Every row of ``table.py``: what it claims, and its edge cases, in float32."""

import functools

import jax
import numpy as np
import pytest

from eagc_jax import testing, weightings
from eagc_jax.testing import matrices as samplers
from eagc_jax.testing._aggregation import of_weighting
from tests.aggregators import properties
from tests.aggregators.table import ROWS

BATCH, SIZE = 16, 6


def those(holds):
    """Parametrises by the rows that promise it."""
    rows = [row for row in ROWS if holds(row)]
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


@functools.cache
def compiled(row):
    return jax.jit(row.weights)


def batched(row):
    """The weights of a batch, one after another: a program for each K, here and there."""
    return lambda gram: np.stack([compiled(row)(matrix) for matrix in gram])


def test_every_weighting_has_a_row():
    variants = {"mgda_l2", "elastic_cone_full", "elastic_cone_persistent"}
    named = {row.name for row in ROWS} - variants
    assert named == set(weightings.__all__) - {"ensure_nonconflict"}


@those(lambda row: True)
def test_it_has_what_it_claims(row):
    testing.assert_weighting(compiled(row), 4, row.claims, max_examples=20)
    testing.assert_weighting(compiled(row), 2, row.claims, max_examples=5)


def test_aligned_mtl_is_symmetric_where_no_eigenvalue_is_cut_off():
    """Of norms that are alike; others may lie on the cut, where it jumps."""
    aggregate, rng = of_weighting(weightings.aligned_mtl, 4), np.random.default_rng(0)
    rows = [samplers.conflicting, samplers.not_stationary]
    for matrix in np.concatenate([draw(rng, BATCH, 4, 8) for draw in rows]):
        for name in ("permutation_equivariant", "rotation_equivariant"):
            found = testing.properties.PROPERTIES[name]
            matrix = matrix.astype(np.float32)
            assert found.check(aggregate, matrix, found.tolerance) is None


# -- edges ---------------------------------------------------------------------------


@those(lambda row: row.single is not None)
def test_single(row):
    matrices = samplers.normal(np.random.default_rng(2), BATCH, 1, SIZE)
    g = matrices[:, 0]
    n = np.linalg.norm(g, axis=-1, keepdims=True)
    properties.assert_multiple(batched(row), matrices, row.single(g, n))


@those(lambda row: row.identical is not None)
def test_identical(row):
    g = samplers.normal(np.random.default_rng(3), BATCH, 1, SIZE)
    matrices = np.repeat(g, 4, axis=1)
    n = np.linalg.norm(g[:, 0], axis=-1, keepdims=True)
    expected = row.identical(g[:, 0], n, 4)
    properties.assert_multiple(batched(row), matrices, expected)


@those(lambda row: row.zero_row is not None)
def test_zero_row(row):
    """Two of four, against the program of two: where K is 2 many are a closed form."""
    matrices = samplers.conflicting(np.random.default_rng(4), BATCH, 4, SIZE)
    matrices[:, 2:] = 0.0

    def direction(rows):
        return properties.solve(batched(row), rows)[1]

    expected = row.zero_row(direction, matrices)
    properties.assert_multiple(batched(row), matrices, expected, tolerance=2e-5)


@those(lambda row: row.opposed is not None)
def test_opposed(row):
    g = samplers.normal(np.random.default_rng(5), BATCH, 1, SIZE)
    matrices = np.concatenate([g, -g], axis=1)
    properties.assert_multiple(batched(row), matrices, 0 * g[:, 0])
