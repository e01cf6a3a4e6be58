"""Advantages of several rewards: oracles in loops, and what must not matter."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eagc_jax import aggregators, value_and_grads, weightings
from eagc_jax.rewards import (
    coordinated_advantages,
    decoupled_advantages,
    group_advantages,
    lagrangian,
    surrogate_losses,
)

K, PROMPTS, GROUP = 3, 4, 6
# A mean and a standard deviation of six float32 numbers of order 1.
CLOSE = {"rtol": 1e-5, "atol": 3e-6}
SETTINGS = {"deadline": None, "derandomize": True, "max_examples": 30, "database": None}


def rewards(seed=0):
    """Three rewards of unlike units, one group of which says nothing."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=(K, PROMPTS, GROUP)) * np.array([1, 30, 0.1])[:, None, None]
    found[0, 1] = 0.1
    found[2] = found[2] > 0
    return found.astype(np.float32)


compiled = {
    "decoupled": jax.jit(
        decoupled_advantages, static_argnames=("preference", "normalize_batch")
    ),
    "group": jax.jit(group_advantages),
    "coordinated": jax.jit(
        coordinated_advantages, static_argnums=1, static_argnames="per"
    ),
}


def grpo_oracle(groups, eps=0.0):
    out = np.zeros(groups.shape)
    for index in np.ndindex(groups.shape[:-1]):
        r = np.float64(groups[index])
        if np.ptp(r):
            out[index] = (r - r.mean()) / (r.std() + eps)
    return out


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_grpo_is_its_equations(eps):
    found = compiled["group"](rewards(), eps=eps)
    np.testing.assert_allclose(found, grpo_oracle(rewards(), eps), **CLOSE)
    assert np.all(found[0, 1] == 0)
    centred = rewards() - rewards().mean(-1, keepdims=True)
    plain = group_advantages(rewards(), normalize=False)
    np.testing.assert_allclose(plain, centred, rtol=1e-5, atol=3e-5)


@pytest.mark.parametrize("preference", [None, (1.0, 0.5, 2.0)])
@pytest.mark.parametrize("batch", [True, False])
def test_gdpo_is_its_equations(preference, batch):
    # As it is by default, not compiled.
    call = (
        decoupled_advantages if batch and preference is None else compiled["decoupled"]
    )
    found = call(rewards(), preference=preference, normalize_batch=batch)
    u = np.ones(K) if preference is None else np.array(preference)
    total = np.tensordot(u, grpo_oracle(rewards()), 1)
    if batch:
        total = (total - total.mean()) / total.std()
    np.testing.assert_allclose(found, total, **CLOSE)


def test_one_reward_is_grpo():
    one = rewards()[1:2]
    expected = compiled["group"](one[0])
    found = compiled["decoupled"](one, normalize_batch=False)
    np.testing.assert_array_equal(found, expected)
    # Every group differs here: the batch has mean 0 and deviation 1 already.
    np.testing.assert_allclose(compiled["decoupled"](one), expected, **CLOSE)


def test_the_batch_makes_up_for_groups_that_say_nothing():
    one = rewards()[:1]  # one of four groups is constant
    expected = compiled["group"](one[0]) / np.sqrt(3 / 4)
    np.testing.assert_allclose(compiled["decoupled"](one), expected, **CLOSE)


numbers = st.floats(-4, 4, width=32, allow_nan=False, allow_subnormal=False)
groups = hnp.arrays(np.float32, (K, 2, GROUP), elements=numbers)


@hypothesis.settings(**SETTINGS)
@hypothesis.given(groups, st.integers(-20, 20))
def test_no_rewards_scale_matters(given, power):
    scale = np.float32(2.0) ** np.array([power, 0, -power], np.float32)[:, None, None]
    one, other = compiled["decoupled"](given), compiled["decoupled"](scale * given)
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@hypothesis.settings(**SETTINGS)
@hypothesis.given(groups.map(np.round), st.integers(-64, 64))
def test_no_rewards_shift_matters(given, shift):
    """Of whole numbers, whose sums are exact."""
    one = compiled["group"](given)
    np.testing.assert_allclose(one, compiled["group"](given + shift), **CLOSE)


