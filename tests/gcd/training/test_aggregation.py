"""Aggregators by name: all of them fit the training loop, and losses are weighted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import aggregators
from eagc_jax.gcd.training.aggregation import (
    Aggregation,
    aggregator_names,
    weigh_losses,
)

WEIGHTS = (0.35, 0.65)
PARAMS = {"backbone": {"a": jnp.ones((4, 3))}, "head": {"b": jnp.ones(3)}}
GRADIENTS = jax.tree.map(
    lambda leaf: jnp.stack([leaf, jnp.cumsum(leaf, axis=0)]), PARAMS
)


@pytest.mark.parametrize("name", aggregator_names())
def test_each_one_makes_one_update_of_two_gradients(name):
    tx = optax.with_extra_args_support(Aggregation(name).build(WEIGHTS))
    state = jax.eval_shape(tx.init, PARAMS)
    # Traced, not computed: the methods have tests of their own.
    update, after = jax.eval_shape(
        lambda g, s: tx.update(g, s, PARAMS, value=jnp.ones(2)), GRADIENTS, state
    )
    assert jax.tree.map(jnp.shape, update) == jax.tree.map(jnp.shape, PARAMS)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def test_names_are_those_of_the_factories_and_two_more():
    assert aggregator_names()[:2] == ("sum", "eagc")
    assert {"upgrad", "mgda", "pcgrad", "famo"} <= set(aggregator_names())
    # One needs a gradient per step, the other a method in it.
    assert "momentum_conflict_free" not in aggregator_names()
    assert "from_weighting" not in aggregator_names()
    with pytest.raises(
        ValueError, match=r"name must be one of sum, eagc, .*got 'best'"
    ):
        Aggregation("best")


def test_equal_settings_share_one_object():
    first, again = (
        Aggregation("eagc", {"preset": "article", "warmup_steps": 2}) for _ in range(2)
    )
    assert first.build(WEIGHTS) is again.build(list(WEIGHTS))
    assert first.build(WEIGHTS) is not Aggregation("eagc").build(WEIGHTS)


def test_an_aggregator_sees_weighted_gradients_and_losses():
    seen = {}

    def update(updates, state, params=None, *, value=None, **_):
        seen["value"] = value
        return jax.tree.map(lambda leaf: leaf.sum(axis=0), updates), state

    inner = optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
    tx = weigh_losses(WEIGHTS, inner)
    found, _ = tx.update(
        GRADIENTS, tx.init(PARAMS), PARAMS, value=jnp.array([2.0, 4.0])
    )
    np.testing.assert_allclose(seen["value"], [0.7, 2.6], rtol=1e-6)
    expected, _ = Aggregation("sum").build(WEIGHTS).update(GRADIENTS, (), PARAMS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected
    )
    tx.update(GRADIENTS, tx.init(PARAMS), PARAMS)
    assert seen["value"] is None


def test_without_conflict_the_update_is_as_long_as_the_weighted_sum():
    name = "upgrad"
    assert name in aggregators.__all__
    tx, plain = Aggregation(name).build(WEIGHTS), Aggregation("sum").build(WEIGHTS)
    agreeing = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
    found, _ = tx.update(agreeing, tx.init(PARAMS), PARAMS)
    expected, _ = plain.update(agreeing, plain.init(PARAMS), PARAMS)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, expected
    )
