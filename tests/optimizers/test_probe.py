"""The measured preconditioner against the optimizer's own step, and against formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from eagc_jax import aggregators, optimizer_aware
from eagc_jax._trees import named_leaves
from eagc_jax.optimizers.probe import expect, metric_of, probe
from tests.optimizers.problems import (
    EPS,
    NOT_LINEAR,
    OPTIMIZERS,
    K,
    flat,
    gradients,
    rows,
    tree,
)

PARAMS = tree(0)
ALL = np.ones((K,), bool)
WEIGHTS = np.array([0.5, 2.0, 0.0], np.float32)


@functools.cache
def after_some_steps(name, steps=3):
    """The jitted update, and a state."""
    optimizer = (OPTIMIZERS | NOT_LINEAR)[name]()
    state, update = optimizer.init(PARAMS), jax.jit(optimizer.update)
    for seed in range(steps):
        _, state = update(tree(seed + 1), state, PARAMS)
    return update, state


@functools.cache
def probing(name, include_momentum=True):
    """Jitted: the expected gradient and the gains."""
    optimizer = (OPTIMIZERS | NOT_LINEAR)[name]()

    def run(state, updates):
        expected = expect(updates, WEIGHTS, ALL)
        gains = probe(
            optimizer.update, state, PARAMS, expected, include_momentum=include_momentum
        )
        return expected.gradient, gains

    return jax.jit(run)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gain_times_gradient_and_rest_is_the_step(name):
    """Momentum, weight decay, bias corrections: of whatever Optax does, all is there."""
    update, state = after_some_steps(name)
    expected, gains = probing(name)(state, gradients(1))
    step, _ = update(expected, state, PARAMS)
    expected, gains, step = jax.device_get((named_leaves(expected), gains, step))
    for leaf, own in named_leaves(step).items():
        gain = gains[leaf]
        found = gain.factor * expected[leaf] + np.sign(gain.factor) * gain.rest
        # A division and a multiplication of each of two terms.
        size = np.abs(gain.factor * expected[leaf]) + np.abs(gain.rest)
        assert np.all(np.abs(found - own) <= 8 * EPS * np.maximum(size, np.abs(own)))


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "partition"])
def test_the_gain_does_not_depend_on_how_momentum_points(name):
    """Not only at the probe: the step is affine in momentum, at another momentum too."""
    _, state = after_some_steps(name)
    _, gains = probing(name)(state, gradients(1))
    field = {"rmsprop": "trace"}.get(name, "mu")
    means = jax.tree.map(lambda x: -3 * np.asarray(x), optax.tree.get(state, field))
    turned = optax.tree.set(state, **{field: means})
    _, others = probing(name)(turned, gradients(1))
    for leaf, gain in gains.items():
        np.testing.assert_array_equal(gain.factor, others[leaf].factor)


def test_adam_by_its_formula():
    """float64: P is the learning rate's, the bias corrections' and the new root's."""
    lr, b1, b2, eps, root, count = 0.1, 0.8, 0.95, 1e-3, 1e-5, 4
    _, state = after_some_steps("adam", count - 1)
    updates = gradients(2)
    _, gains = probing("adam")(state, updates)
    d = np.asarray(WEIGHTS, np.float64) @ rows(updates)
    m, v = (flat(optax.tree.get(state, name)) for name in ("mu", "nu"))
    v = (b2 * v + (1 - b2) * d**2) / (1 - b2**count)
    factor = -lr * (1 - b1) / (1 - b1**count) / (np.sqrt(v + root) + eps)
    found = flat([gain.factor for gain in gains.values()])
    np.testing.assert_allclose(found, factor, rtol=2e-5)
    rest = flat([gain.rest for gain in gains.values()])
    # What Optax adds up is rounded relative to the larger of momentum and gradient.
    aim = b1 / (1 - b1) * m
    size = np.abs(factor) * (np.abs(aim) + np.abs(d) + 1e-3)
    assert np.all(np.abs(rest - np.abs(factor) * aim) <= 2e-6 * size)


