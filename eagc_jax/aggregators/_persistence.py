"""Which conflicts persist over steps, and which come and go with the batch."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax._trees import counted, ratio


class ConflictAverage(NamedTuple):
    """What is remembered of each pair's cosine, and what follows for the objectives."""

    cosines: jax.Array  # shape=(K, K), float32: the running mean of the cosine.
    sizes: jax.Array  # shape=(K, K), float32: the running mean of its absolute value.
    counts: jax.Array  # shape=(K, K), int32: steps in which both had a gradient.
    persistence: jax.Array  # shape=(K,), float32, in [0, 1]: what stiffness is times.


def init_conflict_average(number: int) -> ConflictAverage:
    """Nothing seen."""
    zeros = jnp.zeros((number, number), jnp.float32)
    counts = jnp.zeros((number, number), jnp.int32)
    return ConflictAverage(zeros, zeros, counts, jnp.zeros((number,), jnp.float32))


def rate_of(counts: jax.Array, memory: jax.typing.ArrayLike) -> jax.Array:
    """How far a running mean moves: ``max(1/t, 1/T)``, so that it begins as the mean."""
    return jnp.maximum(
        1 / jnp.maximum(counts, 1).astype(jnp.float32),
        1 / jnp.asarray(memory, jnp.float32),
    )


def remembered(
    average: ConflictAverage,
    cosines: jax.Array,
    present: jax.Array,
    memory: jax.typing.ArrayLike,
) -> ConflictAverage:
    """The average with this step's cosines ``(K, K)`` of those that are ``(K,)`` present.

    Both means round alike but for the sign: of a pair whose cosine was never positive
    the one is exactly minus the other.
    """
    both = present[:, None] & present[None, :]
    counts = counted(average.counts, both)
    rate = rate_of(counts, memory)
    cosines = jnp.where(both, cosines, 0.0).astype(jnp.float32)

    def moved(old: jax.Array, new: jax.Array) -> jax.Array:
        return jnp.where(both, old + rate * (new - old), old)

    mean = moved(average.cosines, cosines)
    size = moved(average.sizes, jnp.abs(cosines))
    share = jnp.clip(ratio(-mean, size), 0.0, 1.0)
    return ConflictAverage(mean, size, counts, jnp.max(share, axis=0, initial=0.0))
