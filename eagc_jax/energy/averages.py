"""Running averages of the effective update and of its square."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from eagc_jax.energy.float32 import as_float32
from eagc_jax.objectives import weighted_sum


def track(average: Any, value: Any, decay: Any, advance: jax.Array) -> Any:
    """Moved towards the value, where averages may move."""
    return jax.tree.map(
        lambda old, new: jnp.where(
            advance, (decay * old + (1 - decay) * new).astype(old.dtype), old
        ),
        average,
        value,
    )


def effective_update(updates: Any, weights: jax.Array) -> Any:
    """The weighted sum in float32, what plain summation would apply."""

    def reduce(leaf):
        total = weighted_sum(leaf, weights)
        return total.astype(as_float32(leaf).dtype)

    return jax.tree.map(reduce, updates)


def bias_corrected(moment: Any, decay: Any, count: jax.Array) -> Any:
    """The moment over what its decays have left of the zeros it began with."""
    steps = jnp.maximum(count, 1).astype(jnp.float32)
    correction = 1 - jnp.asarray(decay, jnp.float32) ** steps
    return jax.tree.map(lambda v: v / correction, moment)
