"""Rewards with levels to be reached: Lagrange multipliers as a small pure state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._checks import (
    NONNEGATIVE,
    POSITIVE,
    check_num_objectives,
    check_number,
    check_preference,
    concrete,
)
from eagc_jax.rewards.advantages import checked


class LagrangianState(NamedTuple):
    """The multipliers."""

    multipliers: jax.Array  # shape=(K,), float32, >= 0; 0 of rewards without a level.


class Lagrangian(NamedTuple):
    """Two pure functions."""

    init: Callable[[], LagrangianState]
    # (rewards (K, ..., group), state) -> (weights (K,), new state).
    update: Callable[
        [jax.typing.ArrayLike, LagrangianState], tuple[jax.Array, LagrangianState]
    ]


def lagrangian(
    num_rewards: int,
    levels: Sequence[float | None],
    *,
    learning_rate: float = 0.1,
    proportional: float = 0.0,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
    max_multiplier: float | None = None,
) -> Lagrangian:
    r"""Weights of K rewards, some of which must reach a level in the mean.

    Maximises :math:`\sum_{k\in O} u_k\,E[r_k]` subject to :math:`E[r_k]\ge b_k` for the
    rewards C with a level, by ascent in the policy and descent in the multipliers:

    .. math:: \lambda_k \leftarrow \max\big(0,\; \lambda_k +
        \eta\,(b_k - \mathrm{mean}(r_k))\big), \quad k \in C, \qquad
        w_k = \frac{v_k}{\sum_j v_j}, \quad
        v_k = \begin{cases} u_k & k \in O \\
        \max(0, \lambda_k + \kappa\,(b_k - \mathrm{mean}(r_k))) & k \in C.
        \end{cases}

    Multipliers alone swing around their level, the more so the faster the policy learns:
    :math:`\kappa>0` damps that. The division keeps the update's length where multipliers
    grow. A met constraint costs nothing; one that can't be met takes over, unless
    ``max_multiplier`` ends that. The weights are a ``preference`` for
    :func:`eagc_jax.rewards.decoupled_advantages`, whose advantages have no unit;
    :math:`\eta` has that of an inverse reward.

    Args:
      num_rewards: K, a Python int.
      levels: K numbers b, in the rewards' units; None for a reward without a level. At
        least one reward must have none.
      learning_rate: :math:`\eta` > 0.
      proportional: :math:`\kappa` >= 0, in the unit of an inverse reward; 0 as published
        in the first reference.
      preference: u, K numbers >= 0, those of C ignored; None for ones.
      max_multiplier: a bound on the multipliers, > 0; None for none.

    Returns:
      A :class:`Lagrangian`: ``init()``, and ``update(rewards, state)``, which moves the
      multipliers by this batch and gives the weights ``(K,)``, which sum to 1. A batch
      whose mean isn't finite moves nothing. Over several devices, average the means of
      rewards first: pass ``jax.lax.pmean`` of them, ``(K, 1)``.

    Raises:
      ValueError: bad arguments (at once); rewards that aren't ``(K, ..., group)``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.rewards import lagrangian
      >>> constrained = lagrangian(2, [None, 0.9], learning_rate=1.0)
      >>> rewards = jnp.array([[0.2, 0.8], [0.0, 0.3]])
      >>> weights, state = constrained.update(rewards, constrained.init())
      >>> [round(float(w), 2) for w in weights]  # the second is 0.75 below its level
      [0.57, 0.43]

    References:
      Tessler, Mankowitz and Mannor, `Reward Constrained Policy Optimization
      <https://arxiv.org/abs/1805.11074>`_, 2018; the division and :math:`\kappa` as in
      Stooke, Achiam and Abbeel, `Responsive Safety in Reinforcement Learning by PID
      Lagrangian Methods
      <https://arxiv.org/abs/2007.03964>`_, 2020.
    """
    number = check_num_objectives(num_rewards)
    bound, has_level = _levels(levels, number)
    check_number("learning_rate", learning_rate, POSITIVE)
    check_number("proportional", proportional, NONNEGATIVE)
    if max_multiplier is not None:
        check_number("max_multiplier", max_multiplier, POSITIVE)
    wishes = jnp.where(has_level, 0.0, check_preference(preference, number))
    known = concrete(preference)
    if known is not None and not np.any(known[~has_level] > 0):
        raise ValueError(
            "preference must be > 0 for at least one reward without a level, got "
            f"{preference!r}."
        )

    def init() -> LagrangianState:
        return LagrangianState(jnp.zeros((number,), jnp.float32))

    def update(
        rewards: jax.typing.ArrayLike, state: LagrangianState
    ) -> tuple[jax.Array, LagrangianState]:
        values = checked(rewards, 2)
        if values.shape[0] != number:
            raise ValueError(
                f"rewards must be of {number} kinds, ({number}, ..., group); got shape "
                f"{values.shape}."
            )
        means = jnp.mean(values, axis=tuple(range(1, values.ndim)))
        missing = (jnp.asarray(bound) - means).astype(jnp.float32)
        moves = has_level & jnp.isfinite(missing)
        moved = state.multipliers + learning_rate * jnp.where(moves, missing, 0.0)
        moved = jnp.clip(moved, 0.0, max_multiplier)
        moved = jnp.where(moves, moved, state.multipliers)
        now = jnp.maximum(moved + proportional * jnp.where(moves, missing, 0.0), 0.0)
        values = jnp.where(has_level, now, wishes)
        return values / jnp.sum(values), LagrangianState(moved)

    return Lagrangian(init, update)


def _levels(
    levels: Sequence[float | None], number: int
) -> tuple[np.ndarray, np.ndarray]:
    """Levels as float32, 0 where there is none, and who has one."""
    given = list(levels)
    has_level = np.array([level is not None for level in given], bool)
    if len(given) != number or has_level.all():
        raise ValueError(
            f"levels must be {number} numbers, None for a reward without one, of which "
            f"there must be at least one; got {levels!r}."
        )
    numbers = np.array([0.0 if level is None else level for level in given], np.float32)
    if not np.all(np.isfinite(numbers)):
        raise ValueError(
            f"levels must be finite, got {levels!r}; None is for no level."
        )
    return numbers, has_level
