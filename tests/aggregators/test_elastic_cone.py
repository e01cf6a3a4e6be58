"""The elastic cone against its equations in float64, and what it promises."""

import functools
import itertools

import jax
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eagc_jax import sum_objectives, testing, weightings
from eagc_jax.aggregators import elastic_cone, upgrad
from tests.aggregators.streams import PARAMS, flat, stream, tree

# Thirty steps of float32; energies are sums of logarithms.
CLOSE = {"rtol": 1e-4, "atol": 2e-5}
EPS = float(np.finfo(np.float32).eps)
DEFAULTS = {"balance": 0.5, "memory": 1000.0, "stiffness": 1.0, "release": 1.0}


@functools.cache
def compiled(number):
    """One program for all settings: they are traced."""

    def step(g, state, active, settings, preference):
        tx = elastic_cone(number, preference=preference, **settings)
        return tx.update(g, state, PARAMS, active_mask=active)

    return jax.jit(step)


def run(gradients, state=None, active=None, preference=None, **settings):
    """Updates and states over gradients ``(steps, K, 10)``."""
    number = len(gradients[0])
    settings = {n: np.float32(v) for n, v in (DEFAULTS | settings).items()}
    settings["stiffness"] = np.broadcast_to(settings["stiffness"], (number,))
    preference = np.ones(number) if preference is None else preference
    preference = np.asarray(preference, np.float32)
    active = np.ones((len(gradients), number), bool) if active is None else active
    state = elastic_cone(number).init(PARAMS) if state is None else state
    outs, states = [], []
    for g, mask in zip(gradients, active, strict=True):
        out, state = compiled(number)(tree(g), state, mask, settings, preference)
        outs.append(flat(out))
        states.append(state)
    return np.array(outs), jax.device_get(states)


def of_method(states, name):
    found = [np.asarray(getattr(state.method, name))[0] for state in states]
    return np.array(found, np.float64)


# --- the equations --------------------------------------------------------------------


def springs(cosines, i, rho):
    """x >= 0 of equation 3, by trying which entries are above zero."""
    stiff = np.flatnonzero(rho > 0)
    soft = np.diag((1 - rho[stiff]) / rho[stiff])
    matrix, linear = cosines[np.ix_(stiff, stiff)] + soft, cosines[stiff, i]
    for free in itertools.product([False, True], repeat=len(stiff)):
        free = np.array(free)
        x = np.zeros(len(stiff))
        x[free] = np.linalg.solve(matrix[np.ix_(free, free)], -linear[free])
        if np.all(x >= -1e-12) and np.all((matrix @ x + linear)[~free] >= -1e-12):
            out = np.zeros(len(rho))
            out[stiff] = x
            return out
    raise AssertionError("no minimum")


def oracle(gradients, balance, memory, stiffness, release, preference):
    """Yields (direction, gates, log energies), float64."""
    number = len(gradients[0])
    w = number * np.asarray(preference) / np.sum(preference)
    rho = np.broadcast_to(np.float64(stiffness), (number,))
    logs = np.zeros(number)
    for t, g in enumerate(gradients, 1):
        norms = np.linalg.norm(g, axis=1)
        step = np.log(norms) - logs
        if t > 1:
            step = np.clip(step, -np.log(10), np.log(10))
            step = np.where(step < 0, step / release, step)
        logs = logs + max(1 / t, 1 / memory) * step
        energies = np.exp(logs)
        gates = energies**-balance * (w @ energies) / (w @ energies ** (1 - balance))
        unit = g / norms[:, None]
        cosines = unit @ unit.T
        d = 0
        for i in range(number):
            x = springs(cosines, i, rho)
            d = d + w[i] * gates[i] * (g[i] + norms[i] * (x @ unit))
        yield d, gates, logs


STIFFNESS = np.array([1.0, 0.0, 0.3, 0.8, 0.05])


