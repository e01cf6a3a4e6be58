"""How it runs: scans, batches, masks, what isn't finite, rates of 0, states."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eagc_jax
from eagc_jax import aggregators, diagnostics, optimizer_aware
from tests.optimizers.problems import EPS, K, cosines, flat, gradients, tree

PARAMS = tree(0)
OPTIONS = {"include_momentum": True, "certify": True}


def adamw(rate=0.1):
    return optax.adamw(rate, weight_decay=0.1)


def test_a_scan_over_a_batch_of_problems():
    """As one step after the other, problem by problem."""
    tx = optimizer_aware(aggregators.upgrad(K), adamw(), **OPTIONS)
    given = jax.tree.map(
        lambda *x: jnp.stack(x).reshape(2, 3, *x[0].shape),
        *[gradients(seed, ratio=20.0) for seed in range(6)],
    )

    def train(updates):
        def step(carry, g):
            params, state = carry
            found, state = tx.update(g, state, params)
            return (optax.apply_updates(params, found), state), found

        return jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), updates)

    (params, _), steps = jax.jit(jax.vmap(train))(given)
    update, state, now = jax.jit(tx.update), tx.init(PARAMS), PARAMS
    for i in range(3):
        g = jax.tree.map(lambda x, i=i: x[1, i], given)
        found, state = update(g, state, now)
        now = optax.apply_updates(now, found)
        aim = flat(jax.tree.map(lambda x, i=i: x[1, i], steps))
        np.testing.assert_allclose(flat(found), aim, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        flat(now), flat(jax.tree.map(lambda x: x[1], params)), 1e-3
    )


@pytest.fixture(scope="module")
def masked():
    """Of three objectives; the state after a step, and the jitted update."""
    tx = optimizer_aware(
        aggregators.upgrad(K, nonfinite="skip_objective"), adamw(), **OPTIONS
    )
    update = jax.jit(tx.update)
    everyone = jnp.ones((K,), bool)
    _, state = update(gradients(0), tx.init(PARAMS), PARAMS, active_mask=everyone)
    return update, state


def test_absent_objectives_have_no_say(masked):
    """Whatever their gradients hold; the others are served as if they were alone."""
    update, state = masked
    mask = jnp.asarray([True, False, True])
    bad = jax.tree.map(lambda g: g.at[1].set(jnp.nan), gradients(1))
    other = jax.tree.map(lambda g: g.at[1].set(1e3 * g[1]), gradients(1))
    one, new = update(bad, state, PARAMS, active_mask=mask)
    two, _ = update(other, state, PARAMS, active_mask=mask)
    np.testing.assert_array_equal(flat(one), flat(two))
    assert np.all(np.isfinite(flat(one)))
    assert np.max(cosines(gradients(1), one)[[0, 2]]) < 1e-5
    assert new.aggregator.weights[1] == 0
    assert not np.any(new.aggregator.nonfinite_count)


def test_a_gradient_that_is_not_finite_is_left_out(masked):
    update, state = masked
    everyone, mask = jnp.ones((K,), bool), jnp.asarray([True, False, True])
    bad = jax.tree.map(lambda g: g.at[1].set(jnp.inf), gradients(1))
    one, new = update(bad, state, PARAMS, active_mask=everyone)
    two, _ = update(bad, state, PARAMS, active_mask=mask)
    np.testing.assert_allclose(flat(one), flat(two), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(new.aggregator.nonfinite_count, [0, 1, 0])


def test_a_gradient_that_is_not_finite_is_propagated():
    tx = optimizer_aware(aggregators.mean(K), adamw(), **OPTIONS)
    bad = jax.tree.map(lambda g: g.at[1].set(jnp.nan), gradients(1))
    step, new = jax.jit(tx.update)(bad, tx.init(PARAMS), PARAMS)
    assert np.all(np.isnan(flat(step)))
    np.testing.assert_array_equal(new.aggregator.nonfinite_count, [0, 1, 0])


def test_a_learning_rate_of_zero():
    """Nothing moves; weights are the plain aggregator's, not those of a zero matrix."""
    aggregator = aggregators.upgrad(K)
    rate = optax.linear_schedule(0.0, 0.1, 10)
    tx = optimizer_aware(aggregator, adamw(rate), **OPTIONS)
    updates = gradients(2, ratio=10.0)
    step, new = jax.jit(tx.update)(updates, tx.init(PARAMS), PARAMS)
    _, plain = jax.jit(aggregator.update)(updates, aggregator.init(PARAMS), PARAMS)
    assert not np.any(flat(step))
    np.testing.assert_allclose(new.aggregator.weights, plain.weights, rtol=1e-5)


