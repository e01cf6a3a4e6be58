"""The update's length; weights added so that it, or a whole step, raises no loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax.aggregators._base.options import Rescale
from eagc_jax.aggregators._weighting import Convention, Problem, unscale
from eagc_jax.gram import Gram
from eagc_jax.solvers.entrywise import dot, matvec
from eagc_jax.solvers.nnqp import nnqp

# Weights added for the rest of a step, of unit gradients, relative to the largest before.
CAP = 100.0


def rescaled(
    weights: jax.Array, problem: Problem, rescale: Rescale, convention: Convention
) -> jax.Array:
    """Weights of the asked length from those of the method's own convention."""
    if rescale == "native":
        return weights
    number = jnp.sum(problem.active, dtype=jnp.int32).astype(weights.dtype)
    if rescale != "norm_of_mean" and convention != "unit":
        if (convention == "sum") == (rescale == "sum"):
            return weights
        return weights * (number if rescale == "sum" else 1 / jnp.maximum(number, 1))
    length = _length(weights, problem.gram)
    target = _length(problem.preference, problem.gram)
    # What is left where gradients cancel is rounding, and has no direction.
    size = jnp.sum(jnp.abs(weights) * problem.gram.norms)
    tiny = 4 * float(jnp.finfo(weights.dtype).eps) ** 0.5
    factor = jnp.where(length > tiny * size, target / length, 1.0)
    return weights * factor * (number if rescale == "sum" else 1.0)


def _length(weights: jax.Array, gram: Gram) -> jax.Array:
    """The norm of the weighted sum, over the scale."""
    scaled = weights * gram.norms
    product = matvec(gram.cosines, scaled)
    return jnp.sqrt(jnp.maximum(dot(scaled, product), 0.0))


def certified(weights: jax.Array, gram: Gram) -> tuple[jax.Array, jax.Array]:
    """Weights whose update conflicts with no objective, and whether they are others."""
    scaled = weights * gram.norms
    slopes = matvec(gram.cosines, scaled)
    eps = float(jnp.finfo(weights.dtype).eps)
    allowed = 4 * eps * jnp.sum(jnp.abs(scaled))
    conflicts = jnp.any((slopes < -allowed) & (gram.norms > 0))
    added, _ = nnqp(gram.cosines, jnp.where(conflicts, -slopes, 0.0))
    return weights + unscale(added, gram.norms), conflicts


def cleared(
    weights: jax.Array, gram: Gram, rest: jax.Array
) -> tuple[jax.Array, jax.Array]:
    r"""The least weights added so that a step with a rest conflicts with no objective.

    The step goes along :math:`r + \sum_k w_k g_k`, in the metric of the Gram matrix H.
    With :math:`c_k = \langle g_k, r \rangle` the added weights are
    :math:`\arg\min_{x \ge 0} \frac12 x^\top H x + x^\top (H w + c)`, solved for unit
    gradients. Each is at most ``CAP`` times the largest of w, of unit gradients too.

    Args:
      weights: w, ``(K,)``.
      gram: of one block.
      rest: ``(K,)``, products of unit gradients with r, over the Gram's scale.

    Returns:
      Weights ``(K,)``, nowhere less; whether one was capped, and a conflict may be left.
    """
    scaled = weights * gram.norms
    slopes = matvec(gram.cosines, scaled) + rest
    added, _ = nnqp(gram.cosines, jnp.where(gram.norms > 0, -slopes, 0.0))
    most = CAP * jnp.max(jnp.abs(scaled))
    capped = added > most
    added = jnp.where(capped, most, added)
    return weights + unscale(added, gram.norms), jnp.any(capped)
