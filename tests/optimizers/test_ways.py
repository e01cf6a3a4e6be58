"""How it runs: scans, batches, masks, what isn't finite, rates of 0, states."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import eagc_jax
from eagc_jax import aggregators, diagnostics, optimizer_aware
from tests.optimizers import problems
from tests.optimizers.problems import EPS, cosines, flat, tree

K = 2  # a closed form: little to compile
PARAMS = tree(0)
EVERYONE, TWO = np.array([True, True, True]), np.array([True, False, True])
OPTIONS = {"include_momentum": True, "certify": True}


def gradients(seed, ratio=1.0, number=K):
    return problems.gradients(seed, ratio, number)


def adamw(rate=0.1):
    return optax.adamw(rate, weight_decay=0.1)


@functools.cache
def aware():
    """With everything on, and its jitted update."""
    tx = optimizer_aware(aggregators.upgrad(K), adamw(), **OPTIONS)
    return tx, jax.jit(tx.update)


def changed(updates, row):
    """Of the second objective: ``row`` of its gradient."""
    found = jax.tree.map(np.copy, updates)
    for g in jax.tree.leaves(found):
        g[1] = row(g[1])
    return found


def test_a_scan_over_a_batch_of_problems():
    """As one step after the other, problem by problem."""
    tx, update = aware()
    given = jax.tree.map(
        lambda *x: np.stack(x).reshape(2, 3, *x[0].shape),
        *[gradients(seed, ratio=20.0) for seed in range(6)],
    )

    def train(updates):
        def step(carry, g):
            params, state = carry
            found, state = tx.update(g, state, params)
            return (optax.apply_updates(params, found), state), found

        return jax.lax.scan(step, (PARAMS, tx.init(PARAMS)), updates)

    (params, _), steps = jax.device_get(jax.jit(jax.vmap(train))(given))
    state, now = tx.init(PARAMS), PARAMS
    for i in range(3):
        g = jax.tree.map(lambda x, i=i: x[1, i], given)
        found, state = update(g, state, now)
        now = jax.tree.map(lambda p, u: p + np.asarray(u), now, found)
        aim = flat(jax.tree.map(lambda x, i=i: x[1, i], steps))
        np.testing.assert_allclose(flat(found), aim, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(
        flat(now), flat(jax.tree.map(lambda x: x[1], params)), 1e-3
    )


@pytest.fixture(scope="module")
def masked():
    """Of three objectives; the state after a step, and the jitted update."""
    tx = optimizer_aware(
        aggregators.upgrad(3, nonfinite="skip_objective"), adamw(), **OPTIONS
    )
    update = jax.jit(tx.update)
    first = gradients(0, number=3)
    _, state = update(first, tx.init(PARAMS), PARAMS, active_mask=EVERYONE)
    return update, state


def test_absent_objectives_have_no_say(masked):
    """Whatever their gradients hold; the others are served as if they were alone."""
    update, state = masked
    bad = changed(gradients(1, number=3), lambda g: np.nan)
    other = changed(gradients(1, number=3), lambda g: 1e3 * g)
    one, new = update(bad, state, PARAMS, active_mask=TWO)
    two, _ = update(other, state, PARAMS, active_mask=TWO)
    np.testing.assert_array_equal(flat(one), flat(two))
    assert np.all(np.isfinite(flat(one)))
    assert np.max(cosines(gradients(1, number=3), one)[[0, 2]]) < 1e-5
    assert new.aggregator.weights[1] == 0
    assert not np.any(new.aggregator.nonfinite_count)


def test_a_gradient_that_is_not_finite_is_left_out(masked):
    update, state = masked
    bad = changed(gradients(1, number=3), lambda g: np.inf)
    one, new = update(bad, state, PARAMS, active_mask=EVERYONE)
    two, _ = update(bad, state, PARAMS, active_mask=TWO)
    np.testing.assert_allclose(flat(one), flat(two), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(new.aggregator.nonfinite_count, [0, 1, 0])


def test_a_gradient_that_is_not_finite_is_propagated():
    tx = optimizer_aware(aggregators.mean(3), adamw(), **OPTIONS)
    bad = changed(gradients(1, number=3), lambda g: np.nan)
    step, new = jax.jit(tx.update)(bad, tx.init(PARAMS), PARAMS)
    assert np.all(np.isnan(flat(step)))
    np.testing.assert_array_equal(new.aggregator.nonfinite_count, [0, 1, 0])


def test_a_learning_rate_of_zero():
    """Nothing moves; weights are the plain aggregator's, not those of a zero matrix."""
    aggregator = aggregators.upgrad(K)
    rate = optax.linear_schedule(0.0, 0.1, 10)
    tx = optimizer_aware(aggregator, adamw(rate), **OPTIONS)

    @jax.jit
    def both(updates):
        found = tx.update(updates, tx.init(PARAMS), PARAMS)
        return found, aggregator.update(updates, aggregator.init(PARAMS), PARAMS)[1]

    (step, new), plain = both(gradients(2, ratio=10.0))
    assert not np.any(flat(step))
    np.testing.assert_allclose(new.aggregator.weights, plain.weights, rtol=1e-5)


