"""Helpers of the methods that solve for coefficients of the unit gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax.aggregators._weighting import Problem
from eagc_jax.gram import Gram


def live_rows(gram: Gram) -> jax.Array:
    """``(K,)`` bool: gradients that are not zero. NaN is live, so that it is seen."""
    return gram.norms != 0


def importance(problem: Problem) -> jax.Array:
    """The preference with mean 1 over the objectives that take part: ``(K,)``."""
    number = jnp.sum(problem.active, dtype=jnp.int32)
    return problem.preference * number.astype(problem.preference.dtype)


def known(gram: Gram) -> jax.Array:
    """shape=(), bool: the Gram matrix is finite."""
    # An infinite product gives a NaN cosine, an infinite square a NaN norm.
    return jnp.all(jnp.isfinite(gram.cosines)) & jnp.all(jnp.isfinite(gram.norms))


def or_nan(weights: jax.Array, gram: Gram) -> jax.Array:
    """NaN weights where the Gram matrix is not finite: comparisons would hide it."""
    return jnp.where(known(gram), weights, jnp.nan)


def rounding(dtype: jnp.dtype) -> float:
    """Ten eps: what a cosine may be off by, and the ridge for solving with cosines."""
    return 10 * float(jnp.finfo(dtype).eps)


def product(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """``(K, L)`` times ``(L,)``, in the dtype's own precision on every device."""
    return jnp.sum(matrix * vector[None, :], axis=1)


def visiting_order(key: jax.Array | None, number: int) -> jax.Array:
    """For each objective an order in which it meets all: ``(K, K)`` of indices.

    Row i is a random permutation, or 0, 1, ..., K - 1 without a key; it holds i itself,
    which the caller skips: the others are then in uniformly random order.
    """
    order = jnp.broadcast_to(jnp.arange(number), (number, number))
    if key is None:
        return order
    return jax.vmap(jax.random.permutation)(jax.random.split(key, number), order)