@pytest.mark.parametrize("name", ["lion", "muon", "muon_tall"])
def test_what_is_not_linear_at_the_expected_step(name):
    """Lion: the sign times 1 / |m|. Muon: the factor times M gives an orthogonal one."""
    update, state = after_some_steps(name)
    updates = gradients(1)
    expected, gains = probing(name, include_momentum=False)(state, updates)
    nowhere = jax.tree.map(np.zeros_like, PARAMS)
    step, new = update(expected, state, nowhere)
    if name == "lion":
        mean = named_leaves(optax.tree.get(new, "mu"))
        sizes = {
            leaf: np.tensordot(WEIGHTS, np.abs(x), 1)
            for leaf, x in named_leaves(updates).items()
        }
        for leaf, gain in gains.items():
            size = np.maximum(np.abs(mean[leaf]), 0.01 * sizes[leaf])
            np.testing.assert_allclose(gain.factor * size, -0.1 + 0 * size, rtol=1e-5)
        return
    mean = next(
        x.mu
        for x in jax.tree.leaves(
            new, is_leaf=lambda x: isinstance(x, contrib.MuonState)
        )
        if isinstance(x, contrib.MuonState)
    )["kernel"]
    gain, own = gains["kernel"], np.asarray(step["kernel"], np.float64)
    u, s, vt = np.linalg.svd(np.asarray(mean, np.float64), full_matrices=False)
    orthogonal = -u @ vt  # downhill
    # Up to the share of the gradient in the mean, 1 - beta.
    found = np.asarray(jax.jit(gain.step_of)(mean), np.float64) / 0.05
    cosine = (
        np.sum(found * orthogonal) / np.linalg.norm(found) / np.linalg.norm(orthogonal)
    )
    assert cosine > 0.999 or s[-1] / np.linalg.norm(s) < 0.05
    # Muon's own polynomials, and Nesterov's look-ahead, are near it.
    cosine = np.sum(found * own) / np.linalg.norm(found) / np.linalg.norm(own)
    assert cosine > (0.97 if name == "muon_tall" else 0.7), cosine
    np.testing.assert_allclose(np.linalg.norm(found), np.linalg.norm(own), rtol=0.3)


def test_muon_coordinates_are_roots_of_its_factor():
    _, state = after_some_steps("muon")
    updates = gradients(1)

    @jax.jit
    def shown(state, updates):
        _, gains = probing("muon")(state, updates)
        found = metric_of(gains, named_leaves(updates)).coordinates
        steps = [gains["kernel"].step_of(one) for one in updates["kernel"]]
        return found, jnp.stack(steps), gains["kernel"].undone(steps[0])

    coordinates, steps, undone = shown(state, updates)
    assert list(coordinates) == ["kernel"]
    x = rows(coordinates)
    g = np.asarray(updates["kernel"], np.float64)
    np.testing.assert_allclose(
        x @ x.T,
        -np.einsum("kab,lab->kl", g, steps),
        rtol=1e-4,
        atol=1e-4 * np.max(x @ x.T),
    )
    # A step, and the gradient that gives it.
    np.testing.assert_allclose(undone, coordinates["kernel"][0], rtol=1e-3, atol=1e-4)


@jax.jit
def expecting(updates, weights, active):
    return expect(updates, weights, active).gradient


def test_the_expected_gradient():
    """Last weights, equal ones before; what isn't finite or absent counts for nothing."""
    gradient = [[1.0, 2.0, 5.0], [-1.0, np.nan, 0.0], [9.0, 9.0, 9.0]]
    updates = {"a": np.array(gradient, np.float32)}
    active = np.array([True, True, False])
    first = expecting(updates, np.zeros(3, np.float32), active)["a"]
    # Where gradients cancel, a hundredth of their sizes is left.
    np.testing.assert_allclose(first, [2 / 300, 2 / 3, 5 / 3], rtol=1e-6)
    later = expecting(updates, np.array([1.0, 3.0, 1.0], np.float32), active)["a"]
    np.testing.assert_allclose(later, [-2.0, 2.0, 5.0], rtol=1e-6)


def test_weights_by_block_are_expected_too():
    tx = optimizer_aware(aggregators.upgrad(K, granularity="tensor"), optax.adam(0.1))
    updates = gradients(0)
    _, state = jax.jit(tx.update)(updates, tx.init(PARAMS), PARAMS)
    weights = state.aggregator.weights
    found = named_leaves(expecting(updates, weights, ALL))
    for name, leaf in named_leaves(updates).items():
        aim = np.tensordot(np.ravel(weights[name]), leaf, 1)
        np.testing.assert_allclose(found[name], aim, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), contrib.muon(0.1)])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("momentum", [False, True])
def test_where_the_expected_gradient_is_written_out(optimizer, dtype, momentum):
    params = {"w": jnp.ones((8, 4), dtype)}
    updates = {"w": jnp.ones((2, 8, 4), dtype)}
    tx = optimizer_aware(aggregators.upgrad(2), optimizer, include_momentum=momentum)
    traced = jax.jit(tx.update).trace(updates, tx.init(params), params)

    def barriers(platform):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        return text.count("optimization_barrier")

    # On GPU for Muon alone; on TPU, too, of narrow gradients with momentum and of wide
    # ones without.
    more = "muon" not in str(optimizer.init(params)).lower()
    narrow = dtype == jnp.bfloat16
    assert barriers("tpu") - barriers("cuda") == (more and narrow == momentum)
