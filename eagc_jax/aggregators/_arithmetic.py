"""Arithmetic that the methods on losses and full gradients share."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._shards import max_leaves, sum_leaves
from eagc_jax.objectives import (
    compute_dtype,
    expand_to,
    largest_entries,
    reduce_objectives,
    weighted_sum,
)


def reduced(updates: Any, weights: jax.Array) -> Any:
    """``sum_k w_k g_k``, leaf by leaf, in float32 or wider."""
    return jax.tree.map(lambda leaf: weighted_sum(leaf, weights), updates)


def widened(leaf: jax.Array) -> jax.Array:
    """The leaf in float32, or wider as it is."""
    return leaf.astype(compute_dtype(leaf.dtype))


def wide_zeros(params: Any, number: int | None = None) -> Any:
    """Zeros like the parameters, or K times them, in float32 or wider."""

    def zeros(p):
        one = jnp.zeros_like(p, dtype=compute_dtype(jnp.result_type(p)))
        # From the parameter, so that they lie where it lies.
        return one if number is None else jnp.stack([one] * number)

    return jax.tree.map(zeros, params)


def per_objective(values: jax.Array, leaf: jax.Array) -> jax.Array:
    """``(K,)`` values in the shape and dtype to multiply a ``(K, *shape)`` leaf."""
    return expand_to(values, leaf.ndim).astype(leaf.dtype)


def total(values: jax.Array) -> jax.Array:
    """The sum over objectives of ``(K, *shape)``."""
    return reduce_objectives(jnp.add, values)


def tree_norm(tree: Any, names: tuple[str, ...] = ()) -> jax.Array:
    """The norm of a whole tree: of entries as small or large as the dtype holds."""
    return row_norms(jax.tree.map(lambda leaf: leaf[None], tree), names=names)[0]


def largest_of_tree(updates: Any, names: tuple[str, ...] = ()) -> jax.Array:
    """The largest magnitude in each of K gradients, ``(K,)``; infinity for a NaN.

    Args:
      updates: leaves ``(K, *shape)``.
      names: inside ``shard_map``, the mesh axes over which leaves may be split.

    Returns:
      Float32, or wider where a leaf is.
    """
    leaves = jax.tree.leaves(updates)
    dtypes = [compute_dtype(leaf.real.dtype) for leaf in leaves]
    dtype = functools.reduce(np.promote_types, dtypes)
    tops = [largest_entries(leaf).astype(dtype) for leaf in leaves]
    # What the largest of a NaN and a number is depends on who is asked.
    tops = [jnp.where(jnp.isnan(top), jnp.inf, top) for top in tops]
    return max_leaves(tops, leaves, names)


def row_norms(
    updates: Any, largest: jax.Array | None = None, names: tuple[str, ...] = ()
) -> jax.Array:
    """Norms of K gradients, ``(K,)`` float32, of entries of any size.

    Args:
      updates: leaves ``(K, *shape)``.
      largest: ``(K,)``, as :func:`largest_of_tree` finds them, where that is known.
      names: inside ``shard_map``, the mesh axes over which leaves may be split.
    """
    leaves = jax.tree.leaves(updates)
    top = largest_of_tree(updates, names) if largest is None else largest
    top = top.astype(jnp.float32)
    safe = jnp.where(top > 0, top, 1.0)

    def squares(leaf):
        wide = widened(leaf)
        wide = wide / per_objective(safe, wide)
        square = jnp.sum(jnp.abs(wide) ** 2, axis=tuple(range(1, leaf.ndim)))
        return square.astype(jnp.float32)

    return top * jnp.sqrt(sum_leaves([squares(x) for x in leaves], leaves, names))


def ratio(
    numerator: jax.Array, denominator: jax.Array, otherwise: float = 0.0
) -> jax.Array:
    """``numerator / denominator``, and ``otherwise`` where the denominator isn't > 0."""
    positive = denominator > 0
    return jnp.where(
        positive, numerator / jnp.where(positive, denominator, 1), otherwise
    )


def masked_softmax(logits: jax.Array, active: jax.Array) -> jax.Array:
    """Softmax over the active entries; zeros elsewhere, and where none is active."""
    top = jnp.max(jnp.where(active, logits, -jnp.inf))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    odds = jnp.where(active, jnp.exp(jnp.where(active, logits, top) - top), 0.0)
    return ratio(odds, jnp.sum(odds))


def masked_mean(values: jax.Array, active: jax.Array) -> jax.Array:
    """The mean over the active entries; 0 where none is."""
    number = jnp.sum(active, dtype=jnp.int32).astype(values.dtype)
    return ratio(jnp.sum(jnp.where(active, values, 0.0)), number)


def scheduled(value: Any, count: jax.Array) -> Any:
    """A number, or a schedule's at this count."""
    return value(count) if callable(value) else value


def increment(count: jax.Array) -> jax.Array:
    """The next step's number; stays at the largest int32."""
    return jnp.asarray(optax.safe_increment(count))


def select(advance: jax.Array, new: Any, old: Any) -> Any:
    """The new state where it may change, the old one elsewhere."""
    return jax.tree.map(lambda n, o: jnp.where(advance, n, o), new, old)
