"""Norms of K gradients, of entries of any size, in one pass."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._shards import sum_leaves
from eagc_jax.gram.matrices import exponents_for
from eagc_jax.gram.parts import power_of_two
from eagc_jax.gram.products import real_parts, wide_dtype
from eagc_jax.objectives import expand_to


def row_norms(
    leaves: Sequence[jax.Array], active: jax.Array, names: tuple[str, ...] = ()
) -> tuple[jax.Array, jax.Array]:
    """The norms of K gradients, and who is finite.

    As :func:`eagc_jax.gram.gram_blocks`: squares are summed as they are, and again, of
    rows multiplied by powers of two, only where one came out too small or too large.

    Args:
      leaves: ``(K, *shape)``.
      active: ``(K,)`` bool: the others' norms are 0.
      names: inside ``shard_map``, the mesh axes over which leaves may be split.

    Returns:
      ``(K,)`` norms, float32 or wider where a leaf is, 0 of those that aren't finite; and
      ``(K,)`` bool, no NaN and no infinity in the gradient, or not active.
    """

    def measure(rows):
        found = [_squares(leaf, rows).astype(dtype) for leaf in leaves]
        return sum_leaves(found, leaves, names)

    def body(carry):
        turn, exponents, rows, _ = carry
        squares = measure(rows)
        wanted = jnp.where(active, exponents_for(squares), 0)
        again = (turn == 0) & jnp.any(wanted != 0)
        exponents = jnp.where(again, wanted, exponents)
        rows = power_of_two(exponents, dtype)
        return jnp.where(again, jnp.int32(1), jnp.int32(2)), exponents, rows, squares

    dtypes = [wide_dtype(leaf.real) for leaf in leaves]
    dtype = functools.reduce(np.promote_types, dtypes)
    ones = jnp.ones(active.shape, dtype)
    start = jnp.zeros([], jnp.int32), jnp.zeros(active.shape, jnp.int32), ones, ones
    carry = jax.lax.while_loop(lambda carry: carry[0] < 2, body, start)
    _, exponents, _, squares = carry
    finite = jnp.isfinite(squares)
    roots = jnp.sqrt(jnp.where(active & finite, squares, 0.0))
    half = -exponents // 2  # in two halves: the power alone may leave the range
    norms = roots * power_of_two(half, dtype) * power_of_two(-exponents - half, dtype)
    return norms, finite | ~active


def _squares(leaf: jax.Array, rows: jax.Array) -> jax.Array:
    """One leaf's squared norms, of rows multiplied by ``rows``."""
    total = jnp.zeros([], wide_dtype(leaf.real))
    for part in real_parts(leaf):
        wide = part.astype(total.dtype)
        wide = wide * expand_to(rows.astype(wide.dtype), wide.ndim)
        total = total + jnp.sum(wide * wide, axis=tuple(range(1, wide.ndim)))
    return total