@pytest.mark.parametrize("number", [2, 3, 5])
@pytest.mark.parametrize("varied", [False, True], ids=["defaults", "varied"])
def test_it_is_its_equations(number, varied):
    gradients = stream(seed=number, steps=30, number=number)
    gradients[12, 0] *= 1e4  # beyond the clip
    gradients[20, -1] *= 1e-3
    options = DEFAULTS | {"preference": np.ones(number)}
    if varied:
        options = {
            "balance": 0.7,
            "memory": 8.0,
            "stiffness": STIFFNESS[:number],
            "release": 3.0,
            "preference": np.arange(1.0, number + 1),
        }
    outs, states = run(gradients, **options)
    conflicts = 0
    for out, state, (d, gates, logs), g in zip(
        outs, states, oracle(gradients, **options), gradients, strict=True
    ):
        np.testing.assert_allclose(state.method.log_energies[0], logs, **CLOSE)
        np.testing.assert_allclose(state.method.gates[0], gates, **CLOSE)
        size = np.sum(gates * np.linalg.norm(g, axis=1))
        np.testing.assert_allclose(out, d, rtol=0, atol=1e-4 * size)
        conflicts += np.any(g @ g.T < 0)
    assert conflicts > 10
    np.testing.assert_array_equal(states[-1].method.counts, [[30] * number])


# --- its ends -------------------------------------------------------------------------


@pytest.mark.parametrize("number", [2, 3, 5])
def test_without_balance_and_stiffness_it_is_the_sum(number):
    tx = elastic_cone(number, balance=0.0, stiffness=0.0)

    @jax.jit
    def both(g):
        plain, _ = sum_objectives().update(g, optax.EmptyState())
        return *tx.update(g, tx.init(PARAMS)), plain

    out, state, expected = both(tree(stream(seed=1, steps=1, number=number)[0]))
    np.testing.assert_array_equal(state.weights, np.ones(number))
    jax.tree.map(np.testing.assert_array_equal, out, expected)


def test_where_no_gradients_conflict_weights_are_the_gates():
    gradients = np.abs(stream(seed=1))
    _, states = run(gradients, balance=0.0)
    for state in states:
        np.testing.assert_array_equal(state.weights, np.ones(3))
    _, states = run(gradients, balance=0.9)
    for state in states:
        np.testing.assert_array_equal(state.weights, state.method.gates[0])


@pytest.mark.parametrize("number", [2, 3, 5])
def test_stiff_and_without_balance_it_is_upgrad_times_k(number):
    gradients = stream(seed=2, number=number)
    preference = np.arange(1.0, number + 1)
    outs, _ = run(gradients, balance=0.0, preference=preference)
    tx = upgrad(number, preference=preference)
    update = jax.jit(tx.update)
    for out, g in zip(outs, gradients, strict=True):
        expected = number * flat(update(tree(g), tx.init(PARAMS))[0])
        size = np.linalg.norm(g, axis=1).sum()
        np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.9, 1.0])
def test_each_of_two_gives_up_its_share_of_what_is_against_the_other(rho):
    a, b = np.float64(stream(seed=3, steps=1, number=2)[0])
    b = b - (b @ a / (a @ a) + 0.5) * a  # cosine below 0
    against = np.array([a @ b / (b @ b) * b, a @ b / (a @ a) * a])
    assert a @ b < 0
    (out,), _ = run(np.stack([a, b])[None], balance=0.0, stiffness=rho)
    expected = a + b - rho * against.sum(axis=0)
    np.testing.assert_allclose(out, expected, rtol=0, atol=1e-5)


