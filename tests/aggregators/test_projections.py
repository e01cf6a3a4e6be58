"""PCGrad, GradVac, GEM, A-GEM, PCD, ensure_nonconflict: oracles on the vectors."""

import functools

import jax
import numpy as np
import pytest

from eagc_jax import weightings
from eagc_jax.aggregators import a_gem, gem, gradvac, pcd, pcgrad
from eagc_jax.aggregators._unit_rows import visiting_order
from eagc_jax.testing import matrices as samplers
from tests.aggregators import gram_oracles as oracles
from tests.aggregators import properties

BATCH, SIZE = 16, 10
NUMBERS = (2, 3, 8)
EPS = properties.EPS


def matrices_of(number, seed=0, ratio=30.0):
    rng = np.random.default_rng(seed)
    return samplers.imbalanced(rng, BATCH, number, SIZE, ratio)


@functools.cache
def _compiled(name, settings):
    method = functools.partial(getattr(weightings, name), **dict(settings))
    return jax.jit(
        lambda numbers, args: jax.vmap(lambda *a: method(*a, **numbers))(*args)
    )


def batched(name, *settings):
    """The method over a batch. Floats are traced: one compilation for all of them."""
    numbers = {key: value for key, value in settings if isinstance(value, float)}
    others = tuple(item for item in settings if item[0] not in numbers)
    return lambda *args: _compiled(name, others)(numbers, args)


def fixed(number):
    return np.tile(np.arange(number), (number, 1))


def condition(matrices):
    """Of the cosines: what amplifies rounding where a subset is solved for."""
    cosines = samplers.gram_of(samplers.unit_rows(matrices))
    return np.linalg.cond(cosines)[:, None]


def assert_close(found, direction, expected, matrices, factor):
    off = np.linalg.norm(direction - expected, axis=1, keepdims=True)
    assert np.all(off <= factor * EPS * properties.size_of(found, matrices))


# -- PCGrad and GradVac ----------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
def test_pcgrad_projects_the_vectors(number):
    matrices = matrices_of(number)
    found, direction = properties.solve(batched("pcgrad"), matrices)
    expected = np.stack([oracles.pcgrad(m, fixed(number)) for m in matrices])
    # K steps, each of which multiplies the rounding of a cosine at most by two.
    assert_close(found, direction, expected, matrices, 8 * number)


def test_pcgrad_in_random_orders():
    matrices = matrices_of(8)
    keys = jax.random.split(jax.random.key(0), BATCH)

    def both(gram, key):
        return weightings.pcgrad(gram, key=key), visiting_order(key, 8)

    gram = samplers.gram_of(matrices).astype(np.float32)
    found, orders = jax.device_get(jax.jit(jax.vmap(both))(gram, keys))
    found = found.astype(np.float64)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order, axis=1), fixed(8))
    assert len({order.tobytes() for order in orders}) == BATCH
    expected = np.stack(
        [oracles.pcgrad(m, o) for m, o in zip(matrices, orders, strict=True)]
    )
    direction = np.einsum("bk,bkn->bn", found, matrices)
    assert_close(found, direction, expected, matrices, 64)


def test_pcgrad_of_two_is_twice_upgrad():
    matrices = matrices_of(2, ratio=1e4)
    pair, _ = properties.solve(batched("pcgrad"), matrices)
    half, _ = properties.solve(batched("upgrad"), matrices)
    np.testing.assert_allclose(pair, 2 * half, rtol=1e-5)
    gram = samplers.gram_of(matrices)
    diagonal = np.stack([gram[:, 0, 0], gram[:, 1, 1]], axis=1)
    exact = 1 - np.minimum(gram[:, 0, 1], 0)[:, None] / diagonal
    np.testing.assert_allclose(pair, exact, rtol=1e-6)


@pytest.mark.parametrize("number", NUMBERS)
def test_gradvac_replays(number):
    matrices = matrices_of(number)
    weights = batched("gradvac", ("decay", 0.3))
    targets = np.zeros((BATCH, number, number))
    device = targets.astype(np.float32)
    for scale in (1.0, 0.5, -1.0):
        rows = matrices.copy()
        rows[:, 0] *= scale  # the cosines of the third step are others
        gram = samplers.gram_of(rows).astype(np.float32)
        found, device = weights(gram, device)
        found = np.asarray(found, np.float64)
        direction = np.einsum("bk,bkn->bn", found, rows)
        replay = [
            oracles.gradvac(m, t, fixed(number), 0.3)
            for m, t in zip(rows, targets, strict=True)
        ]
        targets = np.stack([t for _, t in replay])
        expected = np.stack([d for d, _ in replay])
        assert_close(found, direction, expected, rows, 200 * number)
        np.testing.assert_allclose(device, targets, atol=100 * number * EPS)


def test_gradvac_starts_as_pcgrad():
    matrices = matrices_of(3)
    gram = samplers.gram_of(matrices).astype(np.float32)
    found, _ = batched("gradvac", ("decay", 0.5))(gram, np.zeros_like(gram))
    np.testing.assert_allclose(found, batched("pcgrad")(gram), rtol=1e-5)


