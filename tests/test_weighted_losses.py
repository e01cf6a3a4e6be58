"""Loss weighting: the aggregator's update, from one backward pass."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import aggregators, loss_weighting, value_and_grads
from eagc_jax.weighted_losses import METHODS

K, STEPS = 3, 6
OPTIONS = {
    "chebyshev": {"preference": (1.0, 0.5, 2.0), "augmentation": 0.1},
    "cosmos": {"preference": (1.0, 0.5, 2.0), "cosine_weight": 0.3},
    "dwa": {"window": 2, "preference": (1.0, 2.0, 0.0)},
    "famo": {"rescale": "sum"},
    "gls": {"preference": (1.0, 0.5, 2.0)},
    "imtl_l": {"initial": "loss"},
    "random_weighting": {"seed": 3},
    "smooth_chebyshev": {"ideal": "running", "relative": True},
    "uncertainty_weighting": {"coefficients": (0.5, 1.0, 0.5)},
}
X = np.random.default_rng(0).normal(size=(STEPS, 8, 4)).astype(np.float32)


def parameters():
    rng = np.random.default_rng(1)
    return {
        "kernel": jnp.asarray(rng.normal(size=(4, 5)) / 2, jnp.float32),
        "bias": jnp.zeros(5),
    }


def losses_fn(params, x):
    out = jnp.tanh(x @ params["kernel"] + params["bias"])
    return {
        "fit": 9 * jnp.mean((out - 0.3) ** 2),
        "other": jnp.mean((out - x[:, :1]) ** 2),
        "small": 0.1 * jnp.mean(jnp.abs(out)) + 0.01,
    }


def by_aggregator(name, extra):
    """The K gradients, the aggregator, Adam: parameters and weights of every step."""
    tx = getattr(aggregators, name)(K, **OPTIONS[name])
    adam = optax.adam(0.05)

    def step(carry, now):
        params, state, moments = carry
        losses, grads = value_and_grads(losses_fn)(params, now[0])
        update, state = tx.update(grads, state, params, value=losses, **extra(now))
        update, moments = adam.update(update, moments, params)
        params = optax.apply_updates(params, update)
        return (params, state, moments), (params, state.weights)

    params = parameters()
    return jax.jit(lambda: scanned(step, (params, tx.init(params), adam.init(params))))


def by_losses(name, extra):
    """The same from one backward pass."""
    weighting = loss_weighting(name, K, **OPTIONS[name])
    adam = optax.adam(0.05)

    def total(params, state, now):
        return weighting.update(losses_fn(params, now[0]), state, **extra(now))

    def step(carry, now):
        params, state, moments = carry
        gradient, state = jax.grad(total, has_aux=True)(params, state, now)
        update, moments = adam.update(gradient, moments, params)
        params = optax.apply_updates(params, update)
        return (params, state, moments), (params, state.weights)

    params = parameters()
    states = weighting.init(), adam.init(params)
    return jax.jit(lambda: scanned(step, (params, *states)))


MASKS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 0]])


def scanned(step, carry):
    return jax.lax.scan(step, carry, (X, MASKS.astype(bool)))


@pytest.mark.parametrize("name", METHODS)
def test_it_trains_as_the_aggregator_does(name):
    def extra(now):
        return {"active_mask": now[1]}

    (_, state, _), expected = by_aggregator(name, extra)()
    (_, found_state, _), found = by_losses(name, extra)()
    # Sums of K products in another order, which six steps of Adam divide by themselves.
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)
    assert jax.tree.structure(found_state) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(found_state), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def test_losses_after_the_step_reach_famo():
    one, after = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 2.0, 2.9])
    weighting, tx = loss_weighting("famo", K), aggregators.famo(K)
    _, state = weighting.update(one, weighting.init())
    _, state = weighting.update(one, state, value_after=after)
    grads, params = jnp.eye(K), jnp.zeros(K)
    _, expected = tx.update(grads, tx.init(params), value=one)
    _, expected = tx.update(grads, expected, value=one, value_after=after)
    np.testing.assert_array_equal(state.weights, expected.weights)
    assert not np.allclose(state.weights, weighting.update(one, weighting.init())[1][0])


def test_the_sum_of_the_closed_form_is_that_of_logarithms():
    losses = jnp.array([0.2, 3.0, 50.0])
    weighting = loss_weighting("imtl_l", K, closed_form=True)
    found = jax.grad(lambda x: weighting.update(x, weighting.init())[0])(losses)
    np.testing.assert_allclose(found, 1 / losses, rtol=2e-6)


def test_an_absent_loss_may_be_nan():
    weighting = loss_weighting("uncertainty_weighting", K)
    mask = jnp.array([True, False, True])

    def total(losses):
        return weighting.update(losses, weighting.init(), active_mask=mask)[0]

    value, gradient = jax.value_and_grad(total)(jnp.array([1.0, jnp.nan, 2.0]))
    assert value == 1.5
    np.testing.assert_array_equal(gradient, [0.5, 0.0, 0.5])


@pytest.mark.parametrize(
    ("policy", "total", "counts"),
    [
        ("propagate", np.nan, [0, 1, 0]),
        ("skip_objective", 1.5, [0, 1, 0]),
        ("skip_update", 0.0, [0, 1, 0]),
    ],
)
def test_policies_for_losses_that_are_not_finite(policy, total, counts):
    weighting = loss_weighting("uncertainty_weighting", K, nonfinite=policy)
    found, state = weighting.update(jnp.array([1.0, jnp.inf, 2.0]), weighting.init())
    np.testing.assert_array_equal(found, total)
    np.testing.assert_array_equal(state.nonfinite_count, counts)


def test_totals_keep_wide_types_and_widen_narrow_ones():
    weighting = loss_weighting("dwa", 2)
    narrow, _ = weighting.update(jnp.ones(2, jnp.bfloat16), weighting.init())
    assert narrow.dtype == jnp.float32
    with jax.enable_x64(True):
        wide, _ = weighting.update(jnp.array([1.0, 1e-12]), weighting.init())
        assert wide.dtype == jnp.float64
        assert float(wide) == 1.0 + 1e-12


def test_a_step_may_donate_its_states():
    weighting = loss_weighting("famo", K)
    step = jax.jit(weighting.update, donate_argnums=1)
    _, state = step(jnp.ones(K), weighting.init())
    step(jnp.ones(K), state)


def test_many_runs_at_once():
    weighting = loss_weighting("smooth_chebyshev", K)
    losses = jnp.arange(1.0, 7.0).reshape(2, K)
    states = jax.vmap(lambda _: weighting.init())(jnp.arange(2))
    totals, _ = jax.vmap(weighting.update)(losses, states)
    for row, total in zip(losses, totals, strict=True):
        expected = weighting.update(row, weighting.init())[0]
        np.testing.assert_allclose(total, expected, rtol=1e-6)


def test_no_leaf_of_k_gradients_is_made():
    weighting = loss_weighting("famo", K)

    def total(params, state):
        return weighting.update(losses_fn(params, X[0]), state)

    step = jax.jit(jax.grad(total, has_aux=True))
    text = step.lower(parameters(), weighting.init()).as_text()
    shapes = set(re.findall(r"tensor<([0-9x]+)xf32>", text))
    assert "4x5" in shapes
    assert "3x4x5" not in shapes


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gradnorm", {}, "method must be one of"),
        ("upgrad", {}, "method must be one of"),
        ("dwa", {"axis_name": "x"}, "no axis_name"),
        ("random_weighting", {"granularity": "tensor"}, "no granularity"),
        ("dwa", {"rescale": "norm_of_mean"}, "gradients' norms"),
        ("imtl_l", {"rescale": "mean"}, "gradients' norms"),
        ("dwa", {"window": 0}, "window must be an int >= 1"),
    ],
)
def test_bad_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        loss_weighting(name, K, **options)


def test_losses_that_are_not_k_scalars():
    weighting = loss_weighting("dwa", K)
    with pytest.raises(ValueError, match="K scalars"):
        weighting.update((jnp.ones(2), jnp.ones(2)), weighting.init())
    with pytest.raises(ValueError, match=r"has shape \(3, 3\)|one loss for each"):
        weighting.update(jnp.ones(2), weighting.init())