def test_it_is_continuous_in_the_stiffness():
    grid = np.linspace(0.0, 1.0, 1001, dtype=np.float32)
    solve = jax.jit(
        jax.vmap(
            lambda gram, rho: weightings.elastic_cone(gram, balance=0.0, stiffness=rho),
            in_axes=(None, 0),
        )
    )
    for g in stream(seed=4, steps=5):
        found = np.asarray(solve(np.float32(g @ g.T), grid), np.float64)
        directions = found @ g
        size = np.linalg.norm(g, axis=1).sum()
        moved = np.linalg.norm(np.diff(directions, axis=0), axis=1) / size
        assert moved.max() <= 0.01  # of a step of 0.001
        off = np.linalg.norm(directions[0] - g.sum(axis=0)) / size
        assert off <= 4 * EPS


# --- guarantees -----------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    ratios=st.lists(st.floats(-4, 4), min_size=3, max_size=3),
    leader=st.integers(0, 2),
    other=st.floats(0, 0.95),
    balance=st.floats(0, 1),
)
def test_no_conflict_with_the_one_that_is_stiff(seed, ratios, leader, other, balance):
    g = np.random.default_rng(seed).normal(size=(3, 10))
    g[leader - 1] -= 2 * g[leader]
    ratios = np.clip(np.array(ratios) - ratios[leader], -4, 4)
    g *= 10.0 ** ratios[:, None]
    rho = np.full(3, other)
    rho[leader] = 1.0
    _, (state,) = run(g[None], balance=balance, stiffness=rho)
    weights = np.float64(state.weights)
    assert np.all(weights >= 0)
    size = weights @ np.linalg.norm(g, axis=1)
    found = g[leader] @ (weights @ g) / (np.linalg.norm(g[leader]) * size)
    assert found >= -32 * EPS


@pytest.mark.parametrize("stiffness", [1.0, 0.4, [1.0, 0.0, 0.0]])
def test_with_balance_units_do_not_matter(stiffness):
    gradients = stream(seed=5, steps=12)
    units = 10.0 ** np.array([6.0, -6.0, 0.0])
    one, _ = run(gradients, balance=1.0, stiffness=stiffness)
    other, _ = run(gradients * units[:, None], balance=1.0, stiffness=stiffness)
    one, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (one, other))
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-4)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_gates_keep_the_sum_of_energies(balance):
    gradients = stream(seed=6, steps=20) * 10.0 ** np.array([[2.0], [0.0], [-3.0]])
    w = np.array([0.5, 1.0, 1.5])
    _, states = run(gradients, balance=balance, memory=5.0, preference=w)
    energies = np.exp(of_method(states, "log_energies"))
    gates = of_method(states, "gates")
    np.testing.assert_allclose((w * gates * energies).sum(1), energies @ w, rtol=1e-5)
    if balance == 1:
        np.testing.assert_allclose(np.ptp(gates * energies, axis=1), 0, atol=1e-3)


@pytest.mark.parametrize("factors", [(1e6, 1.0, 1.0), (1e-6, 1, 1), (1e6, 1e-6, 1)])
@pytest.mark.parametrize(("balance", "release"), [(0.5, 1), (1.0, 1), (0.5, 4)])
def test_one_step_moves_gates_by_little_and_they_come_back(factors, balance, release):
    memory, steps, after = 10, 15, 60
    steady = np.repeat(stream(seed=7, steps=1), steps, axis=0)
    options = {"balance": balance, "memory": memory, "release": release}
    state = run(steady, **options)[1][-1]
    before = np.log10(state.method.gates[0])
    attacked = steady[:1] * np.array(factors)[:, None]
    state = run(attacked, state, **options)[1][-1]
    moved = np.log10(state.method.gates[0]) - before
    bound = 2 * balance / memory
    assert np.ptp(moved) <= bound + 1e-5
    one = bound / 2 / (release if max(factors) == 1 else 1)
    assert np.ptp(moved) >= one - 1e-5  # it is what one attacked objective does
    state = run(np.repeat(steady[:1], after, axis=0), state, **options)[1][-1]
    left = np.ptp(np.log10(state.method.gates[0]) - before)
    assert left <= bound * (1 - 1 / (release * memory)) ** after + 1e-5


