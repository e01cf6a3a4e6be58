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
        "kernel": np.float32(rng.normal(size=(4, 5)) / 2),
        "bias": np.zeros(5, np.float32),
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
    return scanned(step, (params, tx.init(params), adam.init(params)))


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
    return scanned(step, (params, weighting.init(), adam.init(params)))


MASKS = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 1], [1, 1, 0]])


def scanned(step, carry):
    return jax.lax.scan(step, carry, (X, MASKS.astype(bool)))


@pytest.mark.parametrize("name", METHODS)
def test_it_trains_as_the_aggregator_does(name):
    def extra(now):
        return {"active_mask": now[1]}

    ((_, state, _), expected), ((_, found_state, _), found) = jax.jit(
        lambda: (by_aggregator(name, extra), by_losses(name, extra))
    )()
    # Sums of K products in another order, which six steps of Adam divide by themselves.
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)
    assert jax.tree.structure(found_state) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(found_state), jax.tree.leaves(state), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def test_losses_after_the_step_reach_famo():
    one, after = np.float32([1, 2, 3]), np.float32([0.5, 2, 2.9])
    weighting, tx = loss_weighting("famo", K), aggregators.famo(K)
    grads, params = np.eye(K, dtype=np.float32), np.zeros(K, np.float32)

    @jax.jit
    def by_losses():
        _, first = weighting.update(one, weighting.init())
        return first.weights, weighting.update(one, first, value_after=after)[1].weights

    @jax.jit
    def by_gradients():
        _, state = tx.update(grads, tx.init(params), value=one)
        return tx.update(grads, state, value=one, value_after=after)[1].weights

    first, found = by_losses()
    np.testing.assert_array_equal(found, by_gradients())
    assert not np.allclose(found, first)


def test_the_sum_of_the_closed_form_is_that_of_logarithms():
    losses = np.float32([0.2, 3, 50])
    weighting = loss_weighting("imtl_l", K, closed_form=True)
    total = jax.grad(lambda x: weighting.update(x, weighting.init())[0])
    found = jax.jit(total)(losses)
    np.testing.assert_allclose(found, 1 / losses, rtol=2e-6)


def test_an_absent_loss_may_be_nan():
    weighting = loss_weighting("uncertainty_weighting", K)
    mask = np.array([True, False, True])

    def total(losses):
        return weighting.update(losses, weighting.init(), active_mask=mask)[0]

    value, gradient = jax.jit(jax.value_and_grad(total))(np.float32([1, np.nan, 2]))
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
    found, state = weighting.update(np.float32([1, np.inf, 2]), weighting.init())
    np.testing.assert_array_equal(found, total)
    np.testing.assert_array_equal(state.nonfinite_count, counts)


def test_totals_keep_wide_types_and_widen_narrow_ones():
    weighting = loss_weighting("dwa", 2)
    total = jax.jit(lambda losses: weighting.update(losses, weighting.init())[0])
    assert total(np.ones(2, jnp.bfloat16)).dtype == jnp.float32
    with jax.enable_x64(True):
        wide = total(np.array([1.0, 1e-12]))
        assert wide.dtype == jnp.float64
        assert float(wide) == 1.0 + 1e-12


def test_a_step_may_donate_its_states():
    weighting = loss_weighting("famo", K)
    step = jax.jit(weighting.update, donate_argnums=1)
    ones = np.ones(K, np.float32)
    _, state = step(ones, weighting.init())
    step(ones, state)


def test_many_runs_at_once():
    weighting = loss_weighting("smooth_chebyshev", K)
    losses = np.arange(1, 7, dtype=np.float32).reshape(2, K)

    @jax.jit
    def together(losses):
        states = jax.vmap(lambda _: weighting.init())(losses)
        return jax.vmap(weighting.update)(losses, states)[0]

    @jax.jit
    def alone(losses):
        return weighting.update(losses, weighting.init())[0]

    expected = [alone(row) for row in losses]
    np.testing.assert_allclose(together(losses), expected, rtol=1e-6)


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
        weighting.update((np.ones(2), np.ones(2)), weighting.init())
    with pytest.raises(ValueError, match=r"has shape \(3, 3\)|one loss for each"):
        weighting.update(np.ones(2), weighting.init())
