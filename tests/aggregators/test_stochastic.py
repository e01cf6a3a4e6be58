"""SDMGrad, MoDo, random weighting: replays, two batches, what is drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import weightings
from eagc_jax.aggregators import modo, random_weighting, sdmgrad
from tests.aggregators import gram_oracles as oracles

NUMBER = 3
EVEN = np.full(NUMBER, 1 / NUMBER)


def batches(seed=0):
    rng = np.random.default_rng(seed)
    common = rng.normal(size=(NUMBER, 6))
    return [common + 0.5 * rng.normal(size=(NUMBER, 6)) for _ in range(3)]


@functools.cache
def compiled(method):
    """A transformation with its defaults, and its update: compiled once."""
    tx = method(NUMBER)
    return tx, jax.jit(tx.update)


EVERYONE = np.ones(NUMBER, bool)


def tree(rows):
    return {"w": np.asarray(rows, np.float32)}


PARAMS = {"w": np.zeros(6, np.float32)}


def test_sdmgrad_replays_over_steps_and_batches():
    tx = sdmgrad(NUMBER, learning_rate=1.0)
    state, point = tx.init(PARAMS), EVEN
    update = jax.jit(tx.update)
    for seed in range(3):
        one, two, three = batches(seed)
        given = tree(one), tree(two)
        found, state = update(tree(three), state, batches=given)
        expected, point = oracles.sdmgrad(one @ two.T, point, EVEN, 0.3, 1.0, 0.5, 20)
        # Twenty steps on a simplex, where errors don't grow.
        np.testing.assert_allclose(state.weights, expected, atol=1e-5)
        np.testing.assert_allclose(np.asarray(state.method)[0], point, atol=1e-5)
        size = np.linalg.norm(three)
        np.testing.assert_allclose(found["w"], expected @ three, atol=1e-5 * size)


def test_sdmgrad_of_one_batch_uses_its_gram_matrix():
    one, _, _ = batches()
    tx, update = compiled(sdmgrad)
    state = tx.init(PARAMS)
    _, state = update(tree(one), state, active_mask=EVERYONE)
    expected, _ = oracles.sdmgrad(one @ one.T, EVEN, EVEN, 0.3, 10.0, 0.5, 20)
    np.testing.assert_allclose(state.weights, expected, atol=1e-4)
    pure = functools.partial(weightings.sdmgrad, preference=(1.0, 1.0, 1.0))
    found, _ = jax.jit(pure)(np.float32(one @ one.T))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_modo_replays():
    matrix = batches()[0] @ batches()[1].T
    solve = jax.jit(functools.partial(weightings.modo, normalize=False))
    start, expected = None, EVEN
    for _ in range(3):
        found, start = solve(np.float32(matrix), start)
        expected = oracles.modo(matrix, expected, 0.1, 0.1)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_modo_takes_two_batches():
    one, two, three = batches()
    tx = modo(NUMBER, normalize=False)
    state = tx.init(PARAMS)
    _, state = jax.jit(tx.update)(tree(three), state, batches=(tree(one), tree(two)))
    expected = oracles.modo(one @ two.T, EVEN, 0.1, 0.1)
    np.testing.assert_allclose(state.weights, expected, atol=1e-6)


@pytest.mark.parametrize("method", [sdmgrad, modo])
def test_normalised_matrices_have_no_scale(method):
    rows, _, _ = batches()
    tx, update = compiled(method)
    state = tx.init(PARAMS)
    _, plain = update(tree(rows), state, active_mask=EVERYONE)
    for factor in (2.0**-50, 2.0**50):
        _, scaled = update(tree(factor * rows), state, active_mask=EVERYONE)
        np.testing.assert_allclose(scaled.weights, plain.weights, atol=1e-6)


@pytest.mark.parametrize("method", [sdmgrad, modo])
def test_absent_objectives_keep_their_place(method):
    tx, advance = compiled(method)
    rows, _, _ = batches()
    state = tx.init(PARAMS)
    mask = np.array([True, False, True])
    update, after = advance(tree(rows), state, active_mask=mask)
    state, after = jax.device_get((state, after))
    np.testing.assert_allclose(after.weights.sum(), 1, atol=1e-6)
    assert after.weights[1] == 0
    assert after.method[0, 1] == state.method[0, 1]
    assert np.all(np.isfinite(update["w"]))


@pytest.mark.parametrize("method", [sdmgrad, modo])
def test_nan_leaves_the_start(method):
    pure = getattr(weightings, method.__name__)
    start = np.float32([0.2, 0.3, 0.5])
    found, after = jax.jit(pure)(np.full((3, 3), np.nan, np.float32), start)
    assert np.all(np.isnan(found))
    np.testing.assert_array_equal(after, start)


def test_batches_that_do_not_fit():
    rows, other, _ = batches()
    tx = sdmgrad(NUMBER, granularity="tensor")
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match="granularity must be 'global'"):
        tx.update(tree(rows), state, batches=(tree(rows), tree(other)))
    tx = sdmgrad(NUMBER)
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match="gradients of 3 objectives"):
        tx.update(tree(rows), state, batches=(tree(rows[:2]), tree(other[:2])))


def test_random_weights_average_to_the_preference():
    keys = jax.random.split(jax.random.key(0), 4000)
    draw = jax.jit(
        jax.vmap(lambda key: weightings.random_weighting(jnp.eye(NUMBER), key=key))
    )
    found = np.asarray(draw(keys))
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert np.all(found > 0)
    # Standard deviation of a weight about 0.21, so 0.0033 of the mean of 4000.
    np.testing.assert_allclose(found.mean(axis=0), 1 / NUMBER, atol=0.014)


def test_random_weights_change_at_every_step_and_with_the_seed():
    rows, _, _ = batches()
    tx = random_weighting(NUMBER, seed=1)
    update = jax.jit(tx.update)
    state = tx.init(PARAMS)
    _, first = update(tree(rows), state)
    _, second = update(tree(rows), first)
    _, again = update(tree(rows), state)
    # The update is the same whatever the seed, which is the state's.
    _, other = update(tree(rows), random_weighting(NUMBER, seed=2).init(PARAMS))
    np.testing.assert_array_equal(first.weights, again.weights)
    assert not np.allclose(first.weights, second.weights)
    assert not np.allclose(first.weights, other.weights)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sdmgrad(2, pull=-1.0), "pull must be a finite number >= 0"),
        (lambda: sdmgrad(2, momentum=1.0), "momentum must lie in"),
        (lambda: sdmgrad(2, steps=0), "steps must be an int >= 1"),
        (lambda: modo(2, learning_rate=-1.0), "learning_rate must be"),
        (lambda: modo(2, preference=(1.0, 2.0)), "modo has no preference"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
