"""Stiffness by what persists: its equations, closed forms, and what it promises."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagc_jax import eagc, optimizer_aware, testing
from eagc_jax.aggregators import elastic_cone, upgrad
from eagc_jax.aggregators._persistence import init_conflict_average, remembered
from eagc_jax.aggregators.elastic_cone import ElasticConeState
from tests.aggregators.streams import PARAMS, flat, stream, tree
from tests.aggregators.test_elastic_cone import springs

EPS = float(np.finfo(np.float32).eps)
ON = {"balance": 0.0, "conflict_memory": 20.0}


@functools.cache
def compiled(number, on=True):
    """One program for all settings: they are traced."""

    def step(g, state, active, settings):
        tx = elastic_cone(number, **settings)
        return tx.update(g, state, PARAMS, active_mask=active)

    del on  # the settings' own structure
    return jax.jit(step)


def run(gradients, state=None, active=None, **given):
    """Updates and states over gradients ``(steps, K, 10)``."""
    number = len(gradients[0])
    given = {name: np.float32(value) for name, value in (ON | given).items()}
    active = np.ones((len(gradients), number), bool) if active is None else active
    state = elastic_cone(number, **ON).init(PARAMS) if state is None else state
    outs, states = [], []
    for g, mask in zip(gradients, active, strict=True):
        out, state = compiled(number)(tree(g), state, mask, given)
        outs.append(flat(out))
        states.append(state)
    return np.array(outs), jax.device_get(states)


def persistence(states):
    return np.float64([state.method.conflicts.persistence[0] for state in states])


def noisy(seed, steps, number=3, along=0.3):
    """Pairs that oppose each other now and then, by their batches' noise."""
    rng = np.random.default_rng(seed)
    steady = rng.normal(size=(number, 10))
    return along * steady + rng.normal(size=(steps, number, 10))


def signed(signs, cosine=0.6):
    """Two gradients, of cosine plus or minus ``cosine``, step by step."""
    other = np.zeros((len(signs), 10))
    other[:, 0] = cosine * np.asarray(signs)
    other[:, 7] = np.sqrt(1 - cosine**2)
    first = np.zeros_like(other)
    first[:, 0] = 1
    return np.stack([first, 3 * other], axis=1)


# --- the equations --------------------------------------------------------------------


def oracle(gradients, active, memory, stiffness):
    """Yields (direction, persistence), float64."""
    number = len(gradients[0])
    rho = np.broadcast_to(np.float64(stiffness), (number,))
    mean, size = np.zeros((2, number, number))
    counts = np.zeros((number, number))
    for g, mask in zip(gradients, active, strict=True):
        g = np.where(mask[:, None], g, 0)
        norms = np.linalg.norm(g, axis=1)
        unit = g / np.where(norms > 0, norms, 1)[:, None]
        cosines = unit @ unit.T
        for i in range(number):
            for k in range(number):
                if mask[i] and mask[k]:
                    counts[i, k] += 1
                    rate = max(1 / counts[i, k], 1 / memory)
                    mean[i, k] += rate * (cosines[i, k] - mean[i, k])
                    size[i, k] += rate * (abs(cosines[i, k]) - size[i, k])
        share = np.where(size > 0, -mean / np.where(size > 0, size, 1), 0)
        p = np.clip(share, 0, 1).max(axis=0)
        d = 0
        for i in np.flatnonzero(mask):
            present = np.flatnonzero(mask)
            x = springs(
                cosines[np.ix_(present, present)],
                list(present).index(i),
                (rho * p)[present],
            )
            d = d + g[i] + norms[i] * (x @ unit[present])
        yield d, p


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize("absent", [False, True], ids=["all", "absent"])
def test_it_is_its_equations(number, absent):
    gradients = noisy(seed=number, steps=30, number=number, along=0.5)
    gradients[:, -1] -= 0.5 * gradients[:, 0]
    active = np.ones((30, number), bool)
    if absent:
        active[3::4, 0] = active[10:20, 1] = False
    options = {"conflict_memory": 7.0, "stiffness": 0.8}
    hidden = np.where(active[:, :, None], gradients, np.nan)  # nobody looks at it
    outs, states = run(hidden, active=active, **options)
    expected = list(oracle(gradients, active, 7.0, 0.8))
    conflicts = 0
    for out, state, (d, p), g in zip(outs, states, expected, gradients, strict=True):
        found = state.method.conflicts.persistence[0]
        # Thirty steps of means of cosines, over means of a tenth at least.
        np.testing.assert_allclose(found, p, rtol=0, atol=1e-5)
        size = np.linalg.norm(g, axis=1).sum()
        np.testing.assert_allclose(out, d, rtol=0, atol=2e-5 * size)
        conflicts += np.any((p > 0) & (p < 1))
    assert conflicts > 10