def test_bfloat16_leaves_keep_their_dtype():
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    updates = jax.tree.map(lambda x: x.astype(jnp.bfloat16), gradients(0))
    tx = optimizer_aware(aggregators.upgrad(K), optax.adam(0.1), **OPTIONS)
    state = tx.init(narrow)
    step, new = jax.jit(tx.update)(updates, state, narrow)
    assert {x.dtype for x in jax.tree.leaves(step)} == {jnp.dtype(jnp.bfloat16)}
    kinds = [jax.tree.map(lambda x: x.dtype, s) for s in (state, new)]
    assert kinds[0] == kinds[1]
    # Each entry of the step is rounded to 8 bits.
    assert np.max(cosines(updates, step)) < 2**-8


def test_nothing_to_train_and_groups_of_it():
    tx = optimizer_aware(aggregators.upgrad(K), optax.sgd(0.1), **OPTIONS)
    step, _ = tx.update({"a": None}, tx.init({"a": None}), {"a": None})
    assert step == {"a": None}


def test_a_state_survives_being_written_down():
    tx = optimizer_aware(aggregators.upgrad(K), adamw(), **OPTIONS)
    update = jax.jit(tx.update)
    _, state = update(gradients(0), tx.init(PARAMS), PARAMS)
    leaves = [np.asarray(x) for x in jax.tree.leaves(state)]
    target = jax.tree.structure(jax.eval_shape(tx.init, PARAMS))
    restored = jax.tree.unflatten(target, leaves)
    one, _ = update(gradients(1), state, PARAMS)
    two, _ = update(gradients(1), restored, PARAMS)
    np.testing.assert_array_equal(flat(one), flat(two))
    # What others read in it.
    assert optax.tree.get(state, "weights").shape == (K,)
    assert optax.tree.get(state, "nu").keys() == PARAMS.keys()
    assert diagnostics.decisions(state)
    names = jax.tree.map(lambda _: "like params", PARAMS)
    found = optax.tree.map_params(tx, lambda _, name: name, state, names)
    assert found.optimizer[0].mu["kernel"] == "like params"


def test_chains_masks_and_gates_around_it():
    """A gate in front, a scale behind: it is a transformation like any other."""
    tx = optax.chain(
        eagc_jax.assess_energy(K),
        eagc_jax.soft_gate(K),
        optimizer_aware(aggregators.mean(K), optax.scale_by_adam()),
        optax.scale(-0.1),
    )
    step, _ = jax.jit(tx.update)(gradients(0), tx.init(PARAMS), PARAMS)
    plain = optax.chain(
        eagc_jax.assess_energy(K),
        eagc_jax.soft_gate(K),
        aggregators.mean(K),
        optax.adam(0.1),
    )
    aim, _ = jax.jit(plain.update)(gradients(0), plain.init(PARAMS), PARAMS)
    # The mean's weights don't look at the Gram matrix.
    np.testing.assert_allclose(flat(step), flat(aim), rtol=8 * EPS, atol=8 * EPS)


def test_one_objective_is_the_optimizer():
    tx = optimizer_aware(aggregators.upgrad(1), adamw())
    updates = gradients(0, number=1)
    step, _ = jax.jit(tx.update)(updates, tx.init(PARAMS), PARAMS)
    alone = jax.tree.map(lambda g: g[0], updates)
    aim, _ = adamw().update(alone, adamw().init(PARAMS), PARAMS)
    np.testing.assert_allclose(flat(step), flat(aim), rtol=1e-5, atol=1e-7)


def test_it_is_loaded_when_it_is_used():
    assert eagc_jax.optimizer_aware is optimizer_aware
    assert "optimizer_aware" in dir(eagc_jax)


def test_gradients_are_read_once_more():
    """What is made of the expected gradient doesn't read the K of them again."""
    params = {"w": jax.ShapeDtypeStruct((300, 200), jnp.float32)}
    updates = {"w": jax.ShapeDtypeStruct((K, 300, 200), jnp.float32)}

    def users(tx):
        state = jax.eval_shape(tx.init, params)
        text = jax.jit(tx.update).lower(updates, state, params).compile().as_text()
        entry = text[text.index("ENTRY") :]
        lines = re.findall(r"\n([^\n]*\([^\n]*%updates__w__[\d.]*[,)][^\n]*)", entry)
        # What a loop or a branch is given, of which each reads them once.
        given = [line for line in lines if " tuple(" in line]
        return len(lines) - len(given), len(given)

    plain = users(optax.chain(aggregators.upgrad(K), adamw()))
    aware = users(
        optimizer_aware(aggregators.upgrad(K), adamw(), include_momentum=True)
    )
    assert plain[0] > 0
    assert aware[0] <= plain[0], (plain, aware)
    # The two branches of the conditional, of which one never runs.
    assert aware[1] <= plain[1] + 2, (plain, aware)
