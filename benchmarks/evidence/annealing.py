"""The learning-rate annealing of Wang, Teng and Perdikaris as loss weights."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AnnealingState(NamedTuple):
    """What is remembered between steps."""

    weights: jax.Array  # shape=(K,), float32: of the last step; 1 for the leader.


def learning_rate_annealing(
    number: int, *, leader: int = 0, decay: float = 0.9, largest: float = 1e6
) -> optax.GradientTransformationExtraArgs:
    r"""Brings every gradient's mean size to the largest entry of one of them.

    With the leader r, the residual of an equation in the paper, and over all parameters

    .. math:: \hat\lambda_k = \frac{\max |\nabla L_r|}{\mathrm{mean}\,|\nabla L_k|},
              \qquad \lambda_k \leftarrow \beta\lambda_k + (1-\beta)\hat\lambda_k,

    and the update is :math:`g_r + \sum_{k\ne r}\lambda_k g_k`. Published: every ten
    steps, :math:`\beta = 0.9`; here in each step, where the K gradients are at hand.

    Args:
      number: K.
      leader: the objective whose weight stays 1.
      decay: :math:`\beta`.
      largest: a bound on the weights, for gradients that vanish.

    References:
      Wang, Teng and Perdikaris, "Understanding and mitigating gradient pathologies in
      physics-informed neural networks", 2020, https://arxiv.org/abs/2001.04536,
      algorithm 1.
    """

    def init_fn(params: Any) -> AnnealingState:
        del params
        return AnnealingState(jnp.ones((number,), jnp.float32))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        leaves = jax.tree.leaves(updates)
        size = sum(leaf[0].size for leaf in leaves)
        means = sum(
            jnp.sum(jnp.abs(leaf), axis=tuple(range(1, leaf.ndim))) for leaf in leaves
        )
        top = jnp.stack([jnp.max(jnp.abs(leaf[leader])) for leaf in leaves]).max()
        # Where the leader's gradient is zero too, its bound keeps 0 / 0 out.
        aims = jnp.minimum(top / jnp.maximum(means / size, 1e-30), largest)
        weights = decay * state.weights + (1 - decay) * aims
        weights = weights.at[leader].set(1.0)
        update = jax.tree.map(lambda leaf: jnp.tensordot(weights, leaf, 1), updates)
        return update, AnnealingState(weights)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
