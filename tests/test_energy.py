"""Energies by hand, what non-finite gradients do, and the edges of the number range."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import assess_energy, eagc, soft_gate, sum_objectives
from tests.oracles import Oracle, remembered

# ---------------------------------------------------------------------------
# 1. Energies by hand
# ---------------------------------------------------------------------------

# "a" and "b" are shared, 2 entries each; the head belongs to objective 0.
GRADS = {
    "a": np.asarray([[3.0, 3.0], [2.0, 0.0]], np.float32),
    "b": np.asarray([[1.0, -1.0], [4.0, 4.0]], np.float32),
    "head": np.asarray([[7.0], [0.0]], np.float32),
}
PARAMS = {
    "a": np.asarray([1.0, 2.0], np.float32),
    "b": np.asarray([0.5, 0.0], np.float32),
    "head": np.asarray([1.0], np.float32),
}
# Mean squares: a (9, 2), b (1, 16), head (49, 0); over the shared leaves (5, 9).


def energies_of(*cases):
    """Energies and state of each case, options and steps; one program for all."""

    def run(steps=1, extra=None, **options):
        tx = assess_energy(2, granularity="tensor", **options)
        state = tx.init(PARAMS)
        for _ in range(steps):
            _, state = tx.update(GRADS, state, PARAMS, **(extra or {}))
        return state

    states = jax.device_get(jax.jit(lambda: [run(**case) for case in cases])())
    return [
        ({name: np.ravel(value) for name, value in state.energies.items()}, state)
        for state in states
    ]


def check(found, **expected):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_magnitude_is_relative_to_the_shared_leaves():
    (found, state), (wide, _) = energies_of({}, {"scale": "global"})
    check(found, a=[9 / 5, 2 / 9], b=[1 / 5, 16 / 9], head=[49 / 5, 0.0])
    check(state.gradient_rms, a=[3.0, 2**0.5], b=[1.0, 4.0], head=[7.0, 0.0])
    # The mean of 5 and 9.
    check(wide, a=[9 / 7, 2 / 7], b=[1 / 7, 16 / 7], head=[7.0, 0.0])


def test_sensitivity_is_the_mean_square_of_gradient_times_parameter():
    # a: (9 + 36) / 2 and (4 + 0) / 2; b: 0.25 / 2 and 4 / 2; shared: 11.3125 and 2.
    for found, _ in energies_of({"energy": "sensitivity"}, {"energy": "snip"}):
        check(found, a=[22.5 / 11.3125, 1.0], b=[0.125 / 11.3125, 1.0])


def test_progress_and_exploratory_follow_the_direction_of_the_steps_before():
    # The same direction from outside: none is kept then.
    direction = {"a": [5, 3], "b": [5, 3], "head": [1]}
    direction = {name: np.float32(value) for name, value in direction.items()}
    outside = {"direction_decay": None, "extra": {"direction": direction}}
    (found, state), *others = energies_of(
        {"energy": "progress"},
        {"energy": "progress", "steps": 2},
        {"energy": "progress", **outside},
        {"energy": "exploratory", "steps": 2, "alignment_floor": 0.2},
    )
    # No direction yet: cosine 0.
    check(found, a=[0.75, 0.75], b=[0.75, 0.75], head=[0.75, 0.0])
    check(state.direction, a=[0.5, 0.3], b=[0.5, 0.3], head=[0.7])
    # Cosines with (0.5, 0.3) in a and b, whose length is sqrt(0.34).
    length = 0.34**0.5
    a = np.asarray([0.8 / (2**0.5 * length), 0.5 / length])
    b = np.asarray([0.2 / (2**0.5 * length), 0.8 / (2**0.5 * length)])
    for found, _ in others[:2]:
        check(found, a=0.5 + 0.25 * (1 + a), b=0.5 + 0.25 * (1 + b), head=[1.0, 0.0])
    assert others[1][1].direction == ()
    found, _ = others[2]
    check(found, a=0.2 + 0.8 * (1 - a**2), b=0.2 + 0.8 * (1 - b**2), head=[0.2, 0.0])


def test_fisher_divides_by_the_second_moment_of_the_weighted_sum():
    # P: a (5, 3), b (5, 3): its squares, bias-corrected, are 25 and 9 from the start.
    expected = {
        "a": np.asarray([9 / 25 + 1, 4 / 25]) / 2,
        "b": np.asarray([1 / 25 + 1 / 9, 16 / 25 + 16 / 9]) / 2,
    }
    reference = (expected["a"] + expected["b"]) / 2
    expected = {name: value / reference for name, value in expected.items()}
    moment = {"a": [25, 9], "b": [25, 9], "head": [1]}
    moment = {name: np.float32(value) for name, value in moment.items()}
    outside = {"moment_decay": None, "extra": {"second_moment": moment}}
    one, three, other = energies_of(
        {"energy": "fisher"},
        {"energy": "fisher", "steps": 3},
        {"energy": "fisher", **outside},
    )
    for found, _ in (one, three, other):
        check(found, **expected)
    check(three[1].second_moment, a=np.asarray([25.0, 9.0]) * (1 - 0.999**3))
    assert other[1].second_moment == ()


def test_a_mixture_is_a_product_of_powers():
    names = ("magnitude", "progress", "exploratory", "sensitivity", "fisher")
    powers = (1.0, 2.0, 0.5, 0.25, 0.0)
    mixture = dict(zip(names, powers, strict=True))
    found = energies_of(*({"steps": 2, "energy": e} for e in (*names, mixture)))
    *parts, mixed = (energies for energies, _ in found)
    for name in ("a", "b"):
        expected = np.prod(
            [part[name] ** power for part, power in zip(parts, powers, strict=True)],
            axis=0,
        )
        np.testing.assert_allclose(mixed[name], expected, rtol=1e-5)


def test_gradients_pass_through_and_energies_travel_with_them():
    tx = assess_energy(2, granularity="tensor")
    assessed, state = tx.update(GRADS, tx.init(PARAMS))
    for name, value in GRADS.items():
        np.testing.assert_array_equal(assessed.updates[name], value)
    shown = np.where(assessed.active["*"], np.exp(assessed.log_energies["*"]), 0.0)
    np.testing.assert_allclose(state.energies.flat, shown, rtol=1e-6)


# ---------------------------------------------------------------------------
# 2. Non-finite gradients
# ---------------------------------------------------------------------------

NUMBER = 3
SHAPES = {"head": (2,), "kernel": (2, 3), "vector": (2,)}
MIXTURE = {"magnitude": 1.0, "progress": 0.7, "sensitivity": 0.5, "fisher": 0.3}
GATE = {"temperature": 0.5, "floor": 0.1, "smoothing": 0.7, "hysteresis": 0.05}
GATE |= {"slew": 0.8, "warmup_steps": 2, "granularity": "channel"}
THETA = {n: np.random.default_rng(9).normal(size=s) for n, s in SHAPES.items()}
THETA = {name: value.astype(np.float32) for name, value in THETA.items()}


def clean_stream(steps=4):
    rng = np.random.default_rng(0)
    stream = {
        name: rng.normal(size=(steps, NUMBER, *shape)).astype(np.float32)
        for name, shape in SHAPES.items()
    }
    stream["head"][:, 1:] = 0.0
    return stream


@functools.cache
def policy_runner(policy):
    """jit of: stream, weights by step -> (updates, state) after each step."""

    def run(grads, weights):
        def make(w):
            return eagc(
                NUMBER,
                preset="article",
                energy=MIXTURE,
                nonfinite=policy,
                weights=w,
                **GATE,
            )

        def body(state, inputs):
            g, w = inputs
            updates, state = make(w).update(g, state, THETA)
            return state, (updates, state)

        return jax.lax.scan(body, make(weights[0]).init(THETA), (grads, weights))[1]

    return jax.jit(run)


def run_policy(policy, grads, weights=None):
    if weights is None:
        weights = np.tile(np.asarray([1.0, 0.5, 2.0], np.float32), (4, 1))
    out = policy_runner(policy)(grads, weights)
    updates, states = jax.tree.map(np.asarray, out)
    for leaf in jax.tree.leaves(states):
        assert np.all(np.isfinite(leaf)), "the state is poisoned"
    return updates, states


def at(tree, step):
    return jax.tree.map(lambda x: x[step], tree)


def without_count(states, step):
    assess, gate, rest = at(states, step)
    return assess._replace(nonfinite_count=0), gate, rest


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def spoil(stream, step, objective, value, leaf="vector"):
    stream[leaf][step, objective].reshape(-1)[-1] = value


BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf, "square": 2e19}


@pytest.mark.parametrize("policy", ["propagate", "skip_update"])
@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
@pytest.mark.parametrize("leaf", ["vector", "kernel"])
def test_a_step_is_lost_as_a_whole(policy, value, leaf):
    stream = clean_stream()
    expected, expected_states = run_policy(policy, stream)
    # Steps 1 and 2 are spoilt, by objective 1 and by objectives 0 and 2; step 1 of the
    # clean run then comes third.
    spoilt = {name: v[[0, 0, 0, 1]].copy() for name, v in stream.items()}
    spoil(spoilt, 1, 1, value, leaf)
    spoil(spoilt, 2, 0, value, leaf)
    spoil(spoilt, 2, 2, value, leaf)
    updates, states = run_policy(policy, spoilt)
    for step, leaf_name in itertools.product((1, 2), SHAPES):
        lost = np.nan if policy == "propagate" else 0.0
        np.testing.assert_array_equal(updates[leaf_name][step], lost)
        assert_same(without_count(states, step), without_count(states, 0))
    assert_same(at(updates, 0), at(expected, 0))
    assert_same(at(updates, 3), at(expected, 1))
    assert_same(without_count(states, 3), without_count(expected_states, 1))
    np.testing.assert_array_equal(
        states[0].nonfinite_count, [[0, 0, 0], [0, 1, 0], [1, 1, 1], [1, 1, 1]]
    )


@pytest.mark.parametrize("value", BAD.values(), ids=BAD)
def test_skip_objective_leaves_one_out_for_a_step(value):
    weights = np.tile(np.asarray([1.0, 0.5, 2.0], np.float32), (4, 1))
    spoilt = clean_stream()
    spoil(spoilt, 1, 1, value)
    spoil(spoilt, 2, 1, value, "kernel")
    for objective in range(NUMBER):
        spoil(spoilt, 3, objective, value)
    updates, states = run_policy("skip_objective", spoilt)
    # The same as weight 0 in these steps, to the bit.
    weights[1:3, 1] = 0.0
    expected, expected_states = run_policy("skip_objective", clean_stream(), weights)
    for step in range(3):
        assert_same(at(updates, step), at(expected, step))
        assert_same(at(states[1].memory, step), at(expected_states[1].memory, step))
        for name in ("energies", "direction", "second_moment", "count"):
            found, same = getattr(states[0], name), getattr(expected_states[0], name)
            assert_same(at(found, step), at(same, step))
    # Nothing is left in the last step: no update, no change.
    for name in SHAPES:
        np.testing.assert_array_equal(updates[name][3], 0.0)
    assert_same(without_count(states, 3), without_count(states, 2))
    np.testing.assert_array_equal(
        states[0].nonfinite_count, [[0, 0, 0], [0, 1, 0], [0, 2, 0], [1, 3, 1]]
    )


def test_skip_objective_equals_the_oracle_without_it():
    spoilt, clean = clean_stream(), clean_stream()
    spoil(spoilt, 1, 0, np.nan)
    spoil(spoilt, 2, 2, np.inf)
    updates, states = run_policy("skip_objective", spoilt)
    oracle = Oracle(SHAPES, NUMBER, energy=MIXTURE, weights=[1.0, 0.5, 2.0], **GATE)
    for step, absent in enumerate([(), (0,), (2,), ()]):
        expected = oracle.step(at(clean, step), THETA, absent=absent)
        for name, value in expected.updates.items():
            np.testing.assert_allclose(updates[name][step], value, atol=2e-4)
        for name, value in expected.gates.items():
            np.testing.assert_allclose(states[1].gates[name][step], value, atol=1e-4)
    for name, value in oracle.as_arrays(oracle.logits).items():
        found = remembered(states[1], name, SHAPES).logits[-1]
        np.testing.assert_allclose(found, value, atol=1e-4)


def test_apply_if_finite_recovers_behind_propagate():
    tx = optax.chain(
        eagc(2, preset="article", granularity="tensor"),
        optax.apply_if_finite(optax.adam(0.1), 5),
    )
    clean = np.asarray([[1.0, 2.0], [3.0, -1.0]], np.float32)
    bad = clean.copy()
    bad[1, 0] = np.nan

    @jax.jit
    def step(carry, g):
        params, state = carry
        updates, state = tx.update(g, state, params)
        return optax.apply_updates(params, updates), state

    def train(stream):
        params = np.ones(2, np.float32)
        return functools.reduce(step, stream, (params, jax.jit(tx.init)(params)))

    params, state = train([clean, bad, bad, 2 * clean])
    expected, _ = train([clean, 2 * clean])
    np.testing.assert_array_equal(params, expected)
    np.testing.assert_array_equal(optax.tree.get(state, "nonfinite_count"), [0, 2])
    assert state[1].total_notfinite == 2


# ---------------------------------------------------------------------------
# 3. Edges of the number range
# ---------------------------------------------------------------------------


def one_step(grads, params=None, steps=1, **options):
    number = next(iter(grads.values())).shape[0]
    options = {"warmup_steps": 0, "granularity": "tensor"} | options
    tx = eagc(number, preset="article", **options)
    if params is None:
        params = {name: np.zeros_like(value[0]) for name, value in grads.items()}

    @jax.jit
    def run(grads, params):
        def body(state, _):
            return tx.update(grads, state, params)[::-1]

        state, updates = jax.lax.scan(body, tx.init(params), length=steps)
        return jax.tree.map(lambda u: u[-1], updates), state

    updates, state = jax.device_get(run(grads, params))
    for leaf in jax.tree.leaves((updates, state)):
        assert np.all(np.isfinite(np.asarray(leaf, np.complex64)))
    return updates, state


def f32(*rows):
    return np.asarray(rows, np.float32)


def test_finite_gradients_never_give_anything_else():
    # A head that is 1e40 times as strong as the trunk, in squares.
    trunk = {"a": f32([1e-17, 1e-17], [1, 1]), "head": f32([1e3, 1e3], [0, 0])}
    updates, _ = one_step(trunk)
    np.testing.assert_array_equal(updates["head"], trunk["head"][0])
    # Two gradients below the range's end, their sum and its square above it.
    huge = {"a": f32([1.5e19], [1.5e19]), "b": f32([1.0], [2.0])}
    for energy in ("fisher", "progress", "exploratory"):
        one_step(huge, energy=energy, steps=2, weights=(1.0, 100.0))
    # One of them against the running direction, whose length is above it as well.
    against = {**huge, "a": f32([-1.5e19], [1.5e19])}
    one_step(against, energy="progress", steps=2, weights=(1.0, 100.0))
    # A gradient times a parameter.
    params = {"a": f32(1e6), "b": f32(1.0)}
    one_step({**huge, "a": f32([1e15], [1.0])}, params, energy="sensitivity")
    for energy in ({"magnitude": 3.0}, {"fisher": 3.0, "magnitude": 2.0}):
        one_step(trunk, energy=energy, steps=2)


@functools.cache
def weighted_runner(granularity):
    """jit of: gradients, weights -> (update, state) of the second of two equal steps."""
    energy = {"magnitude": 1.0, "progress": 1.0, "fisher": 1.0}

    def run(grads, weights):
        tx = eagc(
            2,
            preset="article",
            energy=energy,
            granularity=granularity,
            weights=weights,
            descent_guard=0.2,
            warmup_steps=0,
        )
        state = tx.init(jax.tree.map(lambda g: g[0], grads))
        _, state = tx.update(grads, state)
        return tx.update(grads, state)

    return jax.jit(run)


@pytest.mark.parametrize("granularity", ["global", "tensor", "channel", "element"])
def test_zero_identical_and_opposed_gradients(granularity):
    g = {"kernel": f32([1.0, -2.0], [3.0, 0.5]), "scalar": np.float32(4.0)}

    def run(one, two, weights=(0.5, 2.0)):
        stacked = {n: np.float32([one * v, two * v]) for n, v in g.items()}
        out = weighted_runner(granularity)(stacked, np.float32(weights))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(out))
        return out

    updates, state = run(0.0, 0.0)
    for value in updates.values():
        np.testing.assert_array_equal(value, 0.0)
    for value in state[1].gates.values():
        shown = np.float32([0.5, 2.0]).reshape(2, *[1] * (value.ndim - 1))
        np.testing.assert_array_equal(value, np.broadcast_to(shown, value.shape))
    updates, _ = run(1.0, 1.0)
    for name, value in updates.items():
        np.testing.assert_allclose(value, 2.5 * g[name], rtol=1e-6)
    # One of them absent: the other keeps its weight.
    updates, _ = run(1.0, 0.0)
    for name, value in updates.items():
        np.testing.assert_array_equal(value, 0.5 * g[name])
    updates, _ = run(1.0, -1.0, weights=(1.0, 1.0))
    for value in updates.values():
        np.testing.assert_array_equal(value, 0.0)


def test_half_precision_leaves_have_float32_energies_and_keep_their_dtype():
    rng = np.random.default_rng(0)
    dtypes = {"a": jnp.bfloat16, "b": jnp.float16, "c": jnp.float32}
    # f16 squares overflow above 256 and vanish below 1e-4: both occur here.
    grads = {
        name: (scale * rng.normal(size=(2, 4))).astype(dtypes[name])
        for name, scale in (("a", 1.0), ("b", 1e3), ("c", 1e-5))
    }
    wide = {name: np.asarray(value, np.float32) for name, value in grads.items()}
    params = {name: np.zeros(4, dtype) for name, dtype in dtypes.items()}
    options = {"energy": {"magnitude": 1.0, "progress": 1.0}, "descent_guard": 0.1}
    updates, state = one_step(grads, params, steps=2, **options)
    expected, expected_state = one_step(wide, steps=2, **options)
    for name, dtype in dtypes.items():
        assert updates[name].dtype == dtype
        rounding = float(jnp.finfo(dtype).eps)
        bound = 3 * rounding * np.abs(wide[name]).max(axis=0)
        assert np.all(np.abs(np.float32(updates[name]) - expected[name]) <= bound)
    for left, right in zip(
        jax.tree.leaves(state), jax.tree.leaves(expected_state), strict=True
    ):
        assert left.dtype == right.dtype
        np.testing.assert_allclose(left, right, rtol=1e-6)


@pytest.mark.parametrize(
    "granularity", [pytest.param("channel", marks=pytest.mark.slow), "element"]
)
def test_float64_leaves(granularity):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        grads = {
            "a": rng.normal(size=(2, 3, 2)),
            "b": rng.normal(size=(2, 3)).astype(np.float32),
        }
        params = {name: np.ones_like(value[0]) for name, value in grads.items()}
        options = {"energy": MIXTURE, "granularity": granularity, "warmup_steps": 0}
        tx = eagc(2, preset="article", descent_guard=0.1, slew=0.5, **options)
        state = jax.jit(tx.init)(params)
        updates, new_state = jax.jit(tx.update)(grads, state, params)
        oracle = Oracle(
            {"a": (3, 2), "b": (3,)}, 2, descent_guard=0.1, slew=0.5, **options
        )
        expected = oracle.step(grads, params).updates
        for name, value in grads.items():
            assert updates[name].dtype == value.dtype
            np.testing.assert_allclose(updates[name], expected[name], atol=1e-4)
        # The state keeps its dtypes, none of them of 64 bits.
        dtypes = [leaf.dtype for leaf in jax.tree.leaves(state)]
        assert dtypes == [leaf.dtype for leaf in jax.tree.leaves(new_state)]
        assert all(dtype.itemsize <= 4 for dtype in dtypes)
        # A plain sum of float64 leaves is one in float64.
        weights = np.asarray([0.5, 2.0])
        plain = eagc(2, preset="article", floor=1.0, weights=weights)
        step = jax.jit(lambda g, p: plain.update(g, plain.init(p), p))
        updates, _ = step(grads, params)
        np.testing.assert_array_equal(
            updates["a"], 0.5 * grads["a"][0] + 2.0 * grads["a"][1]
        )


@pytest.mark.parametrize("granularity", ["global", "tensor", "channel", "element"])
def test_scalars_and_leaves_without_entries(granularity):
    grads = {
        "empty": np.zeros((2, 0, 3), np.float32),
        "none": np.zeros((2, 3, 0), np.float32),
        "scalar": f32(1.0, 3.0),
        "vector": f32([2.0, 1.0], [1.0, 1.0]),
    }
    options = {"granularity": granularity, "scale": "global", "descent_guard": 0.1}
    updates, _ = one_step(grads, energy=MIXTURE, **options)
    rest = {name: grads[name] for name in ("scalar", "vector")}
    oracle = Oracle(
        {"scalar": (), "vector": (2,)}, 2, energy=MIXTURE, warmup_steps=0, **options
    )
    params = {name: np.zeros_like(value[0]) for name, value in rest.items()}
    expected = oracle.step(rest, params).updates
    for name, value in updates.items():
        assert value.shape == grads[name].shape[1:]
        if name in rest:
            np.testing.assert_allclose(value, expected[name], rtol=1e-4)


def test_a_tree_without_leaves():
    tx = eagc(2, preset="article", energy=MIXTURE, descent_guard=0.1)
    for tree in ({}, {"a": None}, ()):
        state = tx.init(tree)
        updates, _ = jax.jit(tx.update)(tree, state, tree)
        assert updates == tree


@pytest.mark.parametrize("energy", ["magnitude", "progress", "fisher"])
def test_complex_leaves(energy):
    # As its real and imaginary parts side by side would be.
    rng = np.random.default_rng(0)
    parts = rng.normal(size=(2, 2, 2, 3)).astype(np.float32)
    z = {name: parts[:, i, 0] + 1j * parts[:, i, 1] for i, name in enumerate("ab")}
    z = {name: value.astype(np.complex64) for name, value in z.items()}
    xy = {name: parts[:, i].reshape(2, 6) for i, name in enumerate("ab")}
    found, _ = one_step(z, energy=energy, steps=2, descent_guard=0.1)
    if energy == "fisher":  # its second moment is that of the modulus: no such match
        return
    expected, _ = one_step(xy, energy=energy, steps=2, descent_guard=0.1)
    for name, value in found.items():
        both = np.concatenate([value.real, value.imag])
        np.testing.assert_allclose(both, expected[name], rtol=1e-4)


def test_soft_gate_alone_assesses_magnitudes():
    grads = {"a": f32([1.0, 2.0], [3.0, 1.0]), "b": f32([2.0], [0.5])}
    alone = optax.chain(
        soft_gate(2, granularity="tensor", warmup_steps=0), sum_objectives()
    )
    params = jax.tree.map(lambda g: g[0], grads)
    updates, _ = jax.jit(lambda g: alone.update(g, alone.init(params)))(grads)
    expected, _ = one_step(grads)
    for name, value in expected.items():
        np.testing.assert_allclose(updates[name], value, rtol=1e-6)


def test_propagate_reaches_every_coordinate_without_a_gate_too():
    tx = optax.chain(assess_energy(2, granularity="tensor"), sum_objectives())
    state = tx.init(PARAMS)
    clean, _ = tx.update(GRADS, state)
    for name, value in GRADS.items():
        np.testing.assert_array_equal(clean[name], value[0] + value[1])
    spoilt = {**GRADS, "a": np.where([[True], [False]], np.float32(np.nan), GRADS["a"])}
    update, _ = tx.update(spoilt, state)
    assert all(np.isnan(leaf).all() for leaf in update.values())
