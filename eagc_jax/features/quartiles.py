"""Least, quartiles and largest of some of a vector's values, under jit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

_LEVELS = np.array([0.0, 0.25, 0.5, 0.75, 1.0], np.float32)


def quartiles(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Of ``values[mask]``, ``(5,)``, linear between ranks; 0 where nothing is chosen."""
    number = jnp.sum(mask, dtype=jnp.int32)
    ranked = jnp.sort(jnp.where(mask, values, jnp.inf))
    ranked = jnp.where(
        jnp.arange(values.shape[0], dtype=jnp.int32) < number, ranked, 0.0
    )
    place = _LEVELS * jnp.maximum(number - 1, 0).astype(jnp.float32)
    below = jnp.floor(place)
    low = ranked[below.astype(jnp.int32)]
    high = ranked[jnp.ceil(place).astype(jnp.int32)]
    return low + (place - below) * (high - low)
