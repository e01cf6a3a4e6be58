"""One step of a probe: how the objectives' raw gradients stand to each other."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax._trees import compute_dtype
from eagc_jax.diagnostics.layers import gradient_norms, pairwise_cosines
from eagc_jax.gram import cross_gram
from eagc_jax.objectives import expand_to
from eagc_jax.solvers.nnqp import nnqp
from eagc_jax.typing import PyTree, Updates

_PRECISION = jax.lax.Precision.HIGHEST


class Measured(NamedTuple):
    """One step. K objectives, L leaves."""

    losses: jax.Array  # (K,)
    norms: jax.Array  # (K,)
    cosines: jax.Array  # (K, K)
    progress: jax.Array  # (K,)
    balanced_progress: jax.Array  # (K,)
    attainable: jax.Array  # ()
    layer_norms: jax.Array  # (K, L)
    layer_cosines: jax.Array  # (K, K, L)
    cosines_across: jax.Array  # (K, K)
    progress_across: jax.Array  # (K,)


def measure(
    losses: jax.Array, gradients: Updates, last: PyTree
) -> tuple[Measured, PyTree]:
    """Measures one step.

    Args:
      losses: ``(K,)``.
      gradients: leaves ``(K, *shape)``.
      last: the unit gradients of the step before, leaves ``(K, *shape)``.

    Returns:
      What was measured, and this step's unit gradients in float32 at least.
    """
    lengths = gradient_norms(gradients).flat  # (K, L)
    within = pairwise_cosines(gradients).flat  # (K, K, L)
    unit = jnp.max(lengths, axis=1)
    share = lengths / nonzero(unit)[:, None]
    norms = unit * jnp.sqrt(jnp.sum(share * share, axis=1))
    share = lengths / nonzero(norms)[:, None]  # of the objective's length, by leaf
    cosines = jnp.sum(within * share[:, None] * share[None], axis=-1)
    units = jax.tree.map(lambda g: _over(g, nonzero(norms)), gradients)
    across = cross_gram(last, units).astype(norms.dtype)
    relative = norms / nonzero(jnp.max(norms))
    even = (norms > 0).astype(norms.dtype)
    measured = Measured(
        losses=losses,
        norms=norms,
        cosines=jnp.clip(cosines, -1.0, 1.0),
        progress=_along_sum(cosines, cosines, relative),
        balanced_progress=_along_sum(cosines, cosines, even),
        attainable=attainable(cosines),
        layer_norms=lengths,
        layer_cosines=within,
        cosines_across=across,
        progress_across=_along_sum(across, cosines, relative),
    )
    return measured, units


def attainable(cosines: jax.Array) -> jax.Array:
    """The norm of the shortest convex combination of vectors of length 1.

    Args:
      cosines: ``(K, K)`` of the vectors; those with a diagonal of 0 don't count.
    """
    live = (jnp.diagonal(cosines) > 0).astype(cosines.dtype)
    x, _ = nnqp(cosines + jnp.diag(1 - live), live)
    weights = x / nonzero(jnp.sum(x))
    square = weights @ jnp.matmul(cosines, weights, precision=_PRECISION)
    return jnp.sqrt(jnp.maximum(square, 0.0))


def nonzero(values: jax.Array) -> jax.Array:
    """The values, with 1 for those that are not above 0: to divide by."""
    return jnp.where(values > 0, values, 1.0)


def _over(leaf: jax.Array, lengths: jax.Array) -> jax.Array:
    """``(K, *shape)`` over ``(K,)``, in the leaf's dtype or float32 at least."""
    dtype = compute_dtype(leaf.dtype)
    return leaf.astype(dtype) / expand_to(lengths, leaf.ndim).astype(dtype)


def _along_sum(
    with_others: jax.Array, cosines: jax.Array, lengths: jax.Array
) -> jax.Array:
    """Cosine of each objective with the sum of all: ``(K,)``.

    Args:
      with_others: ``(K, K)``, cosines of the objective (row) with the summed ones.
      cosines: ``(K, K)``, among the summed ones.
      lengths: ``(K,)``, of these.
    """
    inner = jnp.matmul(with_others, lengths, precision=_PRECISION)
    square = lengths @ jnp.matmul(cosines, lengths, precision=_PRECISION)
    # A sum that cancels to rounding has no direction.
    rounding = 10 * jnp.finfo(lengths.dtype).eps * jnp.sum(lengths) ** 2
    usable = ~(square <= rounding)  # NaN stays NaN
    size = jnp.sqrt(jnp.where(usable, square, 1.0))
    return jnp.where(usable, jnp.clip(inner / size, -1.0, 1.0), 0.0)
