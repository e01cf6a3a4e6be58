"""The mean of the gradients: the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import optax

from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._weighting import Problem, problem_of, stateless


@shows_options
def mean(
    num_objectives: int, **options: Unpack[GramOptions]
) -> optax.GradientTransformationExtraArgs:
    r"""The preference-weighted mean :math:`d = \sum_k u_k g_k`, u normalised to sum 1.

    The baseline among aggregators, with all their options. No guarantee but descent on
    the mean itself. Length: "mean". It doesn't need its Gram matrix; without
    ``active_mask`` and the other options, ``eagc_jax.sum_objectives`` is cheaper.

    Args:
      num_objectives: K, a Python int.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; ``preference`` is u.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import mean
      >>> tx = mean(2, preference=(3.0, 1.0))
      >>> grads = {"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}
      >>> tx.update(grads, tx.init({"w": jnp.zeros(2)}))[0]["w"]
      Array([0.75, 0.25], dtype=float32)
    """
    return from_weighting(
        num_objectives, stateless("mean", "mean", _solve, needs_gram=False), **options
    )


def mean_weights(
    gram: jax.typing.ArrayLike,
    *,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """The preference, normalised to sum 1; of the Gram matrix only K matters."""
    return _solve(problem_of(gram, preference))


def _solve(problem: Problem) -> jax.Array:
    return problem.preference