def test_gradvac_guards():
    solve = jax.jit(weightings.gradvac)
    gram = np.float32([[1.0, 0.0, -2.0], [0.0, 0.0, 0.0], [-2.0, 0.0, 4.0]])
    targets = np.full((3, 3), 0.9, np.float32)
    found, after = jax.device_get(solve(gram, targets))
    assert np.all(np.isfinite(found))
    # A zero row neither moves anyone nor changes a target.
    np.testing.assert_array_equal(after[1], targets[1])
    np.testing.assert_array_equal(after[:, 1], targets[:, 1])
    gram[0, 0] = np.nan
    broken, kept = solve(gram, targets)
    assert np.all(np.isnan(broken))
    np.testing.assert_array_equal(kept, targets)
    # A target of 1 would need an infinite move.
    found, _ = solve(np.eye(3, dtype=np.float32), np.ones((3, 3), np.float32))
    assert np.all(np.isfinite(found))


def test_gradvac_keeps_targets_by_block():
    tx = gradvac(2, granularity="tensor", order="fixed")
    params = {n: np.zeros(2, np.float32) for n in "ab"}
    grads = {
        "a": np.float32([[1.0, 0.0], [-1.0, 1.0]]),
        "b": np.float32([[1.0, 0.0], [1.0, 0.0]]),
    }
    _, state = jax.jit(tx.update)(grads, tx.init(params))
    targets = np.asarray(state.method)
    np.testing.assert_allclose(targets[:, 0, 1], [-0.5 * 0.5**0.5, 0.5], rtol=1e-6)


# -- GEM and A-GEM ---------------------------------------------------------------------


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("number", NUMBERS)
def test_gem_is_least_squares(number, margin):
    matrices = matrices_of(number)
    weights = batched("gem", ("margin", margin), ("current", 1))
    found, direction = properties.solve(weights, matrices)
    expected = np.stack([oracles.gem(m, 1, margin) for m in matrices])
    off = np.linalg.norm(direction - expected, axis=1, keepdims=True)
    bound = 20 * EPS * condition(matrices) * properties.size_of(found, matrices)
    assert np.all(off <= bound)


def test_gem_with_one_memory_is_a_gem():
    matrices = matrices_of(2, ratio=1e4)
    one, _ = properties.solve(batched("gem"), matrices)
    other, _ = properties.solve(batched("a_gem"), matrices)
    np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize("number", [2, 8])
def test_a_gem_projects_off_the_mean(number):
    matrices = matrices_of(number)
    weights = batched("a_gem", ("current", 1))
    found, direction = properties.solve(weights, matrices)
    expected = np.stack([oracles.a_gem(m, 1) for m in matrices])
    # The mean's length, which divides, is known to rounding of its parts.
    memories = np.delete(matrices, 1, axis=1)
    mean = np.linalg.norm(memories.mean(axis=1), axis=1, keepdims=True)
    parts = np.linalg.norm(memories, axis=2).mean(axis=1, keepdims=True)
    off = np.linalg.norm(direction - expected, axis=1, keepdims=True)
    bound = 20 * EPS * (parts / mean) ** 2 * properties.size_of(found, matrices)
    assert np.all(off <= bound)


