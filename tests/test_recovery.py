"""Attacks are forgotten, absences survived, and a hundred thousand steps don't drift.

``eagc`` states how fast. Let y be the logit of the gradients without the attack, h the
bias-corrected average after m steps of it. After t more steps the average is off by
beta^t (1 - beta^m) / (1 - beta^(m+t)) (h - y), at most beta^t |h - y|, and logits lie in
[-L, L]. The oracles are float64 NumPy.
"""

import functools
import math

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import eagc, value_and_grads

F32 = float(np.finfo(np.float32).eps)
SIZES = {"a": (3,), "b": (2, 2), "c": (5,)}
ENTRIES = 3 + 4 + 5
FLOOR, BETA = 0.2, 0.9
DEFAULTS = {"granularity": "tensor", "warmup_steps": 0, "floor": FLOOR}
PARAMS = {name: np.ones(shape, np.float32) for name, shape in SIZES.items()}


@functools.cache
def runner(tx):
    """jit of: a stream of gradients -> updates and states after each step."""

    def run(stream):
        def body(state, grads):
            updates, state = tx.update(grads, state, PARAMS)
            return state, (updates, state)

        return jax.lax.scan(body, tx.init(PARAMS), stream)[1]

    return jax.jit(run)


def run(tx, stream):
    return jax.tree.map(np.asarray, runner(tx)(stream))


def gates(states):
    """``(steps, K, leaves)``."""
    return np.stack(
        [
            np.asarray(states[1].gates[name]).reshape(len(states[1].count), -1)
            for name in SIZES
        ],
        axis=2,
    )


def steady(number, steps, seed=0):
    """Gradients that stay as they are, of different shares in different leaves."""
    rng = np.random.default_rng(seed)
    one = {
        name: rng.normal(size=(number, *shape))
        * 10.0 ** rng.uniform(-1, 1, size=(number, *(1,) * len(shape)))
        for name, shape in SIZES.items()
    }
    return {
        name: np.repeat(g[None].astype(np.float32), steps, axis=0)
        for name, g in one.items()
    }


def attacked(stream, steps, factors):
    """The first steps' gradients times 1e6 (or any factors), by leaf and objective."""
    out = {name: g.copy() for name, g in stream.items()}
    for (name, k), factor in factors.items():
        out[name][:steps, k] *= np.float32(factor)
    return out


# --- recovery -----------------------------------------------------------------------

LOGIT = math.log(ENTRIES / 3) - math.log(1e-8)  # of the smallest leaf: eagc's L
LEFT = 0.01  # of a logit


def steps_to_forget(left=LEFT, beta=BETA, slew=None):
    """As eagc's docstring states it."""
    steps = math.ceil(math.log(2 * LOGIT / left) / math.log(1 / beta))
    return steps + (math.ceil(2 * LOGIT / slew) if slew else 0)