@hypothesis.settings(**SETTINGS)
@hypothesis.given(groups, st.permutations(range(GROUP)))
def test_answers_may_come_in_any_order(given, order):
    moved = compiled["group"](given[..., order])
    np.testing.assert_allclose(compiled["group"](given)[..., order], moved, **CLOSE)


@hypothesis.settings(**SETTINGS)
@hypothesis.given(hnp.arrays(np.float32, (K, 2, 1), elements=numbers))
def test_groups_without_spread_say_exactly_nothing(value):
    same = np.broadcast_to(value, (K, 2, GROUP))
    assert np.all(compiled["group"](same) == 0)
    assert np.all(compiled["decoupled"](same) == 0)


def test_rewards_of_any_size_and_type():
    huge, group = np.float32([1e30, 3e30, -1e30]), compiled["group"]
    expected = grpo_oracle(np.array([1.0, 3.0, -1.0]))
    np.testing.assert_allclose(group(huge), expected, atol=1e-6)
    assert group(np.ones(3, jnp.bfloat16)).dtype == jnp.float32
    with jax.enable_x64(True):
        assert group(np.arange(3.0)).dtype == jnp.float64


# --- conflict -----------------------------------------------------------------------


@pytest.mark.parametrize("per", ["batch", "prompt"])
def test_coordinated_advantages_raise_every_reward(per):
    values = np.array(compiled["group"](rewards()))
    values[1] = np.float32(0.3) * values[1] - values[0]  # in conflict
    found, weights = compiled["coordinated"](values, weightings.upgrad, per=per)
    axes = "kpg,pg->k" if per == "batch" else "kpg,pg->kp"
    products = np.einsum(axes, np.float64(values), np.float64(found))
    assert products.min() > -1e-5
    assert weights.shape == ((K,) if per == "batch" else (K, PROMPTS))
    plain = np.einsum("kpg,pg->k", values, values.sum(0))
    assert plain.min() < 0  # the sum lowers one


def test_coordinated_advantages_per_prompt_are_those_of_each():
    values, coordinated = (
        np.asarray(compiled["group"](rewards())),
        compiled["coordinated"],
    )
    found, weights = jax.device_get(coordinated(values, weightings.mgda, per="prompt"))
    for prompt in range(PROMPTS):
        one, w = coordinated(values[:, prompt], weightings.mgda)
        np.testing.assert_allclose(found[prompt], one, **CLOSE)
        np.testing.assert_allclose(weights[:, prompt], w, **CLOSE)


def test_coordinated_advantages_without_jit():
    values = np.asarray(compiled["group"](rewards()))
    found, weights = coordinated_advantages(values, weightings.mean)
    np.testing.assert_allclose(found, values.mean(0), **CLOSE)
    np.testing.assert_allclose(weights, np.full(K, 1 / K), rtol=1e-6)


def test_it_is_the_aggregator_where_scores_are_orthogonal():
    """A policy with one free log probability an answer: its scores are unit vectors."""
    values = compiled["group"](rewards())
    logits = np.zeros((PROMPTS, GROUP), np.float32)
    tx = aggregators.upgrad(K)

    @jax.jit
    def step(logits):
        losses_fn = value_and_grads(lambda x: surrogate_losses(x, values, clip=None))
        return tx.update(losses_fn(logits)[1], tx.init(logits))[0]

    update = step(logits)
    found, _ = compiled["coordinated"](values, weightings.upgrad)
    np.testing.assert_allclose(update, -found / logits.size, rtol=1e-4, atol=1e-6)


def test_surrogate_losses_are_ppos():
    rng = np.random.default_rng(1)
    new, old = rng.normal(size=(2, PROMPTS, GROUP)) / 4
    values = rng.normal(size=(K, PROMPTS, GROUP))
    new, old, values = np.float32(new), np.float32(old), np.float32(values)
    found = surrogate_losses(new, values, old_log_probs=old, clip=0.2)
    ratio = np.exp(new - old)
    gains = np.minimum(ratio * values, np.clip(ratio, 0.8, 1.2) * values)
    assert np.any(gains != ratio * values)
    np.testing.assert_allclose(found, -gains.mean((1, 2)), rtol=1e-4, atol=1e-6)


