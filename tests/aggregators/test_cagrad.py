"""CAGrad: its problem in float64, its ball, its closed form, its edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import weightings
from eagc_jax.aggregators import cagrad
from eagc_jax.aggregators._weighting import problem_of
from eagc_jax.aggregators.cagrad import (
    _at_level,
    _Ball,
    _in_pair,
    _solve,
    _to_radius,
)
from eagc_jax.solvers import two_float
from eagc_jax.testing import matrices as samplers
from tests.aggregators import gram_oracles as oracles
from tests.aggregators import properties

BATCH, SIZE = 12, 10
EPS = properties.EPS


@jax.jit
def _batched(gram, c):
    return jax.vmap(lambda one: weightings.cagrad(one, c=c))(gram)


def batched(c=0.4):
    """c is traced: one compilation for all of them."""
    return functools.partial(_batched, c=c)


def value(matrices, direction):
    """The smallest progress."""
    return np.min(np.einsum("bkn,bn->bk", matrices, direction), axis=1)


@pytest.mark.parametrize("number", [2, 3, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize("c", [0.4, 0.9])
def test_cagrad_reaches_the_best_smallest_progress(number, c):
    rng = np.random.default_rng(number)
    matrices = samplers.conflicting(rng, BATCH, number, SIZE)
    found, direction = properties.solve(batched(c), matrices)
    best = [oracles.cagrad(rows, c) for rows in matrices]
    # The dual's value bounds every direction in the ball; SLSQP's is above its minimum.
    scale = np.linalg.norm(matrices, axis=2).max(axis=1)
    size = properties.size_of(found, matrices)[:, 0] * scale
    gap = np.array([dual for _, dual in best]) - value(matrices, direction)
    # 50 eps for the level's tolerance and the sums; SLSQP itself stops at about 1e-7.
    assert np.all(gap <= (50 * EPS + 1e-7) * size)
    expected = np.stack([update for update, _ in best])
    off = np.linalg.norm(direction - expected, axis=1)
    # The optimum is flat to second order across the ball: the root of both errors.
    assert np.all(off <= 3e-3 * properties.size_of(found, matrices)[:, 0])


@pytest.mark.parametrize("number", [2, 3, 8])
def test_cagrad_is_on_its_ball(number):
    rng = np.random.default_rng(number)
    matrices = samplers.imbalanced(rng, BATCH, number, SIZE, 1e4)
    found, direction = properties.solve(batched(), matrices)
    mean = matrices.mean(axis=1)
    away = np.linalg.norm(direction - mean, axis=1)
    radius = 0.4 * np.linalg.norm(mean, axis=1)
    size = properties.size_of(found, matrices)[:, 0]
    assert np.all(np.abs(away - radius) <= 50 * EPS * size)


def test_the_pair_agrees_with_the_search():
    """A third objective that never binds: the search then has the pair's problem."""
    rng = np.random.default_rng(0)
    pair = samplers.conflicting(rng, BATCH, 2, SIZE)

    def both(gram):
        parts = problem_of(gram).gram
        mean = 0.5 * parts.norms
        slopes = two_float.product(parts.cosines, mean)
        length = jnp.sqrt(mean @ slopes.high)
        ball = _Ball(parts, slopes, length, 0.4 * length)
        searched, nearest, _ = _at_level(ball)
        return _to_radius(_in_pair(ball), nearest, ball), _to_radius(
            searched, nearest, ball
        )

    gram = samplers.gram_of(pair).astype(np.float32)
    closed, searched = jax.jit(jax.vmap(both))(gram)
    np.testing.assert_allclose(closed, searched, atol=2e-4)


def test_the_search_takes_few_steps():
    rng = np.random.default_rng(1)
    matrices = samplers.imbalanced(rng, 64, 8, SIZE, 1e4)
    gram = samplers.gram_of(matrices).astype(np.float32)
    solve = jax.jit(jax.vmap(lambda g: _solve(problem_of(g), 0.4, "none")[1]))
    info = solve(gram)
    assert np.median(info.iterations) <= 8
    assert np.max(info.residual) <= 1e-4


def test_radius_zero_is_the_mean():
    matrices = samplers.conflicting(np.random.default_rng(2), BATCH, 3, SIZE)
    found, _ = properties.solve(batched(0.0), matrices)
    np.testing.assert_allclose(found, 1 / 3, rtol=1e-6)