@pytest.mark.parametrize("method", [gem, a_gem])
def test_the_current_objective_may_change_from_step_to_step(method):
    tx = method(2)
    grads = {"w": np.float32([[1.0, 1.0], [-2.0, 0.0]])}
    state = tx.init({"w": np.zeros(2, np.float32)})
    update = jax.jit(lambda index: tx.update(grads, state, current=index)[0]["w"])
    np.testing.assert_allclose(update(0), [0.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(update(1), [-1.0, 1.0], atol=1e-6)
    with pytest.raises(ValueError, match="current must be the index"):
        tx.update(grads, state, current=2)


def test_gem_leaves_out_memories_that_are_absent():
    tx = gem(3, margin=0.5)
    grads = {"w": np.float32([[1.0, 1.0], [-2.0, 0.0], [np.nan, 0.0]])}
    mask, state = np.array([True, True, False]), tx.init({"w": np.zeros(2, np.float32)})
    update, state = jax.jit(tx.update)(grads, state, active_mask=mask)
    np.testing.assert_allclose(update["w"], [0.0, 1.0], atol=1e-6)
    assert np.asarray(state.weights)[2] == 0


# -- PCD -------------------------------------------------------------------------------


@pytest.mark.parametrize("tau", [0.0, 0.02, 0.5])
@pytest.mark.parametrize("number", NUMBERS)
def test_pcd_satisfies_its_optimality_conditions(number, tau):
    """KKT in the normalised gradients: a certificate, without another solver."""
    rng = np.random.default_rng(3)
    matrices = samplers.not_stationary(rng, BATCH, number, SIZE)
    matrices *= rng.uniform(0.1, 10.0, size=(BATCH, number, 1))
    found, direction = properties.solve(batched("pcd", ("tau", tau)), matrices)
    norms = np.linalg.norm(matrices, axis=2)
    units = samplers.unit_rows(matrices)
    np.testing.assert_allclose(
        np.linalg.norm(direction, axis=1), norms[:, 0], rtol=1e-4
    )
    coefficients = found * norms / (found * norms)[:, :1]  # of the primary: 1
    solution = np.einsum("bk,bkn->bn", coefficients, units)
    slack = np.einsum("bkn,bn->bk", units[:, 1:], solution) - tau
    multipliers = coefficients[:, 1:]
    rounding = 20 * EPS * np.abs(coefficients).sum(axis=1, keepdims=True)
    assert np.all(multipliers >= 0)
    assert np.all(slack >= -rounding)
    assert np.all(np.abs(multipliers * slack) <= rounding * (1 + multipliers))


def pcd_of(rows, tau=0.0):
    """A batch of the same matrix: of the shape that is compiled."""
    matrices = np.repeat([rows], BATCH, axis=0)
    return properties.solve(batched("pcd", ("tau", tau)), matrices)


def test_pcd_without_conflict_is_the_primary_gradient():
    found, _ = pcd_of([[2.0, 0.0], [1.0, 1.0]])
    np.testing.assert_array_equal(found, [[1.0, 0.0]] * BATCH)


def test_pcd_drops_constraints_that_contradict_each_other():
    found, _ = pcd_of([[1.0, 1.0], [1.0, 0.0], [-1.0, 0.0]], tau=0.1)
    np.testing.assert_array_equal(found, [[1.0, 0.0, 0.0]] * BATCH)


def test_pcd_stops_with_its_primary_objective():
    _, direction = pcd_of([[0.0, 0.0], [1.0, 0.0]])
    np.testing.assert_array_equal(direction, 0.0)


def test_pcd_normalises_by_the_running_mean():
    decay, tau = 0.9, 0.5
    tx = pcd(2, tau=tau, decay=decay)
    update = jax.jit(tx.update)
    state, mean = tx.init({"w": np.zeros(2, np.float32)}), np.zeros(2)
    rows = np.array([[1.0, 0.0], [-0.6, 0.8]])
    for step, factor in enumerate((1.0, 4.0, 0.5), start=1):
        now = rows * np.array([[1.0], [factor]])
        found, state = update({"w": now.astype(np.float32)}, state)
        mean = decay * mean + (1 - decay) * np.array([1.0, factor**2])
        scaled = now / np.sqrt(mean / (1 - decay**step))[:, None]
        g, other = scaled
        short = max(tau * (other @ other) - other @ g, 0) / (other @ other)
        expected = g + short * other
        expected /= np.linalg.norm(expected)
        # float32's 1 - decay^t at the first steps: some 30 eps.
        np.testing.assert_allclose(found["w"], expected, atol=1e-5)


def test_pcd_is_free_of_scale():
    tx = pcd(2, tau=0.5)
    rows = np.float32([[1.0, 0.0], [-0.6, 0.8]])
    update = jax.jit(tx.update)
    state = tx.init({"w": np.zeros(2, np.float32)})
    plain, _ = update({"w": rows}, state)
    for factor in np.float32([2.0**-50, 2.0**50]):
        found, _ = update({"w": factor * rows}, state)
        back = np.asarray(found["w"]) / factor
        np.testing.assert_allclose(back, plain["w"], rtol=4 * EPS)


# -- ensure_nonconflict ----------------------------------------------------------------


def test_ensure_nonconflict_is_the_projection():
    matrices = matrices_of(4, seed=6)
    # Not of any sign: a combination that undoes all objectives is projected to 0.
    start = np.random.default_rng(6).uniform(size=(BATCH, 4))
    gram = samplers.gram_of(matrices).astype(np.float32)
    project = jax.jit(jax.vmap(weightings.ensure_nonconflict))
    found = np.asarray(project(gram, start.astype(np.float32)), np.float64)
    direction = np.einsum("bk,bkn->bn", found, matrices)
    assert np.min(properties.cosines(matrices, direction)) >= -1e-6
    before = np.einsum("bk,bkn->bn", start, matrices)
    # A projection on a cone: what was removed is orthogonal to what is left.
    removed = direction - before
    size = properties.size_of(found, matrices)[:, 0]
    inner = np.abs(np.sum(removed * direction, axis=1))
    assert np.all(inner <= 1e-5 * size**2)
    assert np.all(found >= start - 1e-6 * np.abs(start))


# -- arguments -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: pcgrad(2, order="sorted"), "order must be one of"),
        (lambda: gradvac(2, decay=1.5), "decay must lie in"),
        (lambda: gem(2, current=2), "current must be the index"),
        (lambda: gem(2, margin=-1.0), "margin must be a finite number >= 0"),
        (lambda: gem(2, preference=(1.0, 2.0)), "gem has no preference"),
        (lambda: pcd(2, tau=1.5), "tau must be a number in"),
        (lambda: pcd(3, tau=(0.1, 0.2)), "tau must be a number in"),
        (lambda: pcd(2, primary=-1), "primary must be the index"),
        (lambda: pcd(2, decay=1.0), "decay must lie in"),
        (lambda: pcd(2, preference=(1.0, 2.0)), "pcd has no preference"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
