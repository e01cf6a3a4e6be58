"""What the scalings of one gradient share: moments, the non-finite policy."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


def emit(step: Any, updates: Any, finite: jax.Array, nonfinite: str) -> Any:
    """The step in the gradients' dtypes; NaN or 0 throughout where it isn't finite."""
    fill = jnp.nan if nonfinite == "propagate" else 0.0
    return jax.tree.map(
        lambda s, g: jnp.where(finite, s, fill).astype(g.dtype), step, updates
    )


def average(mean: Any, values: Any, decay: Any) -> Any:
    """``decay * mean + (1 - decay) * values``, leaf by leaf."""
    return jax.tree.map(lambda m, v: decay * m + (1 - decay) * v, mean, values)


def debiased(mean: jax.Array, decay: Any, count: jax.Array) -> jax.Array:
    """An average that started at 0, less its bias. ``count`` is at least 1."""
    return mean / (1 - decay ** count.astype(mean.dtype)).astype(mean.dtype)
