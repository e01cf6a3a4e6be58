"""Arithmetic that the methods on losses and full gradients share."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from eagc_jax._trees import ratio, widened
from eagc_jax.gram import row_norms
from eagc_jax.objectives import expand_to
from eagc_jax.typing import PyTree, Updates


def reduced(updates: Updates, weights: jax.Array) -> PyTree:
    """``sum_k w_k g_k``, leaf by leaf, in float32 or wider."""
    return jax.tree.map(lambda leaf: weighted(rows(leaf), weights), updates)


def weighted(rows: list[jax.Array], weights: jax.Array) -> jax.Array:
    """``sum_k w_k g_k`` of K arrays of one shape, entry by entry."""
    weights = weights.astype(rows[0].dtype)
    return total([row * weights[k] for k, row in enumerate(rows)])


def rows(leaf: jax.Array) -> list[jax.Array]:
    """The K gradients of one leaf, in float32 or wider."""
    return [widened(leaf[k]) for k in range(leaf.shape[0])]


def per_objective(values: jax.Array, leaf: jax.Array) -> jax.Array:
    """``(K,)`` values in the shape and dtype to multiply a ``(K, *shape)`` leaf."""
    return expand_to(values, leaf.ndim).astype(leaf.dtype)


def total(rows: list[jax.Array]) -> jax.Array:
    """The sum of K arrays of one shape, in order."""
    return functools.reduce(jnp.add, rows)


def tree_norm(tree: PyTree, names: tuple[str, ...] = ()) -> jax.Array:
    """The norm of a whole tree: of entries as small or large as the dtype holds."""
    leaves = [leaf[None] for leaf in jax.tree.leaves(tree)]
    return row_norms(leaves, jnp.ones((1,), bool), names)[0][0]


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


def scheduled(
    value: jax.typing.ArrayLike | Callable[[jax.Array], jax.typing.ArrayLike],
    count: jax.Array,
) -> jax.typing.ArrayLike:
    """A number, or a schedule's at this count."""
    return value(count) if callable(value) else value
