"""Solvers against enumeration of active sets in float64, closed forms and conditions."""

import itertools

import jax
import numpy as np
import pytest

from eagc_jax import weightings
from eagc_jax.solvers import fair, frank_wolfe, nnqp, nnqp_many, project_simplex
from eagc_jax.testing import matrices as samplers

solve = jax.jit(jax.vmap(nnqp))


def enumerated(matrix, linear):
    """min x'Hx/2 - b'x over x >= 0: the best stationary point over all free sets."""
    number = len(linear)
    best, value = np.zeros(number), 0.0
    for size in range(1, number + 1):
        for free in itertools.combinations(range(number), size):
            free = list(free)
            x = np.zeros(number)
            x[free] = np.linalg.lstsq(matrix[np.ix_(free, free)], linear[free])[0]
            found = 0.5 * x @ matrix @ x - linear @ x
            if np.all(x >= -1e-12) and found < value:
                best, value = x, found
    return best


@pytest.mark.parametrize("number", [1, 2, 3, 5])
def test_nnqp_finds_the_minimum(number):
    rng = np.random.default_rng(number)
    rows = samplers.imbalanced(rng, 12, number, 12, ratio=1e3)
    matrix = samplers.gram_of(rows)
    linear = rng.normal(size=(12, number)) * np.linalg.norm(rows, axis=-1)
    found, info = solve(matrix.astype(np.float32), linear.astype(np.float32))
    assert np.max(info.residual) < 2e-6  # a few eps of K products
    for h, b, x in zip(matrix, linear, np.asarray(found, np.float64), strict=True):
        exact = enumerated(h, b)
        scale = np.sqrt(np.diag(h))
        # Relative to the unit problem, whose condition number is below 100 here.
        assert np.max(np.abs((x - exact) * scale)) < 1e-4 * np.max(np.abs(b / scale))


def test_nnqp_doesn_t_know_units():
    rng = np.random.default_rng(0)
    matrix = samplers.gram_of(samplers.normal(rng, 8, 4, 6)).astype(np.float32)
    linear = rng.normal(size=(8, 4)).astype(np.float32)
    found, _ = solve(matrix, linear)
    units = 2.0 ** np.array([-20, 0, 20, 40], np.float32)
    scaled, _ = solve(matrix * units[:, None] * units, linear * units)
    # Powers of four would be exact; the square root of the diagonal isn't quite.
    np.testing.assert_allclose(scaled * units, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("number", "rank"), [(2, 1), (4, 2), (6, 3), (16, 8)])
def test_nnqp_of_singular_matrices_meets_its_conditions(number, rank):
    rng = np.random.default_rng(rank)
    rows = samplers.unit_rows(samplers.of_rank(rng, 48, number, 8, rank))
    matrix = samplers.gram_of(rows).astype(np.float32)
    found, info = solve(matrix, -matrix[:, 0])
    assert np.all(np.isfinite(found) & (np.asarray(found) >= 0))
    # To a few eps; of K = 16 a few problems end at 1e-5 (7e-4 without careful solves).
    assert np.max(info.residual) < (2e-6 if number < 16 else 5e-5)


def test_many_problems_with_one_matrix():
    """From 24 variables on by conjugate gradients; below, one by one."""
    rng = np.random.default_rng(0)
    many = jax.jit(nnqp_many)
    for rank in (30, 15):
        rows = samplers.unit_rows(samplers.of_rank(rng, 1, 30, 120, rank)[0])
        matrix = samplers.gram_of(rows).astype(np.float32)
        found, info = many(matrix, -matrix)
        assert np.all(np.isfinite(found) & (np.asarray(found) >= 0))
        assert float(info.residual) < 2e-6
        updates = (np.eye(30) + np.asarray(found, np.float64)) @ rows
        if rank == 30:  # regular: one solution, and each update conflicts with none
            expected, _ = solve(np.repeat(matrix[None], 30, axis=0), -matrix)
            np.testing.assert_allclose(found, expected, atol=2e-5)
            assert np.min(updates @ rows.T) > -1e-6
    units = 2.0 ** rng.integers(-10, 10, size=30).astype(np.float32)
    scaled, _ = many(matrix * units[:, None] * units, -matrix * units)
    assert np.all(np.isfinite(scaled))
    x = np.asarray(many(matrix * np.float32(np.nan), -matrix)[0])
    assert np.all(np.isnan(x) | (x == 0))


