"""Running averages of the effective update and of its square."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax.energy.float32 import as_float32
from eagc_jax.objectives import weighted_sum
from eagc_jax.typing import PyTree, Updates


def track(
    average: PyTree, value: PyTree, decay: jax.typing.ArrayLike, advance: jax.Array
) -> PyTree:
    """Moved towards the value, where averages may move."""
    return jax.tree.map(
        lambda old, new: jnp.where(
            advance, (decay * old + (1 - decay) * new).astype(old.dtype), old
        ),
        average,
        value,
    )


def effective_update(updates: Updates, weights: jax.Array) -> PyTree:
    """The weighted sum in float32, what plain summation would apply."""

    def reduce(leaf):
        total = weighted_sum(leaf, weights)
        return total.astype(as_float32(leaf).dtype)

    return jax.tree.map(reduce, updates)


def bias_corrected(
    moment: PyTree, decay: jax.typing.ArrayLike, count: jax.Array
) -> PyTree:
    """The moment over what its decays have left of the zeros it began with."""
    steps = jnp.maximum(count, 1).astype(jnp.float32)
    # Multiplied by its inverse: the TPU's compiler writes out what it divides by.
    inverse = 1 / (1 - jnp.asarray(decay, jnp.float32) ** steps)
    return jax.tree.map(lambda v: v * inverse, moment)