# --- closed forms ---------------------------------------------------------------------


def test_two_that_conflict_in_every_step_are_upgrads():
    gradients = signed([-1.0] * 12) * np.linspace(1, 2, 12)[:, None, None]
    gradients[::2, :, 3] += 0.1
    outs, states = run(gradients)
    np.testing.assert_array_equal(persistence(states), 1.0)
    plain = upgrad(2)
    for out, g in zip(outs, gradients, strict=True):
        expected = 2 * flat(plain.update(tree(g), plain.init(PARAMS))[0])
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-6 * np.abs(g).sum())


def test_two_that_never_conflict_are_summed_exactly():
    outs, states = run(signed([1.0] * 12))
    np.testing.assert_array_equal(persistence(states), 0.0)
    for state in states:
        np.testing.assert_array_equal(state.weights, 1.0)
    np.testing.assert_allclose(outs, signed([1.0] * 12).sum(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("signs", "share"),
    [
        ([1, -1], 0.0),
        ([1, -1, -1, -1], 0.5),
        ([1, 1, 1, -1], 0.0),
        ([1, -1, -1], 1 / 3),
    ],
    ids=["half", "three quarters", "a quarter", "two thirds"],
)
def test_of_cosines_of_one_size_the_surplus_of_conflict_counts(signs, share):
    """Each gives up that share of what is against the other, where they conflict."""
    gradients = signed(signs * 8)
    outs, states = run(gradients, conflict_memory=1000.0)
    assert signs[-1] == -1
    np.testing.assert_allclose(persistence(states)[-1], share, rtol=0, atol=1e-6)
    a, b = gradients[-1]
    against = a @ b / (b @ b) * b + a @ b / (a @ a) * a
    np.testing.assert_allclose(outs[-1], a + b - share * against, rtol=0, atol=1e-5)


def test_what_was_is_forgotten():
    """After conflict, n steps of agreement: p = max(0, 2 (1 - 1/T)^n - 1)."""
    memory, before, after = 10, 40, 20
    _, states = run(signed([-1] * before + [1] * after), conflict_memory=memory)
    expected = 2 * (1 - 1 / memory) ** np.arange(1, after + 1) - 1
    found = persistence(states)[before:]
    np.testing.assert_allclose(
        found, np.maximum(expected, 0)[:, None] + [[0, 0]], atol=1e-5
    )
    np.testing.assert_array_equal(found[7:], 0.0)  # 10 log 2 steps


@pytest.mark.parametrize("steps", [30, 400])
def test_noise_leaves_one_over_the_root_of_its_steps(steps):
    """Of gradients that have nothing to do with each other, over 200 pairs."""
    rng = np.random.default_rng(steps)
    drawn = rng.normal(size=(steps, 400, 10))
    cosines = np.einsum("tkn,tkn->tk", drawn[:, ::2], drawn[:, 1::2])
    cosines /= np.prod(np.linalg.norm(drawn, axis=2).reshape(steps, 200, 2), axis=2)
    matrices = np.zeros((steps, 200, 2, 2), np.float32)
    matrices[:, :, 0, 1] = matrices[:, :, 1, 0] = cosines

    def body(average, cosines):
        both = jnp.ones(2, bool)
        one = jax.vmap(lambda a, c: remembered(a, c, both, 1e6))(average, cosines)
        return one, None

    start = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (200, *x.shape)), init_conflict_average(2)
    )
    average, _ = jax.lax.scan(body, start, jnp.asarray(matrices))
    # Its deviation is that of a mean over the mean size, some 1.3 / sqrt(steps); p is its
    # positive half.
    root = float(np.sqrt(np.mean(np.square(average.persistence))))
    assert 0.6 < root * np.sqrt(steps) < 1.3


# --- what it promises -----------------------------------------------------------------


def test_off_nothing_is_kept_and_nothing_changes():
    tx = elastic_cone(3)
    state = tx.init(PARAMS)
    assert state.method.conflicts == ()
    assert len(jax.tree.leaves(state.method)) == 3
    old = ElasticConeState(*state.method[:3])  # as it was saved before there was more
    assert jax.tree.structure(old) == jax.tree.structure(state.method)


