"""From any weights to weights whose update conflicts with no objective."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax.aggregators._unit_rows import or_nan, product
from eagc_jax.aggregators._weighting import problem_of, unscale
from eagc_jax.solvers import nnqp


def ensure_nonconflict(
    gram: jax.typing.ArrayLike, weights: jax.typing.ArrayLike
) -> jax.Array:
    r"""Projects a weighted update on the cone of those that conflict with none.

    The nearest :math:`d` to :math:`J^\top w` with :math:`J d \ge 0`:
    :math:`w + x`, where :math:`x \ge 0` minimises
    :math:`\frac12 x^\top G x + w^\top G x`. Where there is no conflict, w itself. It is
    what ``certify=True`` does in every aggregator.

    Args:
      gram: ``(K, K)`` inner products of the gradients.
      weights: ``(K,)``, of any sign.

    Returns:
      ``(K,)``, nowhere less than ``weights``.

    Examples:
      >>> from eagc_jax import weightings
      >>> gram = [[4.0, -2.0], [-2.0, 2.0]]
      >>> weightings.ensure_nonconflict(gram, [0.0, 1.0]).round(4)
      Array([0.5, 1. ], dtype=float32)

    References:
      Quinton and Rey, `Jacobian Descent for Multi-Objective Optimization
      <https://arxiv.org/abs/2406.16232>`_, 2024, proposition 1.
    """
    parts = problem_of(gram).gram
    start = jnp.asarray(weights, parts.norms.dtype)
    slopes = product(parts.cosines, start * parts.norms)
    added, _ = nnqp(parts.cosines, -slopes)
    return or_nan(start + unscale(added, parts.norms), parts)
