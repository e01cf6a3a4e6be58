"""Every row of ``table.py`` against every property that it claims, in float32."""

import functools

import jax
import numpy as np
import pytest

from eagc_jax.testing import matrices as samplers
from tests.aggregators import properties
from tests.aggregators.table import ROWS

BATCH, NUMBERS, SIZE = 32, (2, 4), 6


def those(holds):
    """Parametrises by the rows that promise it."""
    rows = [row for row in ROWS if holds(row)]
    return pytest.mark.parametrize("row", rows, ids=lambda row: row.name)


def claiming(name):
    return those(lambda row: name in row.properties)


@functools.cache
def batched(row):
    return jax.jit(jax.vmap(row.weights))


def draws(seed=0):
    """Matrices with and without common descent, of equal and of unequal norms."""
    rng = np.random.default_rng(seed)
    for number in NUMBERS:
        yield rng, samplers.conflicting(rng, BATCH, number, SIZE)
        yield rng, samplers.not_stationary(rng, BATCH, number, SIZE)


@those(lambda row: row.degree is not None)
def test_homogeneous(row):
    for _, matrices in draws():
        properties.assert_homogeneous(batched(row), matrices, row.degree)


@claiming("permutation")
def test_permutation_equivariant(row):
    weights = batched(row)
    for rng, matrices in draws():
        properties.assert_permutation_equivariant(weights, matrices, rng)


@claiming("rotation")
def test_rotation_equivariant(row):
    weights = batched(row)
    for rng, matrices in draws():
        properties.assert_rotation_equivariant(weights, matrices, rng)


@claiming("non_conflicting")
def test_non_conflicting(row):
    weights = batched(row)
    rng = np.random.default_rng(1)
    for number in NUMBERS:
        for ratio in (1.0, 1e2, 1e4):
            matrices = samplers.imbalanced(rng, BATCH, number, SIZE, ratio)
            properties.assert_non_conflicting(weights, matrices)


@claiming("descent")
def test_descends(row):
    weights = batched(row)
    for _, matrices in draws():
        properties.assert_descends(weights, matrices)


@claiming("nonnegative")
def test_weights_are_not_negative(row):
    weights = batched(row)
    for _, matrices in draws():
        properties.assert_nonnegative(weights, matrices)


@claiming("rescale_direction")
def test_direction_ignores_rescaling(row):
    weights = batched(row)
    for rng, matrices in draws():
        properties.assert_direction_ignores_rescaling(weights, matrices, rng)


@claiming("linear_under_scaling")
def test_linear_under_scaling(row):
    weights = batched(row)
    for rng, matrices in draws():
        properties.assert_linear_under_scaling(weights, matrices, rng)


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


@those(lambda row: True)
def test_zero_matrix(row):
    matrices = np.zeros((BATCH, 4, SIZE))
    properties.assert_multiple(batched(row), matrices, matrices[:, 0])


@those(lambda row: row.zero_row is not None)
def test_zero_row(row):
    matrices = samplers.conflicting(np.random.default_rng(4), BATCH, 4, SIZE)
    matrices[:, -1] = 0.0

    def direction(rows):
        return properties.solve(batched(row), rows)[1]

    expected = row.zero_row(direction, matrices)
    properties.assert_multiple(batched(row), matrices, expected, tolerance=2e-5)


@those(lambda row: row.opposed is not None)
def test_opposed(row):
    g = samplers.normal(np.random.default_rng(5), BATCH, 1, SIZE)
    matrices = np.concatenate([g, -g], axis=1)
    properties.assert_multiple(batched(row), matrices, 0 * g[:, 0])


@those(lambda row: True)
def test_nan_row(row):
    matrices = samplers.normal(np.random.default_rng(6), BATCH, 4, SIZE)
    properties.assert_nan_reaches_the_weights(batched(row), matrices)