def test_bfloat16_leaves_keep_their_dtype():
    narrow, updates = jax.tree.map(
        lambda x: x.astype(jnp.bfloat16), (PARAMS, gradients(0))
    )
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
    tx, update = aware()
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
    plain = optax.chain(
        eagc_jax.assess_energy(K),
        eagc_jax.soft_gate(K),
        aggregators.mean(K),
        optax.adam(0.1),
    )

    @jax.jit
    def first(updates):
        return [t.update(updates, t.init(PARAMS), PARAMS)[0] for t in (tx, plain)]

    step, aim = first(gradients(0))
    # The mean's weights don't look at the Gram matrix.
    np.testing.assert_allclose(flat(step), flat(aim), rtol=8 * EPS, atol=8 * EPS)


def test_one_objective_is_the_optimizer():
    tx = optimizer_aware(aggregators.upgrad(1), adamw())
    updates = gradients(0, number=1)
    step, _ = jax.jit(tx.update)(updates, tx.init(PARAMS), PARAMS)
    alone = jax.tree.map(lambda g: g[0], updates)
    aim, _ = jax.jit(adamw().update)(alone, adamw().init(PARAMS), PARAMS)
    np.testing.assert_allclose(flat(step), flat(aim), rtol=1e-5, atol=1e-7)


def test_it_is_loaded_when_it_is_used():
    assert eagc_jax.optimizer_aware is optimizer_aware
    assert "optimizer_aware" in dir(eagc_jax)


def test_gradients_are_read_once_more():
    """What is made of the expected gradient doesn't read the K of them again."""
    params = {"w": jax.ShapeDtypeStruct((300, 200), jnp.float32)}
    updates = {"w": jax.ShapeDtypeStruct((3, 300, 200), jnp.float32)}

    def users(tx):
        state = jax.eval_shape(tx.init, params)
        text = jax.jit(tx.update).lower(updates, state, params).compile().as_text()
        entry = text[text.index("ENTRY") :]
        lines = re.findall(r"\n([^\n]*\([^\n]*%updates__w__[\d.]*[,)][^\n]*)", entry)
        # What a loop or a branch is given, of which each reads them once.
        given = [line for line in lines if " tuple(" in line]
        return len(lines) - len(given), len(given)

    base = aggregators.upgrad(3)
    plain = users(optax.chain(base, adamw()))
    aware = users(optimizer_aware(base, adamw(), include_momentum=True))
    assert plain[0] > 0
    assert aware[0] <= plain[0], (plain, aware)
    # The two branches of the conditional, of which one never runs.
    assert aware[1] <= plain[1] + 2, (plain, aware)


def test_an_empty_group_with_a_mask():
    tx = optimizer_aware(aggregators.upgrad(K), adamw(), **OPTIONS)
    state = tx.init({})
    found, after = tx.update({}, state, {}, active_mask=jnp.ones((K,), bool))
    assert found == {}
    assert jax.tree.structure(after) == jax.tree.structure(state)
