"""Random weighting: a baseline that doesn't look at the gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._unit_rows import or_nan
from eagc_jax.aggregators._weighting import Problem, problem_of, share, stateless


@shows_options
def random_weighting(
    num_objectives: int, **options: Unpack[GramOptions]
) -> optax.GradientTransformationExtraArgs:
    r"""Weights drawn afresh at every step: the softmax of normal noise.

    :math:`d = \sum_k w_k g_k`, :math:`w = \mathrm{softmax}(z + \log K u)`,
    :math:`z \sim N(0, I)`. On all gradients, those of heads included, this is random
    loss weighting (RLW); on the shared parameters alone (``optax.partition``) it is
    random gradient weighting (RGW).

    Guarantee: none at a step; with equal preferences the expected update is the mean. A
    baseline that a method has to beat. Length: "convex". Cost: one Gram pass (for the
    non-finite policy), one weighted sum.

    Args:
      num_objectives: K, a Python int.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; ``seed`` is of the
        noise, ``preference`` is u.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import random_weighting
      >>> tx = random_weighting(2, seed=0)
      >>> grads = {"w": jnp.array([[1.0, 1.0], [3.0, 3.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> bool(jnp.all((update["w"] > 1) & (update["w"] < 3)))
      True

    References:
      Lin et al., `Reasonable Effectiveness of Random Weighting
      <https://arxiv.org/abs/2111.10603>`_, 2022, section 3.
    """
    method = stateless(
        "random_weighting", "convex", _solve, random=True, needs_gram=False
    )
    return from_weighting(num_objectives, method, **options)


def random_weighting_weights(
    gram: jax.typing.ArrayLike,
    *,
    key: jax.Array,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Random weights ``(K,)``: see :func:`random_weighting`.

    Args:
      gram: ``(K, K)``: only its size matters, and whether it is finite.
      key: a PRNG key, a fresh one at every call.
      preference: K numbers >= 0, or None.

    Returns:
      ``(K,)``.
    """
    return _solve(problem_of(gram, preference, key))


def _solve(problem: Problem) -> jax.Array:
    assert problem.key is not None
    norms = problem.gram.norms
    noise = jax.random.normal(problem.key, norms.shape, norms.dtype)
    weights = share(problem.preference * jnp.exp(noise), problem.active)
    return or_nan(weights, problem.gram)