@pytest.mark.parametrize("release", [1.0, 8.0])
def test_an_energy_is_an_expectile(release):
    memory, seed = 100.0, 4
    steady = stream(seed=seed, steps=1)[0]
    log_norms = np.log(np.linalg.norm(steady, axis=1))
    high = np.random.default_rng(seed).permutation(np.arange(200) % 4 == 0)
    gradients = steady * np.where(high, np.e, 1.0)[:, None, None]
    _, states = run(np.tile(gradients, (10, 1, 1)), memory=memory, release=release)
    logs = of_method(states, "log_energies")[-200:] - log_norms
    # Where what rises, one step in four, balances what falls.
    expected = 0.25 / (0.25 + 0.75 / release)
    # A step moves it by 1 / memory at most, a run of equal ones by a few.
    np.testing.assert_allclose(logs, expected, atol=6 / memory)


def test_what_is_learned_by_heart_keeps_its_weight():
    steady = stream(seed=5, steps=1, number=2)[0]
    fading = 10 ** -np.linspace(0, 3, 300)
    gradients = steady * np.stack([np.ones(300), fading], axis=1)[:, :, None]

    def ratio(release):
        _, states = run(gradients, memory=50.0, release=release)
        gates = of_method(states, "gates")
        return gates[-1, 1] / gates[-1, 0] / (gates[0, 1] / gates[0, 0])

    # The square root of the energies' ratio: all of it but the last 50 steps' lag, or
    # an eighth as far.
    assert ratio(1.0) > 10**1.2
    assert ratio(8.0) < 10**0.8


def test_an_absent_objective_keeps_its_energy_and_moves_no_gate():
    steps = 40
    steady = np.repeat(stream(seed=8, steps=1), steps, axis=0)
    steady *= np.array([[100.0], [1.0], [1.0]])
    active = np.ones((steps, 3), bool)
    active[5:-1, 1] = False
    hidden = np.where(active[:, :, None], steady, np.nan)  # nobody looks at it
    _, expected = run(steady)
    _, states = run(hidden, active=active)
    assert states[-2].method.counts.tolist() == [[39, 5, 39]]
    for name in ("log_energies", "gates"):
        found, wanted = of_method(states, name), of_method(expected, name)
        np.testing.assert_allclose(found, wanted, rtol=2e-5)
    np.testing.assert_array_equal(
        of_method(states, "log_energies")[4:-1, 1],
        of_method(states, "log_energies")[4, 1],
    )
    assert states[-2].weights[1] == 0


def test_absence_does_not_change_the_others_weights():
    gradients = np.abs(stream(seed=8, steps=1))
    active = np.array([[True, False, True]])
    _, (state,) = run(gradients, balance=0.0, active=active, preference=[1.0, 4.0, 1.0])
    np.testing.assert_allclose(state.weights, [0.5, 0.0, 0.5], rtol=1e-6)


# --- edges ----------------------------------------------------------------------------


def test_gradients_of_zero():
    zeros = np.zeros((2, 3, 10))
    outs, states = run(zeros)
    np.testing.assert_array_equal(outs, 0.0)
    assert states[-1].method.counts.tolist() == [[0, 0, 0]]
    np.testing.assert_array_equal(states[-1].method.gates, [[1.0, 1.0, 1.0]])
    gradients = stream(seed=9, steps=3)
    gradients[1:, 1] = 0.0  # one of them, later
    _, states = run(gradients)
    logs = of_method(states, "log_energies")
    assert logs[0, 1] == logs[2, 1]
    assert states[-1].method.counts.tolist() == [[3, 1, 3]]
    assert np.all(np.isfinite(states[-1].weights))


