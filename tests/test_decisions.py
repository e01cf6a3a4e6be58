"""One shape for what gates, aggregators and projections decide."""

import jax
import numpy as np
import optax
import pytest
from flax import nnx

from eagc_jax import aggregators, diagnostics, eagc, elastic_projection, sum_objectives

K = 3
PARAMS = {"b": {"w": np.ones((2, 4), np.float32)}, "a": np.ones(4, np.float32)}


def gradients():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: rng.normal(size=(K, *p.shape)).astype(np.float32), PARAMS
    )


def after(tx):
    """The state after one step; compiled as a whole, not operation by operation."""
    return jax.jit(lambda g: tx.update(g, tx.init(PARAMS), PARAMS)[1])(gradients())


def test_gates_are_those_of_the_report():
    for granularity in ("global", "tensor", "channel", "element"):
        state = after(
            optax.chain(
                eagc(K, preset="article", granularity=granularity), optax.adam(0.1)
            )
        )
        report = diagnostics.report(state)
        (found,) = diagnostics.decisions(state)
        assert (found.kind, found.layers) == ("gate", report.layers)
        np.testing.assert_allclose(found.values, report.gates, rtol=1e-6)


@pytest.mark.parametrize("name", ["upgrad", "moco"])
def test_weights_of_an_aggregator_on_the_gram_matrix_and_on_the_gradients(name):
    state = after(optax.chain(getattr(aggregators, name)(K), optax.sgd(0.1)))
    (found,) = diagnostics.decisions(state)
    assert (found.kind, found.layers) == ("weight", ("global",))
    assert found.values.shape == (K, 1)
    kept = state[0] if name == "upgrad" else state[0].method
    np.testing.assert_array_equal(found.values[:, 0], kept.weights)


def test_weights_by_block_are_means():
    tx = aggregators.upgrad(K, granularity="channel")
    state = after(tx)
    (found,) = diagnostics.decisions(state)
    assert found.layers == ("a", "b/w")
    for index, name in enumerate(found.layers):
        expected = np.reshape(state.weights[name], (K, -1)).mean(axis=1)
        np.testing.assert_allclose(found.values[:, index], expected, rtol=1e-6)


def test_several_kinds_come_in_the_order_of_the_chain():
    tx = optax.chain(elastic_projection(K, energy=None), aggregators.mgda(K))
    found = diagnostics.decisions(after(tx))
    assert [one.kind for one in found] == ["projection", "weight"]
    assert all(one.values.shape[0] == K for one in found)


def test_wrapped_states():
    inner = optax.chain(aggregators.upgrad(K), optax.sgd(0.1))
    expected = diagnostics.decisions(after(inner))
    wrapped = aggregators.accumulate_objectives(inner, K, every=1)
    hyper = optax.inject_hyperparams(
        lambda rate: optax.chain(aggregators.upgrad(K), optax.sgd(rate))
    )(0.1)
    for tx in (wrapped, hyper):
        found = diagnostics.decisions(after(tx))
        assert [one.layers for one in found] == [("global",)]
        np.testing.assert_allclose(found[0].values, expected[0].values, rtol=1e-5)


def test_an_optimizer_of_flax():
    model = nnx.jit(lambda: nnx.Linear(2, 4, rngs=nnx.Rngs(0)))()
    for granularity, layers in (
        ("global", ("global",)),
        ("tensor", ("bias", "kernel")),
    ):
        tx = optax.chain(aggregators.mean(K, granularity=granularity), optax.sgd(0.1))
        optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
        (found,) = diagnostics.decisions(optimizer.opt_state)
        assert (found.kind, found.layers) == ("weight", layers)
        assert found.values.shape == (K, len(layers))


def test_groups_of_partition_are_put_together():
    groups = {"a": "gated", "b": {"w": "gated too"}}
    tx = optax.partition(
        {
            "gated": eagc(K, preset="article"),
            "gated too": eagc(K, preset="article", granularity="tensor"),
        },
        groups,
    )
    (found,) = diagnostics.decisions(after(tx))
    assert found.layers == ("a", "b/w")
    groups = {"a": "one", "b": {"w": "other"}}
    tx = optax.partition(
        {"one": aggregators.mean(K), "other": aggregators.upgrad(K)}, groups
    )
    (found,) = diagnostics.decisions(after(tx))
    assert found.layers == ("global", "global#2")


def test_what_decides_nothing_has_no_decision():
    assert diagnostics.decisions(after(sum_objectives())) == ()
    assert diagnostics.decisions(after(aggregators.graddrop(K))) == ()
    assert diagnostics.decisions(optax.adam(0.1).init(PARAMS)) == ()


def test_inside_of_jit():
    tx = optax.chain(eagc(K, preset="article"), optax.sgd(0.1))

    @jax.jit
    def step(updates, state):
        _, state = tx.update(updates, state, PARAMS)
        return state, [one.values for one in diagnostics.decisions(state)]

    state, (inside,) = step(gradients(), tx.init(PARAMS))
    (outside,) = diagnostics.decisions(state)
    np.testing.assert_allclose(inside, outside.values, rtol=1e-6)


@pytest.mark.parametrize("granularity", ["global", "tensor"])
def test_a_batch_of_states_is_refused_and_vmapped(granularity):
    tx = aggregators.mean(K, granularity=granularity)
    state = jax.jit(jax.vmap(lambda _: tx.init(PARAMS)))(np.arange(2))
    with pytest.raises(ValueError, match="batch of states"):
        diagnostics.decisions(state)
    found = jax.vmap(lambda s: diagnostics.decisions(s)[0].values)(state)
    assert found.shape == (2, K, 1 if granularity == "global" else 2)
