"""The three risks of gating: oscillation, chasing noise, and a loss that shouts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from eagc_jax import eagc, minimum_temperature
from tests.oracles import remembered

# ---------------------------------------------------------------------------
# 1. Oscillation: one dimension, two quadratics with minima at +1 and -1
# ---------------------------------------------------------------------------


START = 1e-3  # distance from the balance point


def distance_to_balance(
    curvatures, learning_rate, temperature, floor, smoothing, steps=3000, tail=500
):
    """The largest distance from the balance point in the last steps of descent."""
    one, two = curvatures
    balance = (one - two) / (one + two)
    tx = optax.chain(
        eagc(
            2,
            preset="article",
            scale="global",
            temperature=temperature,
            floor=floor,
            smoothing=smoothing,
            warmup_steps=0,
        ),
        optax.sgd(learning_rate),
    )

    def body(carry, _):
        x, state = carry
        grads = jnp.stack([one * (x - 1), two * (x + 1)])
        updates, state = tx.update(grads, state)
        return (optax.apply_updates(x, updates), state), jnp.abs(x - balance)

    start = balance + jnp.float32(START)
    _, distance = jax.lax.scan(body, (start, tx.init(start)), length=steps)
    return jnp.max(distance[-tail:])


@functools.cache
def settings():
    """Rows of (curvature, curvature, learning rate, floor)."""
    rows = [
        (one, two, x / (one + two), floor)
        for one, two in ((1.0, 1.0), (3.0, 1.0), (0.1, 0.7))
        for x in (0.05, 0.2, 0.5, 1.0, 1.5)
        for floor in (0.0, 0.2, 0.5)
    ]
    return np.asarray(rows, np.float64)


@functools.cache
def descend():
    def one(row, temperature, smoothing):
        return distance_to_balance(row[:2], row[2], temperature, row[3], smoothing)

    return jax.jit(jax.vmap(one))


def at(factor, smoothing):
    rows = settings()
    bounds = [
        minimum_temperature(learning_rate=lr, curvature=one + two, floor=floor)
        for one, two, lr, floor in rows
    ]
    temperature = factor * np.asarray(bounds, np.float32)
    smoothing = np.full(len(rows), smoothing, np.float32)
    return np.asarray(descend()(rows.astype(np.float32), temperature, smoothing))


def test_the_bound_on_the_temperature_is_tight():
    # The distance is multiplied by |1 - x (1 + 2 (1 - floor) / tau)| each step: by 0.96
    # or less at 5 % above the bound, by 1.02 or more below, until a cycle is reached.
    assert np.all(at(1.05, 0.0) < 0.1 * START)
    assert np.all(at(0.95, 0.0) > 1.5 * START)


@pytest.mark.parametrize("smoothing", [0.5, 0.9, 0.99])
def test_a_temperature_above_the_bound_is_stable_with_any_smoothing(smoothing):
    assert np.all(at(1.05, smoothing) < 0.1 * START)


def test_minimum_temperature_is_the_formula():
    for one, two, lr, floor in settings():
        x = lr * (one + two)
        expected = 2 * (1 - floor) * x / (2 - x)
        found = minimum_temperature(lr, one + two, floor)
        assert found == pytest.approx(expected, rel=1e-12)
        # The factor on the curvature that it comes from.
        assert x * (1 + 2 * (1 - floor) / found) == pytest.approx(2.0)
    assert minimum_temperature(0.1, 20.0) == np.inf
    assert minimum_temperature(0.1, 5.0, floor=1.0) == 0.0
    for arguments in ((0.0, 1.0), (0.1, -1.0), (0.1, 1.0, 1.5), (0.1, 1.0, -0.1)):
        with pytest.raises(ValueError, match="must"):
            minimum_temperature(*arguments)


# ---------------------------------------------------------------------------
# 2. Noise
# ---------------------------------------------------------------------------


@functools.cache
def noisy_descent():
    """jit of: settings, noise (steps, 2) -> a_1 - a_2 by step, switches counted."""

    def one(temperature, smoothing, hysteresis, noise):
        tx = eagc(
            2,
            preset="article",
            scale="global",
            temperature=temperature,
            floor=0.0,
            smoothing=smoothing,
            hysteresis=hysteresis,
            warmup_steps=0,
        )

        def body(carry, noise):
            x, state = carry
            grads = jnp.stack([x - 1, x + 1]) + noise
            updates, state = tx.update(grads, state)
            gates = optax.tree.get(state, "gates")["params"].reshape(2)
            return (x - 0.1 * updates, state), gates[0] - gates[1]

        start = jnp.float32(0.0)
        (_, state), difference = jax.lax.scan(body, (start, tx.init(start)), noise)
        return difference, optax.tree.get(state, "switches")["params"]

    return jax.jit(jax.vmap(one, in_axes=(0, 0, 0, None)))


def test_smoothing_and_play_calm_a_gate_under_noise():
    # Instant; averaged; averaged with play; and at a temperature above the bound, 0.22.
    settings = np.asarray(
        [[0.1, 0.0, 0.0], [0.1, 0.9, 0.0], [0.1, 0.9, 0.5], [1.0, 0.9, 0.25]],
        np.float32,
    )
    noise = 0.2 * np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32)
    difference, switches = map(np.asarray, noisy_descent()(*settings.T, noise))
    every_100 = switches / 40  # 72, 31, 17, 0
    assert every_100[0] > 50
    assert every_100[1] < 0.6 * every_100[0]
    assert every_100[2] < 0.7 * every_100[1]
    assert every_100[3] == 0
    # An instant gate jumps from side to side; play trades fewer jumps for longer ones.
    spread = difference.std(axis=1)  # 1.81, 0.81, 1.10, 0
    assert spread[0] > 1.5
    assert spread[3] == 0.0
    assert spread[1] < spread[2] < 0.75 * spread[0]
    # The count of switches is that of the sign of a_1 - a_2, but for exact ties.
    signs = np.sign(difference)
    changes = np.sum(signs[:, 1:] * signs[:, :-1] < 0, axis=1)
    np.testing.assert_array_equal(switches, changes)


# ---------------------------------------------------------------------------
# 3. A loss that shouts
# ---------------------------------------------------------------------------

FLOOR = 0.2
STEPS = 400


@functools.cache
def attacked_training(scale, smoothing=0.9):
    """jit of: factors on loss 0 -> the victim's gates by step and block, as attacked.

    And what they would have been along the same path, had the loss not been multiplied.
    """
    # Twelve blocks; at some the one objective pulls more strongly, at some the other.
    rng = np.random.default_rng(0)
    curvature = np.exp(rng.normal(size=(2, 12, 1))).astype(np.float32)
    target = rng.normal(size=(2, 12, 8)).astype(np.float32)
    noise = 0.5 * rng.normal(size=(STEPS, 2, 12, 8)).astype(np.float32)
    coordinator = eagc(
        2,
        preset="article",
        scale=scale,
        floor=FLOOR,
        smoothing=smoothing,
        warmup_steps=0,
        granularity=lambda path, shape: (1,),
    )

    def run(factors, learning_rate):
        adam = optax.adam(learning_rate)

        def body(carry, inputs):
            x, attacked, calm, adam_state = carry
            factor, noise = inputs
            grads = curvature * (x - target) + noise
            _, calm = coordinator.update(grads, calm)
            grads = grads * jnp.stack([factor, 1.0])[:, None, None]
            updates, attacked = coordinator.update(grads, attacked)
            updates, adam_state = adam.update(updates, adam_state)
            gates = [
                optax.tree.get(s, "gates")["params"][1, :, 0] for s in (attacked, calm)
            ]
            return (optax.apply_updates(x, updates), attacked, calm, adam_state), gates

        x = jnp.zeros((12, 8))
        states = coordinator.init(x), coordinator.init(x), adam.init(x)
        return jax.lax.scan(body, (x, *states), (factors, noise))[1]

    return jax.jit(run)


def attack(kind):
    factors = np.ones(STEPS, np.float32)
    which = {
        "permanent": slice(None),
        "late": slice(200, None),
        "spikes": slice(9, None, 10),
    }
    factors[which[kind]] = 1000.0
    return factors


ATTACKS = ("permanent", "late", "spikes")


@pytest.mark.parametrize("kind", ATTACKS)
def test_a_loss_times_1000_takes_nothing_in_objective_scale(kind):
    # The energy is relative to the objective's own mean of the same step, in which the
    # factor cancels; what is left is rounding.
    train = attacked_training("objective")
    gates, calm = map(np.asarray, train(attack(kind), 1e-2))
    np.testing.assert_allclose(gates, calm, atol=1e-5)
    assert gates.min() >= FLOOR
    # The path does change: the loss that is followed is the one times 1000. What is left
    # of its gradient is noise, even over blocks, and the other's mean gate with it.
    assert 0.7 < gates.mean() < 1.06
    # Where the path does not depend on it the mean gate stays what it was, about 1.
    gates, calm = map(np.asarray, train(attack(kind), 0.0))
    np.testing.assert_allclose(gates, calm, atol=1e-5)
    assert 0.94 < gates.mean() < 1.06


@pytest.mark.parametrize("kind", ATTACKS)
def test_in_global_scale_it_takes_all_but_the_floor(kind):
    gates, calm = map(np.asarray, attacked_training("global")(attack(kind), 1e-2))
    assert gates.min() >= FLOOR * (1 - 1e-6)
    assert calm.mean() > 0.9
    if kind == "permanent":
        assert gates.max() < FLOOR + 0.01
    elif kind == "late":  # after the average has followed
        assert gates[-100:].max() < FLOOR + 0.01
    else:  # one step in ten: the average stays at a tenth of the logit
        assert gates.mean() < calm.mean()


@functools.cache
def one_block():
    """jit of: energies (steps, 2), options -> logits (steps, 2)."""

    def run(energies, options):
        tx = eagc(2, preset="article", scale="global", warmup_steps=0, **options)

        def body(state, energy):
            _, state = tx.update(jnp.sqrt(energy), state)
            return state, remembered(state[1], "params").logits

        return jax.lax.scan(body, tx.init(jnp.float32(0)), energies)[1]

    return jax.jit(run)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize("factor", [10.0, 1000.0])
def test_a_spike_moves_the_logit_by_the_logarithm_of_its_factor(factor, temperature):
    energies = np.ones((300, 2), np.float32)
    energies[250, 0] = factor**2
    options = {"temperature": temperature, "smoothing": 0.9, "slew": np.inf}
    logits = np.asarray(one_block()(energies, options))
    ratio = logits[:, 0] - logits[:, 1]
    bound = (1 - 0.9) * np.log(factor**2) / temperature
    assert ratio[249] == 0.0
    assert 0.98 * bound < ratio[250] <= bound * (1 + 1e-5)
    # It is forgotten at the rate of the average.
    np.testing.assert_allclose(ratio[260], ratio[250] * 0.9**10, rtol=1e-4)


def test_slew_bounds_what_one_step_of_an_attack_can_do():
    energies = np.ones((300, 2), np.float32)
    energies[100:, 0] = 1e6
    options = {"temperature": 0.1, "smoothing": 0.0, "slew": 0.25}
    logits = np.asarray(one_block()(energies, options))
    assert np.abs(np.diff(logits, axis=0)).max() <= 0.25 * (1 + 1e-5)
    np.testing.assert_allclose(logits[109, 0], 10 * 0.25, rtol=1e-5)
    np.testing.assert_array_equal(logits[:100], 0.0)
