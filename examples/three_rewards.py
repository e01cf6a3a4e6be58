"""A policy with three rewards in conflict: added up, decoupled, and with levels.

    python -m examples.three_rewards

The policy writes six symbols to each of eight prompts; its logits are a table. Rewards:

- ``right``, 0 to 10: how many symbols are the prompt's own;
- ``short``, 0 to 1: the share of blanks, which are never right;
- ``ended``, 0 or 1: whether the last symbol is a blank.

Learned by policy gradients from groups of answers, with four ways to make one advantage
of three rewards. Added up, as GRPO would (``sum``), ``right`` has the largest unit and
decides alone. With each reward normalised in its group (``decoupled``, GDPO) units don't
matter, and answers end as they should. ``coordinated`` does the same with weights under
which, to first order, no reward falls. ``levels`` asks for half of the symbols blank, for
an end in nine of ten answers, and for as many right ones as that leaves: half of them.

The program prints the mean rewards and asserts these claims.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from eagc_jax import weightings
from eagc_jax.rewards import (
    coordinated_advantages,
    decoupled_advantages,
    group_advantages,
    lagrangian,
)

PROMPTS, LENGTH, SYMBOLS, GROUP, STEPS = 8, 6, 5, 32, 600
NAMES = ("right", "short", "ended")
OWN = jax.random.randint(jax.random.key(7), (PROMPTS, LENGTH), 1, SYMBOLS)
CONSTRAINED = lagrangian(3, [None, 0.5, 0.9], learning_rate=0.05, proportional=5.0)

# (rewards (K, prompts, group), state) -> (advantages (prompts, group), state).
Advantages = Callable[[jax.Array, Any], tuple[jax.Array, Any]]


def rewards_of(answers: jax.Array) -> jax.Array:
    """Three rewards of answers ``(prompts, group, length)``; symbol 0 is the blank."""
    blank = answers == 0
    right = 10 * jnp.mean(answers == OWN[:, None], axis=-1)
    return jnp.stack(
        [right, jnp.mean(blank, axis=-1), blank[..., -1].astype(jnp.float32)]
    )


def by_sum(rewards: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    """GRPO on the sum of the rewards."""
    return group_advantages(jnp.sum(rewards, axis=0)), state


def by_decoupling(rewards: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    """GDPO."""
    return decoupled_advantages(rewards), state


def by_coordination(rewards: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    """UPGrad's weights of the normalised advantages."""
    both, _ = coordinated_advantages(group_advantages(rewards), weightings.upgrad)
    return group_advantages(both), state


def by_levels(rewards: jax.Array, state: Any) -> tuple[jax.Array, Any]:
    """GDPO with Lagrange multipliers for a preference."""
    weights, state = CONSTRAINED.update(rewards, state)
    return decoupled_advantages(rewards, preference=weights), state


METHODS: dict[str, tuple[Advantages, Any]] = {
    "sum": (by_sum, ()),
    "decoupled": (by_decoupling, ()),
    "coordinated": (by_coordination, ()),
    "levels": (by_levels, CONSTRAINED.init()),
}


def train(advantages_of: Advantages, state: Any) -> jax.Array:
    """The mean rewards in each step, ``(STEPS, 3)``."""
    optimizer = optax.adam(0.03)
    logits = jnp.zeros((PROMPTS, LENGTH, SYMBOLS))

    def step(carry, key):
        logits, moments, state = carry
        shape = (GROUP, PROMPTS, LENGTH)
        answers = jax.random.categorical(key, logits, shape=shape).swapaxes(0, 1)
        rewards = rewards_of(answers)
        advantages, state = advantages_of(rewards, state)

        def loss(logits):
            table = jax.nn.log_softmax(logits)[:, None]
            chosen = jnp.take_along_axis(table, answers[..., None], axis=-1)[..., 0]
            return -jnp.mean(advantages * jnp.sum(chosen, axis=-1))

        update, moments = optimizer.update(jax.grad(loss)(logits), moments)
        logits = optax.apply_updates(logits, update)
        return (logits, moments, state), jnp.mean(rewards, axis=(1, 2))

    start = logits, optimizer.init(logits), state
    _, history = jax.lax.scan(step, start, jax.random.split(jax.random.key(0), STEPS))
    return history


def main() -> dict[str, dict[str, float]]:
    """Trains with every method, prints the rewards of the last steps, checks claims."""
    found = {}
    print(f"{'':12s}" + "".join(f"{name:>8s}" for name in NAMES))
    for name, (advantages_of, state) in METHODS.items():
        history = jax.jit(train, static_argnums=0)(advantages_of, state)
        last = jnp.mean(history[-100:], axis=0)
        found[name] = dict(zip(NAMES, map(float, last), strict=True))
        print(f"{name:12s}" + "".join(f"{value:8.2f}" for value in last))
    assert found["sum"]["ended"] < 0.1, "the largest unit decides alone"
    assert found["decoupled"]["ended"] > 0.9, "normalised, it doesn't"
    assert found["coordinated"]["ended"] > 0.9, "nor with weights"
    levels = found["levels"]
    assert levels["short"] > 0.45, levels
    assert levels["ended"] > 0.85, levels
    assert levels["right"] > 4.5, levels  # 5 is what the level of blanks leaves
    return found


if __name__ == "__main__":
    main()
