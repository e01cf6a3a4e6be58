"""What the scalings of one gradient share: Adam's moments, the non-finite policy."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax._checks import SingleNonfinite
from eagc_jax._trees import counted, increment, select, widened
from eagc_jax.typing import OptState, PyTree, Updates


class Moments(NamedTuple):
    """Adam's, with this step's gradient in them."""

    grads: Updates  # like params, float32 or wider.
    count: jax.Array  # shape=(), int32: steps, this one too.
    mu: PyTree  # like params: biased running mean of the gradient.
    nu: PyTree  # like params: that of its square.


def moved(
    state: OptState,
    updates: Updates,
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
) -> Moments:
    """From a state with fields ``count``, ``mu`` and ``nu``."""
    grads = jax.tree.map(widened, updates)
    count = increment(state.count)
    mu = average(state.mu, grads, b1)
    nu = average(state.nu, jax.tree.map(jnp.square, grads), b2)
    return Moments(grads, count, mu, nu)


def average(mean: PyTree, values: PyTree, decay: jax.typing.ArrayLike) -> PyTree:
    """``decay * mean + (1 - decay) * values``, leaf by leaf."""
    return jax.tree.map(lambda m, v: decay * m + (1 - decay) * v, mean, values)


def debiased(
    mean: jax.Array, decay: jax.typing.ArrayLike, count: jax.Array
) -> jax.Array:
    """An average that started at 0, less its bias. ``count`` is at least 1."""
    return mean / (1 - decay ** count.astype(mean.dtype)).astype(mean.dtype)


def finished(
    step: PyTree,
    updates: Updates,
    new: OptState,
    state: OptState,
    finite: jax.Array,
    nonfinite: SingleNonfinite,
) -> tuple[Updates, OptState]:
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
