"""Weighted sums over the objective axis, and gates on it: each entry by entry.

One definition for every platform: XLA fuses them into one pass that reads each leaf once,
at the memory's speed on CPU and GPU, and moves nothing of a sharded leaf.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax.objectives import (
    compute_dtype,
    expand_to,
    reduce_objectives,
    weighted_sum,
)


def kept_rows(leaf: jax.Array, keep: jax.Array) -> jax.Array:
    """``(K, *shape)`` with zeros for objectives that don't count, NaN or not."""
    return jnp.where(expand_to(keep, leaf.ndim), leaf, jnp.zeros((), leaf.dtype))


def weighted_leaf(leaf: jax.Array, weights: jax.Array, keep: jax.Array) -> jax.Array:
    """``sum_k weights[k] leaf[k]`` of ``(K, *shape)``, in the leaf's dtype.

    Args:
      leaf: ``(K, *shape)``.
      weights: ``(K,)``.
      keep: ``(K,)`` bool: the others may hold NaN and count as zeros.

    Returns:
      ``(*shape)``.
    """
    return weighted_sum(kept_rows(leaf, keep), weights).astype(leaf.dtype)


def weighted_blocks(leaf: jax.Array, factors: jax.Array, keep: jax.Array) -> jax.Array:
    """The same with weights of every block, ``(K, *block)``, that broadcast."""
    leaf = kept_rows(leaf, keep)
    wide = compute_dtype(leaf.dtype)
    factors = materialized(factors).astype(wide)
    return reduce_objectives(jnp.add, leaf.astype(wide) * factors).astype(leaf.dtype)


def rescaled(leaf: jax.Array, gate: jax.Array) -> jax.Array:
    """``leaf[k] * gate[k]``, both ``(K, ...)`` that broadcast, in the leaf's dtype."""
    wide = compute_dtype(leaf.dtype)
    return (leaf.astype(wide) * gate.astype(wide)).astype(leaf.dtype)


def materialized(values: jax.Array, factor: jax.Array | float = 1.0) -> jax.Array:
    """``values * factor`` (1 or NaN), computed once per block.

    XLA fuses cheap arithmetic into whatever reads it: the whole gate would be computed
    again for every entry of a block, and on CPU ``optimization_barrier`` doesn't prevent
    it. A remainder it holds too expensive to repeat; that of a number far below the
    divisor is the number.
    """
    divisor = jnp.broadcast_to(jnp.asarray(1e30 * factor, values.dtype), values.shape)
    return jax.lax.rem(values, divisor)
