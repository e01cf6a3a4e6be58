"""Weighted sums over the objective axis, and gates on it: each entry by entry.

One definition for every platform, which moves nothing of a sharded leaf. Rows are scaled
one by one, not the leaf as a whole: a product that several slices are taken of is written
out by the TPU's compiler, K copies of the parameters, before they are added; products of
slices are fused with their sum and with the optimizer behind it, here as on CPU and GPU.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax._trees import compute_dtype
from eagc_jax.objectives import expand_to, stack_by_row, sum_by_row


def weighted_leaf(leaf: jax.Array, weights: jax.Array, keep: jax.Array) -> jax.Array:
    """``sum_k weights[k] leaf[k]`` of ``(K, *shape)``, in the leaf's dtype.

    Args:
      leaf: ``(K, *shape)``.
      weights: ``(K,)``.
      keep: ``(K,)`` bool: the others may hold NaN and count as zeros.

    Returns:
      ``(*shape)``.
    """
    return _kept_sum(leaf, expand_to(weights, leaf.ndim), keep)


def weighted_blocks(leaf: jax.Array, factors: jax.Array, keep: jax.Array) -> jax.Array:
    """The same with weights of every block, ``(K, *block)``, that broadcast."""
    return _kept_sum(leaf, materialized(factors), keep)


def _kept_sum(leaf: jax.Array, factors: jax.Array, keep: jax.Array) -> jax.Array:
    def term(row, factor, kept):
        return _times(jnp.where(kept, row, jnp.zeros((), row.dtype)), factor)

    found = sum_by_row(term, leaf, factors, expand_to(keep, leaf.ndim))
    return found.astype(leaf.dtype)


def rescaled(leaf: jax.Array, gate: jax.Array) -> jax.Array:
    """``leaf[k] * gate[k]``, both ``(K, ...)`` that broadcast, in the leaf's dtype."""

    def product(row, by):
        return _times(row, by).astype(row.dtype)

    return stack_by_row(product, leaf, gate)


def _times(row: jax.Array, by: jax.Array) -> jax.Array:
    wide = compute_dtype(row.dtype)
    return row.astype(wide) * by.astype(wide)


def materialized(values: jax.Array, factor: jax.Array | float = 1.0) -> jax.Array:
    """``values * factor`` (1 or NaN), computed once per block.

    XLA fuses cheap arithmetic into whatever reads it: the whole gate would be computed
    again for every entry of a block. On TPU a barrier prevents it; on CPU, where barriers
    don't, a remainder does, which XLA holds too expensive to repeat; that of a number far
    below the divisor is the number.
    """
    factor = jnp.asarray(factor, values.dtype)

    def remainder(values, factor):
        divisor = jnp.broadcast_to(1e30 * factor, values.shape)
        return jax.lax.rem(values, divisor.astype(values.dtype))

    def barrier(values, factor):
        return jax.lax.optimization_barrier(values * factor)

    return jax.lax.platform_dependent(values, factor, tpu=barrier, default=remainder)
