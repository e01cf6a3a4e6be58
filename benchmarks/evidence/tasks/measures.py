"""Losses and errors that tasks share."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Mean over the batch."""
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, classes))


def error_rate(logits: jax.Array, classes: jax.Array) -> jax.Array:
    """Share of wrong classes; at least half an item's, so that it has a logarithm."""
    wrong = jnp.mean(jnp.argmax(logits, axis=-1) != classes)
    return jnp.maximum(wrong, 0.5 / classes.size)


def geometric_mean(errors: Sequence[jax.Array]) -> jax.Array:
    """Of errors > 0: no objective's unit matters, a percent of each counts alike."""
    return jnp.exp(jnp.mean(jnp.log(jnp.stack(list(errors)))))


def batch(key: jax.Array, count: int, size: int) -> jax.Array:
    """``(size,)`` rows of ``count``, drawn with replacement."""
    return jax.random.randint(key, (size,), 0, count)