def test_while_all_conflicts_persist_it_is_what_it_is_without():
    """To the bit: one times the stiffness is the stiffness."""
    gradients = stream(seed=2, number=3)
    gradients[:, 1] = -gradients[:, 0] + 0.1 * gradients[:, 2]
    gradients[:, 2] -= (
        3 * gradients[:, 0] * (gradients[:, 2:] @ gradients[:, 0, :, None])[:, 0]
    )
    outs, states = run(gradients)
    stiff = persistence(states) == 1
    assert stiff[0].all()
    plain = jax.jit(elastic_cone(3, balance=0.0).update)
    for out, g, held in zip(outs, gradients, stiff.all(axis=1), strict=True):
        if held:
            expected, _ = plain(tree(g), elastic_cone(3, balance=0.0).init(PARAMS))
            np.testing.assert_array_equal(out, flat(expected))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    memory=st.floats(1, 1e4),
    stiffness=st.floats(0.01, 1),
    along=st.floats(0, 2),
    order=st.permutations(range(3)),
)
def test_properties(seed, memory, stiffness, along, order):
    gradients = noisy(seed, 6, along=along)
    options = {"conflict_memory": memory, "stiffness": stiffness, "balance": 1.0}
    outs, states = run(gradients, **options)
    found = persistence(states)
    assert np.all((found >= 0) & (found <= 1))
    for state, g in zip(states, gradients, strict=True):
        assert np.all(state.weights >= 0)
        if np.all(g @ g.T > 0):  # the gated sum, whatever was before
            np.testing.assert_array_equal(state.weights, state.method.gates[0])
    # Ratios of means of six cosines, each rounded to some eps; a mean size below a
    # hundredth is rare and magnifies that.
    close = {"rtol": 0, "atol": 1e-3}
    size = np.linalg.norm(outs, axis=1, keepdims=True)
    other, swapped = run(gradients[:, order], **options)
    np.testing.assert_allclose(persistence(swapped), found[:, order], **close)
    np.testing.assert_allclose(other / size, outs / size, **close)
    units = 10.0 ** np.array([[4.0], [-4.0], [0.0]])
    other, scaled = run(gradients * units, **options)
    np.testing.assert_allclose(persistence(scaled), found, **close)
    other = other / np.linalg.norm(other, axis=1, keepdims=True)
    np.testing.assert_allclose(other, outs / size, **close)


def test_no_conflict_with_the_one_whose_conflict_persists():
    """Though a third comes and goes: objectives 0 and 2 oppose each other always."""
    gradients = noisy(seed=3, steps=40, along=0.0)
    gradients[:, 2] = -0.5 * gradients[:, 0] + 0.2 * gradients[:, 2]
    cosines = np.einsum("tn,tn->t", gradients[:, 0], gradients[:, 2])
    gradients = gradients[cosines < 0] * np.array([[1.0], [0.1], [1.0]])
    outs, states = run(gradients, conflict_memory=1000.0)
    found = persistence(states)
    np.testing.assert_array_equal(found[:, [0, 2]], 1.0)
    assert found[-10:, 1].max() < 0.5
    size = np.linalg.norm(outs, axis=1)[:, None] * np.linalg.norm(gradients, axis=2)
    along = np.einsum("tkn,tn->tk", gradients, outs) / size
    assert along[:, [0, 2]].min() >= -32 * EPS
    assert along[:, 1].min() < -0.01  # the guarantee that the option gives up


def test_its_first_update_claims_what_it_claims_without():
    testing.assert_aggregator(
        functools.partial(elastic_cone, conflict_memory=50.0),
        3,
        testing.CLAIMS["elastic_cone"].properties,
        batch=6,
        max_examples=10,
    )


# --- as a part ------------------------------------------------------------------------


def test_jit_is_no_jit():
    tx = elastic_cone(3, conflict_memory=5.0)
    plain = traced = tx.init(PARAMS)
    update = jax.jit(tx.update)
    for g in noisy(seed=5, steps=4):
        out, plain = tx.update(tree(g), plain)
        expected, traced = update(tree(g), traced)
        np.testing.assert_allclose(flat(out), flat(expected), rtol=1e-5, atol=1e-5)
    for one, other in zip(plain.method.conflicts, traced.method.conflicts, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_an_absent_objective_keeps_what_is_remembered():
    gradients = signed([-1, 1, -1, -1])
    active = np.array([[True, True], [True, False], [False, True], [True, True]])
    _, states = run(np.where(active[:, :, None], gradients, np.nan), active=active)
    counts = [state.method.conflicts.counts[0, 0, 1] for state in states]
    assert counts == [1, 1, 1, 2]
    np.testing.assert_array_equal(persistence(states), 1.0)


def test_a_gradient_of_zero_is_no_agreement():
    gradients = signed([-1, -1, -1])
    gradients[1, 1] = 0
    outs, states = run(gradients)
    np.testing.assert_array_equal(persistence(states), 1.0)
    np.testing.assert_allclose(outs[1], gradients[1, 0], atol=1e-6)


@pytest.mark.parametrize("policy", ["propagate", "skip_objective", "skip_update"])
def test_a_nan_leaves_the_state_alone(policy):
    tx = elastic_cone(2, nonfinite=policy, **ON)
    update = jax.jit(tx.update)
    _, before = update(tree(signed([-1])[0]), tx.init(PARAMS))
    bad = signed([1])[0]
    bad[1, 3] = np.nan
    _, after = update(tree(bad), before)
    pairs = [(0, 1), (1, 0), (1, 1)]
    for old, new in zip(
        before.method.conflicts[:3], after.method.conflicts[:3], strict=True
    ):
        for j, k in pairs:
            assert old[0, j, k] == new[0, j, k]
    np.testing.assert_array_equal(after.method.conflicts.persistence, [[1.0, 1.0]])


def test_blocks_remember_conflicts_of_their_own():
    """Against each other in one leaf always, in the other never."""
    tx = elastic_cone(2, granularity="tensor", **ON)
    gradients = np.ones((5, 2, 10))
    gradients[:, 1, :6] = -1
    gradients[:, 1, 0] = 1
    state = tx.init(PARAMS)
    for g in gradients:
        _, state = tx.update(tree(g), state)
    assert state.method.conflicts.cosines.shape == (2, 2, 2)
    np.testing.assert_array_equal(state.method.conflicts.persistence, [[1, 1], [0, 0]])


def test_scan_and_vmap():
    tx = elastic_cone(3, **ON)
    both = np.stack([noisy(1, 5), noisy(2, 5)])

    def over(gradients):
        def body(state, g):
            return tx.update(g, state)[::-1]

        return jax.lax.scan(body, tx.init(PARAMS), gradients)[0].method.conflicts

    found = jax.jit(jax.vmap(over))(tree(both))
    for index, gradients in enumerate(both):
        expected = run(gradients)[1][-1].method.conflicts
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one[index], other, rtol=1e-5, atol=1e-6)