# --- constraints --------------------------------------------------------------------


def test_the_lagrangian_is_its_equations():
    levels = [None, 0.5, 1.0]
    constrained = lagrangian(
        K, levels, learning_rate=0.3, max_multiplier=0.6, proportional=0.2
    )
    update, state, multipliers = jax.jit(constrained.update), constrained.init(), 0
    for seed in range(5):
        given = rewards(seed)
        weights, state = update(given, state)
        missing = np.array([0.5, 1.0]) - np.float64(given[1:]).mean((1, 2))
        multipliers = np.clip(multipliers + 0.3 * missing, 0, 0.6)
        v = np.append(1.0, np.maximum(multipliers + 0.2 * missing, 0))
        np.testing.assert_allclose(state.multipliers[1:], multipliers, **CLOSE)
        np.testing.assert_allclose(weights, v / v.sum(), **CLOSE)


def test_multipliers_settle_where_the_constraint_holds():
    """Maximise -x^2 in x with x >= 1: the multiplier is 2, the weights 1/3 and 2/3."""
    constrained = lagrangian(2, [None, 1.0], learning_rate=0.05)

    def step(carry, _):
        x, state = carry
        weights, state = constrained.update(jnp.stack([-(x**2), x])[:, None], state)
        slope = weights[0] * -2 * x + weights[1]
        return (x + 0.05 * slope, state), None

    @jax.jit
    def settled():
        return jax.lax.scan(step, (0.0, constrained.init()), length=3000)[0]

    x, state = settled()
    np.testing.assert_allclose(x, 1.0, atol=1e-3)
    np.testing.assert_allclose(state.multipliers, [0, 2], atol=5e-3)


def test_a_batch_that_is_not_finite_moves_no_multiplier():
    constrained = lagrangian(2, [None, 1.0])
    zeros = np.zeros((2, 3), np.float32)
    _, state = constrained.update(zeros, constrained.init())
    weights, after = constrained.update(zeros + np.nan, state)
    np.testing.assert_array_equal(after.multipliers, state.multipliers)
    assert np.all(np.isfinite(weights))


# --- arguments ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: group_advantages(np.array(1.0)), "the group last"),
        (lambda: group_advantages(np.arange(3)), "floating point"),
        (lambda: group_advantages(np.ones(3), eps=-1.0), "eps must be"),
        (lambda: decoupled_advantages(np.ones(3)), r"\(K, \.\.\., group\)"),
        (
            lambda: decoupled_advantages(np.ones((2, 3)), preference=(1.0,)),
            "preference must have one entry",
        ),
        (
            lambda: coordinated_advantages(np.ones((2, 3)), weightings.mgda, per="x"),
            "per must be one of",
        ),
        (
            lambda: coordinated_advantages(np.ones((2, 3)), lambda gram: gram),
            "real weights of shape",
        ),
        (
            lambda: surrogate_losses(np.ones(4), np.ones((2, 3))),
            "shape of one reward's",
        ),
        (
            lambda: surrogate_losses(np.ones(3), np.ones((2, 3)), clip=2.0),
            "clip must lie",
        ),
        (lambda: lagrangian(2, [1.0, 1.0]), "None for a reward without"),
        (lambda: lagrangian(2, [None]), "levels must be 2 numbers"),
        (lambda: lagrangian(2, [None, np.inf]), "levels must be finite"),
        (
            lambda: lagrangian(2, [None, 1.0], preference=(0.0, 1.0)),
            "at least one reward without a level",
        ),
        (
            lambda: lagrangian(2, [None, 1.0], learning_rate=0.0),
            "learning_rate must be",
        ),
        (
            lambda: lagrangian(2, [None, 1.0], proportional=-1.0),
            "proportional must be",
        ),
        (
            lambda: lagrangian(2, [None, 1.0]).update(
                np.ones((3, 2)), lagrangian(2, [None, 1.0]).init()
            ),
            "must be of 2 kinds",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
