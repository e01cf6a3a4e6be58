"""What the scalings of one gradient share: Adam's moments, the non-finite policy."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax._trees import counted, increment, select, widened


class Moments(NamedTuple):
    """Adam's, with this step's gradient in them."""

    grads: Any  # like params, float32 or wider.
    count: jax.Array  # shape=(), int32: steps, this one too.
    mu: Any  # like params: biased running mean of the gradient.
    nu: Any  # like params: that of its square.


def moved(state: Any, updates: Any, b1: Any, b2: Any) -> Moments:
    """From a state with fields ``count``, ``mu`` and ``nu``."""
    grads = jax.tree.map(widened, updates)
    count = increment(state.count)
    mu = average(state.mu, grads, b1)
    nu = average(state.nu, jax.tree.map(jnp.square, grads), b2)
    return Moments(grads, count, mu, nu)


def average(mean: Any, values: Any, decay: Any) -> Any:
    """``decay * mean + (1 - decay) * values``, leaf by leaf."""
    return jax.tree.map(lambda m, v: decay * m + (1 - decay) * v, mean, values)


def debiased(mean: jax.Array, decay: Any, count: jax.Array) -> jax.Array:
    """An average that started at 0, less its bias. ``count`` is at least 1."""
    return mean / (1 - decay ** count.astype(mean.dtype)).astype(mean.dtype)


def finished(
    step: Any, updates: Any, new: Any, state: Any, finite: jax.Array, nonfinite: str
) -> tuple[Any, Any]:
    """The step in the gradients' dtypes, and the state after it.

    Where the gradient isn't finite the step is NaN or 0 throughout, and the state moves
    in its ``nonfinite_count`` alone.
    """
    fill = jnp.nan if nonfinite == "propagate" else 0.0
    out = jax.tree.map(
        lambda s, g: jnp.where(finite, s, fill).astype(g.dtype), step, updates
    )
    missed = counted(state.nonfinite_count, ~finite)
    return out, select(finite, new, state)._replace(nonfinite_count=missed)