def test_in_the_optimizers_metric_its_cosines_are_those():
    """Raw they agree, by one long entry; Adam makes that as short as the others."""
    g = np.ones((2, 10))
    g[1, :9] = -1
    g[:, 9] *= 100
    tx = optimizer_aware(eagc(2, conflict_memory=10.0), optax.adam(0.1))
    state = tx.init(PARAMS)
    for _ in range(5):
        _, state = jax.jit(tx.update)(tree(g), state, PARAMS)
    assert state.aggregator.method.conflicts.cosines[0, 0, 1] < 0
    np.testing.assert_array_equal(
        state.aggregator.method.conflicts.persistence[0] > 0, True
    )
    _, raw = eagc(2, conflict_memory=10.0).update(
        tree(g), eagc(2, conflict_memory=10.0).init(PARAMS)
    )
    assert raw.method.conflicts.cosines[0, 0, 1] > 0.9


def test_it_is_an_option_of_eagc():
    gradients = noisy(seed=6, steps=6)
    tx = eagc(3, conflict_memory=4.0)
    expected, states = run(gradients, balance=0.5, conflict_memory=4.0)
    state = tx.init(PARAMS)
    for g, out in zip(gradients, expected, strict=True):
        found, state = jax.jit(tx.update)(tree(g), state)
        np.testing.assert_allclose(flat(found), out, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(
        state.method.conflicts.persistence,
        states[-1].method.conflicts.persistence,
        atol=1e-5,
    )


def test_its_memory_is_injected():
    static = ("num_objectives", "recompute_every", "seed")
    make = optax.inject_hyperparams(elastic_cone, static_args=static)
    tx = make(2, conflict_memory=optax.piecewise_constant_schedule(2.0, {3: 5.0}))
    state = tx.init(PARAMS)
    update = jax.jit(tx.update)
    for g in signed([-1, 1, -1, -1]):
        _, state = update(tree(g), state)
    # Rates 1, 1/2, 1/2 of a memory of 2, then 1/4 of one of 10.
    expected = [0.625, 0.625]
    found = state.inner_state.method.conflicts.persistence[0]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("value", [0.5, 0.0, -1.0, float("nan"), [2.0, 2.0]])
def test_bad_memories(value):
    for factory in (elastic_cone, eagc):
        with pytest.raises(ValueError, match="conflict_memory must be >= 1"):
            factory(2, conflict_memory=value)


def test_without_stiffness_it_would_say_nothing():
    with pytest.raises(ValueError, match="conflict_memory"):
        elastic_cone(2, stiffness=0.0, conflict_memory=10.0)
    with pytest.raises(ValueError, match="conflict_memory"):
        eagc(2, preset="article", conflict_memory=10.0)
    eagc(2, preset="article", stiffness=1.0, conflict_memory=10.0)


@pytest.mark.parametrize("on", [False, True])
def test_a_state_of_the_other_kind_is_refused(on):
    options = [{}, {"conflict_memory": 10.0}]
    state = elastic_cone(2, **options[on]).init(PARAMS)
    tx = elastic_cone(2, **options[not on])
    with pytest.raises(ValueError, match=r"conflict_memory.*init again"):
        tx.update(tree(signed([-1])[0]), state)