CASES = {
    "defaults": ({}, 0),
    "slew": ({"slew": 0.5}, 0),
    "progress": (
        {"energy": {"magnitude": 1.0, "progress": 1.0}},
        math.ceil(math.log(1e3 * 1e6) / math.log(1 / BETA)),
    ),
    "fisher": (
        {"energy": "fisher", "moment_decay": BETA},
        math.ceil(math.log(1e3 * 1e12) / math.log(1 / BETA)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_spikes_are_forgotten_within_the_stated_number_of_steps(name):
    options, more = CASES[name]
    number, attack = 3, 20
    steps = steps_to_forget(slew=options.get("slew")) + more
    clean = steady(number, attack + steps)
    spiked = attacked(clean, attack, {("a", 0): 1e6, ("b", 1): 1e6, ("c", 2): 1e-6})
    tx = eagc(number, preset="article", **DEFAULTS, **options)
    _, calm = run(tx, clean)
    _, states = run(tx, spiked)
    found, expected = gates(states), gates(calm)
    assert np.max(np.abs(found[attack - 1] - expected[-1])) > 0.1  # it was an attack
    # A softmax moves by half of what its logits do; W = K, times 1 - floor.
    allowed = 0.5 * LEFT * number * (1 - FLOOR)
    assert np.max(np.abs(found[-1] - expected[-1])) <= allowed
    assert np.max(np.abs(found[-1] - expected[-1])) > 0  # and the bound isn't vacuous


# --- absence --------------------------------------------------------------------------


def test_an_objective_absent_for_a_thousand_steps_comes_back():
    number, before, away = 3, 5, 1000
    after = steps_to_forget()
    stream = steady(number, before + away + after)
    for g in stream.values():
        g[before : before + away, 1] = 0
    tx = eagc(number, preset="article", **DEFAULTS)
    updates, states = run(tx, stream)
    found, (_, calm) = gates(states), run(tx, steady(number, before + away + after))
    assert np.all(np.isfinite(found))
    # While it is away it has its weight, and the others share out theirs.
    gone = found[before : before + away]
    np.testing.assert_array_equal(gone[:, 1], 1.0)
    np.testing.assert_allclose(gone.sum(1), number, rtol=8 * number * F32)
    np.testing.assert_allclose(found[-1], gates(calm)[-1], atol=0.5 * LEFT * number)
    for leaf in jax.tree.leaves((updates, states)):
        assert np.all(np.isfinite(leaf))


# --- counters -------------------------------------------------------------------------


def test_counters_stay_at_the_largest_number():
    """Two billion steps on: a count that wraps would turn the bias correction over."""
    tx = eagc(3, preset="article", **DEFAULTS, nonfinite="skip_objective")
    stream = steady(3, 300)  # until the average has no bias left
    updates, states = run(tx, stream)
    state = jax.tree.map(lambda x: x[-1], states)
    top = np.iinfo(np.int32).max

    def filled(x):
        return np.full_like(x, top) if x.dtype == np.int32 else x

    bad = {name: g.copy() for name, g in row(stream, 0).items()}
    bad["a"][1] = np.nan
    step = jax.jit(tx.update)
    out, old = step(row(stream, 0), jax.tree.map(filled, state), PARAMS)
    for name in SIZES:  # the average of constant logits is that logit
        np.testing.assert_allclose(out[name], updates[name][-1], rtol=1e-5, atol=1e-6)
    _, old = step(bad, old, PARAMS)
    counts = [x for x in jax.tree.leaves(old) if x.dtype == np.int32]
    assert all(np.all(np.asarray(x) == top) for x in counts)


def row(stream, step):
    return {name: g[step] for name, g in stream.items()}


# --- silence --------------------------------------------------------------------------


MOVES = ("spike", "vanish", "focus", "calm")


@hypothesis.given(
    seed=st.integers(0, 2**31),
    victim=st.integers(0, 2),
    pattern=st.lists(
        st.sampled_from(["spike", "vanish", "focus", "calm"]), min_size=6, max_size=6
    ),
    temperature=st.sampled_from([0.01, 0.3, 3.0]),
)
def test_no_sequence_takes_an_objective_below_its_floor(
    seed, victim, pattern, temperature
):
    """The others spike, the victim nearly vanishes, or keeps one leaf alone."""
    number, weights = 3, np.array([1.0, 0.5, 2.0])
    stream = steady(number, len(pattern), seed)
    others = [k for k in range(number) if k != victim]
    for step, move in enumerate(pattern):
        for index, g in enumerate(stream.values()):
            if move == "spike":
                g[step, others] *= np.float32(1e6 if (step + index) % 2 else 1)
            elif move == "vanish":
                g[step, victim] *= np.float32(1e-12)
            elif move == "focus" and index != step % 3:
                g[step, victim] *= np.float32(1e-8)
    updates, states = run(silencer(temperature), stream)
    found = gates(states)
    assert np.all(found >= FLOOR * weights[:, None] * (1 - 4 * F32))
    np.testing.assert_allclose(found.sum(1), weights.sum(), rtol=8 * number * F32)
    for leaf in jax.tree.leaves(updates):
        assert np.all(np.isfinite(leaf))


@functools.cache
def silencer(temperature):
    return eagc(
        3,
        preset="article",
        weights=(1.0, 0.5, 2.0),
        temperature=temperature,
        **DEFAULTS,
    )


# --- a hundred thousand steps ---------------------------------------------------------

LONG, RATE = 100_000, 0.02
# Three quadratics over 12 numbers that pull to different places, with noise: the minimum
# of the weighted sum attracts, so rounding is forgotten and doesn't pile up.
RNG = np.random.default_rng(3)
AIMS = {n: RNG.normal(size=(2, *s)).astype(np.float32) for n, s in SIZES.items()}
CURVES = {n: RNG.uniform(0.5, 2, (2, *s)).astype(np.float32) for n, s in SIZES.items()}
NOISE = RNG.normal(size=(997, ENTRIES)).astype(np.float32)  # repeated: 997 is prime


def losses_fn(params, noise):
    parts, start = [], 0
    for name, shape in SIZES.items():
        size = math.prod(shape)
        shift = 0.1 * noise[start : start + size].reshape(shape)
        start += size
        delta = params[name][None] - AIMS[name] - shift[None]
        parts.append(0.5 * jnp.sum((CURVES[name] * delta**2).reshape(2, -1), axis=1))
    return sum(parts)


def train(tx, steps):
    """Every hundredth point, and the states' counts and gates there."""
    optimizer = optax.chain(tx, optax.sgd(RATE))

    def step(carry, index):
        params, state = carry
        _, grads = value_and_grads(losses_fn)(params, jnp.asarray(NOISE)[index % 997])
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), None

    def hundred(carry, index):
        carry, _ = jax.lax.scan(step, carry, 100 * index + jnp.arange(100))
        return carry, (carry[0], carry[1][0])

    start = {n: jnp.zeros(s) for n, s in SIZES.items()}
    carry = start, optimizer.init(start)
    return jax.lax.scan(hundred, carry, jnp.arange(steps // 100))[1]


@functools.cache
def long_run():
    found = jax.jit(
        functools.partial(train, eagc(2, preset="article", **DEFAULTS), LONG)
    )()
    return jax.tree.map(np.asarray, found)


def test_a_hundred_thousand_steps_do_not_drift():
    params, (assess, gate, _) = long_run()
    assert gate.count[-1] == assess.count[-1] == LONG
    np.testing.assert_array_equal(gate.memory["*"].visits[-1], LONG)
    for leaf in jax.tree.leaves((params, assess, gate)):
        assert np.all(np.isfinite(leaf))
    shares = np.stack(
        [np.asarray(gate.gates[n]).reshape(LONG // 100, 2) for n in SIZES]
    )
    np.testing.assert_allclose(shares.sum(-1), 2, rtol=16 * F32)
    assert np.all(shares >= FLOOR * (1 - 4 * F32))
    assert np.all(shares <= FLOOR + (1 - FLOOR) * 2 + 8 * F32)
    # The second half is as the first one after its start: means over 50,000 steps.
    for name in SIZES:
        halves = params[name].reshape(2, -1, *SIZES[name])
        first, second = halves[0][100:].mean(0), halves[1].mean(0)
        spread = halves[1].std(0)
        assert np.all(np.abs(first - second) <= 0.3 * spread + 1e-4)


# Copies of the same dynamics in float64 in which gradients and parameters are off by one
# unit of float32 in every step.
ROUNDED = 3


def oracle(steps):
    """Parameters ``(1 + ROUNDED, ENTRIES)`` after each hundred steps; the first exact."""
    aims, curves = (
        np.concatenate([x[n].reshape(2, -1) for n in SIZES], axis=1).astype(np.float64)
        for x in (AIMS, CURVES)
    )
    sizes = np.array([math.prod(shape) for shape in SIZES.values()])
    member = np.repeat(np.eye(len(sizes)), sizes, axis=1)  # (leaves, entries)
    mean = (member / sizes[:, None]).T
    signs = np.random.default_rng(4).choice([-1.0, 1.0], (991, 2, 1 + ROUNDED, ENTRIES))
    signs[:, :, 0] = 0
    off, shifts = 1 + F32 * signs, 0.1 * NOISE.astype(np.float64)
    point = np.zeros((1 + ROUNDED, ENTRIES))
    average = np.zeros((2, 1 + ROUNDED, len(sizes)))
    seen = []
    for step in range(steps):
        delta = point - aims[:, None] - shifts[step % 997]
        grads = curves[:, None] * delta * off[step % 991, 0]
        squares = grads * grads
        logs = np.log(squares @ mean / squares.mean(-1, keepdims=True) + 1e-8)
        average = BETA * average + (1 - BETA) * (logs - logs.mean(0))
        h = average / (1 - BETA ** (step + 1))
        share = 2 / (1 + np.exp(h[::-1] - h))
        gate = (1 + (1 - FLOOR) * (share - 1)) @ member
        point = (point - RATE * (gate * grads).sum(0)) * off[step % 991, 1]
        if (step + 1) % 100 == 0:
            seen.append(point)
    return np.stack(seen)


@pytest.mark.parametrize("steps", [20_000, pytest.param(LONG, marks=pytest.mark.slow)])
def test_long_runs_equal_float64(steps):
    """To what a rounding of every gradient and parameter in every step moves."""
    expected = oracle(steps)
    params = long_run()[0]
    found = np.concatenate([params[n].reshape(LONG // 100, -1) for n in SIZES], axis=1)
    exact, rounded = expected[:, 0], expected[:, 1:]
    moved = np.abs(rounded - exact[:, None]).max()
    error = np.abs(found[: len(exact)] - exact)
    assert error.max() <= moved
    assert moved < 1e-5  # so that the line above says something
    # Nor does it grow: the last tenth is no further off than the second.
    tenth = len(exact) // 10
    assert error[-tenth:].max() <= 4 * error[tenth : 2 * tenth].max()