@pytest.mark.parametrize("policy", ["propagate", "skip_objective", "skip_update"])
def test_a_nan_leaves_the_state_alone(policy):
    tx = elastic_cone(2, nonfinite=policy)
    update = jax.jit(tx.update)
    first, second = stream(seed=10, steps=2, number=2)
    _, before = update(tree(first), tx.init(PARAMS))
    second[1, 3] = np.nan
    out, after = update(tree(second), before)
    assert after.nonfinite_count.tolist() == [0, 1]
    kept = [1] if policy == "skip_objective" else [0, 1]
    for name in ("log_energies", "counts"):
        old, new = (np.asarray(getattr(s.method, name))[0] for s in (before, after))
        np.testing.assert_array_equal(new[kept], old[kept])
    if policy == "propagate":
        assert np.all(np.isnan(flat(out)))
    else:
        assert np.all(np.isfinite(flat(out)))
        assert np.any(flat(out) != 0) == (policy == "skip_objective")


def test_blocks_have_energies_of_their_own():
    tx = elastic_cone(2, granularity="tensor", memory=5.0)
    whole = elastic_cone(2, memory=5.0)
    state = tx.init(PARAMS)
    others = {name: whole.init({name: PARAMS[name]}) for name in PARAMS}

    @jax.jit
    def update(g, state, others):
        alone = {n: whole.update({n: g[n]}, others[n]) for n in PARAMS}
        return tx.update(g, state), alone

    for g in stream(seed=11, steps=6, number=2):
        (out, state), alone = update(tree(g), state, others)
        others = {name: own for name, (_, own) in alone.items()}
        blocks = jax.tree.leaves(jax.device_get(state.method))
        for index, (name, (expected, own)) in enumerate(alone.items()):
            np.testing.assert_allclose(out[name], expected[name], rtol=1e-5, atol=1e-5)
            alone_by_field = jax.tree.leaves(jax.device_get(own.method))
            for found, one in zip(blocks, alone_by_field, strict=True):
                assert found.shape == (2, 2)  # blocks, objectives
                np.testing.assert_allclose(found[index], one[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("balance", -0.1),
        ("balance", 1.5),
        ("balance", float("nan")),
        ("balance", [0.5, 0.5]),
        ("memory", 0.5),
        ("memory", float("nan")),
        ("memory", None),
        ("release", None),
        ("release", "slow"),
        ("release", 0.5),
        ("release", float("nan")),
        ("balance", None),
        ("stiffness", None),
        ("stiffness", -0.1),
        ("stiffness", 1.1),
        ("stiffness", float("nan")),
        ("stiffness", [0.5, 2.0]),
        ("stiffness", [0.5, 0.5, 0.5]),
        ("preference", [1.0]),
    ],
)
def test_bad_arguments(name, value):
    with pytest.raises(ValueError, match=f"^{name} must "):
        elastic_cone(2, **{name: value})


def test_balance_and_stiffness_are_injected():
    static = ("num_objectives", "recompute_every", "seed")
    balance = optax.piecewise_constant_schedule(0.8, {1: 0.5})
    tx = optax.inject_hyperparams(elastic_cone, static_args=static)(
        2, balance=balance, stiffness=optax.linear_schedule(0.2, 1.0, 4)
    )
    update, state = jax.jit(tx.update), tx.init(PARAMS)
    plain = elastic_cone(2).init(PARAMS)
    for g, beta, rho in zip(
        stream(seed=12, steps=3, number=2),
        [0.8, 0.4, 0.4],
        [0.2, 0.4, 0.6],
        strict=True,
    ):
        out, state = update(tree(g), state, PARAMS)
        (expected,), (plain,) = run(g[None], plain, balance=beta, stiffness=rho)
        np.testing.assert_allclose(flat(out), expected, rtol=1e-5, atol=1e-5)


def test_half_stiff_it_has_the_other_properties():
    testing.assert_aggregator(
        functools.partial(elastic_cone, stiffness=0.5),
        2,
        testing.CLAIMS["elastic_cone"].properties
        - {"non_conflicting", "descends", "stationary_at_pareto"},
        batch=6,
        max_examples=10,
    )