def test_a_large_ball_finds_the_direction_of_mgda():
    matrices = samplers.not_stationary(np.random.default_rng(3), BATCH, 3, SIZE)
    _, direction = properties.solve(batched(1e4), matrices)
    least = jax.jit(jax.vmap(weightings.mgda))
    _, expected = properties.solve(least, matrices)
    # g_0 is 1e-4 of the update; a cosine's error is the square of the angle.
    cosine = properties.cosines(direction[:, None], expected)
    np.testing.assert_allclose(cosine, 1, atol=1e-6)


def stationary_matrices(number):
    """With a combination that is 0: of all, of the last three, and of rank 1."""
    rng = np.random.default_rng(number)
    strong = samplers.strongly_stationary(rng, BATCH, number, SIZE)
    weak = samplers.strongly_stationary(rng, BATCH, number, SIZE)
    weak[:, : number - 3] += 3.0  # the last three alone are stationary
    weak[:, -1] = -weak[:, -2] - 2 * weak[:, -3]
    line = samplers.of_rank(rng, BATCH, number, SIZE, 1)
    line[:, -1] = -line[:, 0]
    third = BATCH // 3
    return np.concatenate([strong[:third], weak[:third], line[:third]])


@pytest.mark.parametrize("number", [3, 8])
@pytest.mark.parametrize("c", [0.4, 1.0, 2.0])
def test_where_no_direction_helps_all_the_nearest_to_the_mean(number, c):
    matrices = stationary_matrices(number)
    found, direction = properties.solve(batched(c), matrices)
    nearest = [oracles.nearest_without_conflict(rows, c) for rows in matrices]
    held = np.array([inside for _, inside in nearest])
    if c >= 1:  # the ball holds 0: no objective may lose
        assert np.all(held)
    expected = np.stack([update for update, _ in nearest])
    lengths = np.linalg.norm(matrices, axis=2).max(axis=1)
    off = np.linalg.norm(direction - expected, axis=1) / lengths
    # Rounding of the Gram, magnified by the condition of the face that is projected on.
    assert np.max(off[held], initial=0) <= 50 * EPS
    size = properties.size_of(found, matrices)[:, 0] * lengths
    least = value(matrices, direction)
    assert np.all(least[held] >= -10 * EPS * size[held])
    for rows, reached, s in zip(
        matrices[~held], least[~held], size[~held], strict=True
    ):
        assert reached >= oracles.cagrad(rows, c)[1] - (50 * EPS + 1e-7) * s


def test_opposed_of_unequal_length():
    """On a line: the ball [0.3, 0.7] around 0.5, and the best is its smallest."""
    for rows in ([[2.0], [-1.0]], [[2.0], [-1.0], [2.0]]):
        matrices = np.repeat([rows], BATCH, axis=0)  # of the shape that is compiled
        _, direction = properties.solve(batched(), matrices)
        np.testing.assert_allclose(direction, 0.6 * np.mean(rows), rtol=1e-5)


def test_shrink_is_a_factor():
    gram = np.array([[1.0, -0.5], [-0.5, 2.0]], np.float32)

    @jax.jit
    def every(gram, c):
        kinds = "none", "linear", "quadratic"
        return [weightings.cagrad(gram, c=c, shrink=kind) for kind in kinds]

    plain, linear, quadratic = jax.device_get(every(gram, 0.5))
    np.testing.assert_allclose(linear, plain * np.float32(1 / 1.5))
    np.testing.assert_allclose(quadratic, plain / 1.25, rtol=1e-6)


def test_cagrad_is_free_of_scale():
    tx = cagrad(3)
    rows = np.float32([[1.0, 0.0, 0.5], [-0.8, 0.6, 0.0], [0.3, 0.9, 0.3]])
    state = tx.init({"w": np.zeros(3, np.float32)})
    update = jax.jit(lambda factor: tx.update({"w": factor * rows}, state)[0]["w"])
    plain = np.asarray(update(1.0))
    for factor in (2.0**-50, 2.0**50):
        found = np.asarray(update(factor))
        np.testing.assert_allclose(found / factor, plain, rtol=4 * EPS)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"c": -0.1}, "c must be a finite number"), ({"shrink": "1"}, "shrink must be")],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        cagrad(2, **options)