def test_nnqp_ends_on_nan():
    x, info = jax.jit(nnqp)(np.full((3, 3), np.nan), np.ones(3))
    assert np.all(np.isnan(x))
    assert int(info.iterations) == 2  # one a round
    x, _ = nnqp(np.full((2, 2), np.nan, np.float32), np.ones(2, np.float32))
    assert np.any(np.isnan(x))


def test_nnqp_checks_shapes():
    with pytest.raises(ValueError, match=r"matrix must be \(K, K\)"):
        nnqp(np.ones((2, 3)), np.ones(2))
    with pytest.raises(ValueError, match=r"linear must be \(2,\)"):
        nnqp(np.eye(2), np.ones(3))


# -- what the weightings make of it ---------------------------------------------------


def project_on_cone(rows, point):
    """The projection of a point on {d : rows d >= 0}, in float64, by enumeration."""
    return point + rows.T @ enumerated(rows @ rows.T, -rows @ point)


def of_weightings(names, **options):
    """Their weights for a batch of Gram matrices, by name."""
    each = {name: getattr(weightings, name) for name in names}
    return jax.jit(
        lambda grams: {
            name: jax.vmap(lambda g, f=f: f(g, **options))(grams)
            for name, f in each.items()
        }
    )


@pytest.mark.parametrize("number", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_upgrad_and_dualproj_are_projections(number):
    rng = np.random.default_rng(number)
    batch = samplers.imbalanced(rng, 6, number, 8, ratio=10.0)
    u = np.arange(1, number + 1) / np.sum(np.arange(1, number + 1))
    weights = of_weightings(("upgrad", "dualproj"), preference=u)
    found = weights(samplers.gram_of(batch).astype(np.float32))
    for name, ws in found.items():
        for rows, w in zip(batch, np.asarray(ws, np.float64), strict=True):
            if name == "upgrad":
                expected = sum(
                    p * project_on_cone(rows, g) for p, g in zip(u, rows, strict=True)
                )
            else:
                expected = project_on_cone(rows, u @ rows)
            size = np.max(np.linalg.norm(rows, axis=1))
            assert np.max(np.abs(w @ rows - expected)) < 2e-5 * size


def test_closed_forms_of_two():
    rng = np.random.default_rng(0)
    batch = samplers.conflicting(rng, 64, 2, 4) * rng.uniform(0.1, 10, size=(64, 2, 1))
    gram = samplers.gram_of(batch)
    g11, g12, g22 = gram[:, 0, 0], gram[:, 0, 1], gram[:, 1, 1]
    first = np.clip((g22 - g12) / (g11 + g22 - 2 * g12), 0, 1)
    r = gram.mean(axis=2)
    expected = {
        "mgda": np.stack([first, 1 - first], axis=1),
        "upgrad": 0.5 * np.stack([1 - np.minimum(g12, 0) / g for g in (g11, g22)], 1),
        "dualproj": 0.5 - np.minimum(r, 0) / np.stack([g11, g22], axis=1),
    }
    found = of_weightings(expected)(gram.astype(np.float32))
    for name, weights in expected.items():
        np.testing.assert_allclose(
            found[name], weights, rtol=2e-5, atol=2e-5, err_msg=name
        )


def least_norm(rows):
    """The least squared norm in the convex hull, float64, by exchanges on faces."""
    gram = rows @ rows.T
    x = np.ones(len(rows))
    free = np.ones(len(rows), bool)
    for _ in range(10 * len(rows)):  # Lawson-Hanson on min x'Gx/2 - 1'x
        x = np.zeros(len(rows))
        x[free] = np.linalg.solve(gram[np.ix_(free, free)], np.ones(free.sum()))
        if np.all(x >= 0):
            slack = gram @ x - 1
            if np.all(slack > -1e-9):
                break
            free[np.argmin(slack)] = True
        else:
            free[np.argmin(x)] = False
    else:
        raise AssertionError("the oracle did not converge")
    w = x / x.sum()
    return w @ gram @ w


@pytest.mark.parametrize("number", [8, 32, 64])
def test_mgda_is_at_the_least_norm(number):
    rng = np.random.default_rng(number)
    batch = samplers.imbalanced(rng, 6, number, 4 * number, ratio=10.0)
    found = jax.jit(jax.vmap(weightings.mgda))(
        samplers.gram_of(batch).astype(np.float32)
    )
    w = np.asarray(found, np.float64)
    np.testing.assert_allclose(w.sum(axis=1), 1.0, rtol=1e-6)
    w /= w.sum(axis=1, keepdims=True)
    reached = np.sum(np.einsum("bk,bkn->bn", w, batch) ** 2, axis=1)
    exact = np.array([least_norm(rows) for rows in batch])
    assert np.max(reached / exact) <= 1 + 1e-6


# -- fairness -------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0])
def test_fair_solves_its_equation(alpha):
    rng = np.random.default_rng(0)
    rows = samplers.not_stationary(rng, 16, 5, 12) * rng.uniform(
        0.01, 100, size=(16, 5, 1)
    )
    gram = samplers.gram_of(rows)
    w, info = jax.jit(jax.vmap(lambda g: fair(g, alpha)))(gram.astype(np.float32))
    w = np.asarray(w, np.float64)
    assert np.all(w > 0)
    residual = w ** (1 / alpha) * np.einsum("bkl,bl->bk", gram, w) - 1
    assert np.max(np.abs(residual)) < 1e-3
    assert np.max(info.residual) < 1e-3


def test_fair_right_side_and_start():
    gram, right = np.float32([[1, 0.3], [0.3, 1]]), np.float32([2, 0.5])
    w = np.asarray(fair(gram, 2.0, right=right)[0])
    np.testing.assert_allclose(gram @ w, right * w**-0.5, rtol=1e-5)
    again, info = fair(gram, 2.0, right=right, start=w)
    np.testing.assert_allclose(again, w, rtol=1e-5)
    assert int(info.iterations) <= 2


# -- the simplex ----------------------------------------------------------------------


def test_projection_on_the_simplex():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(20, 5)).astype(np.float32)
    found = np.asarray(jax.jit(jax.vmap(project_simplex))(points))
    for x, w in zip(points, found, strict=True):
        assert np.all(w >= 0)
        np.testing.assert_allclose(w.sum(), 1.0, rtol=1e-6)
        # x - w is normal to the simplex at w: largest, and equal, where w > 0.
        gap = x - w
        np.testing.assert_allclose(gap[w > 0], gap.max(), atol=1e-6)


def test_frank_wolfe_approaches_the_least_norm():
    rows = samplers.normal(np.random.default_rng(0), 1, 4, 10)[0]
    gram = np.float32(rows @ rows.T)

    @jax.jit
    def solved(gram):
        long = frank_wolfe(gram, tolerance=0.0, max_iterations=3000)
        return long, frank_wolfe(gram), weightings.mgda(gram, solver="frank_wolfe")

    (w, info), (coarse, short), found = solved(gram)
    assert int(info.iterations) == 3000
    w = np.asarray(w)
    value = w @ gram @ w
    assert least_norm(rows) <= value * (1 + 1e-5)
    assert value <= least_norm(rows) * (1 + 1e-3)
    assert int(short.iterations) <= 100
    np.testing.assert_allclose(found, coarse, atol=1e-5)
