"""Running averages of Gram matrices and of weights, exact for any schedule of decays.

An entry's ``mass`` is what its decays left of the weight of all it has seen: dividing by
it takes out the zeros that the average began with.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax._checks import concrete
from eagc_jax.gram import Gram, from_scaled


class GramAverage(NamedTuple):
    """A running average of Gram matrices, in parts that stay in range."""

    matrix: jax.Array  # shape=(B, K, K), float32: over scale^2, biased.
    scale: jax.Array  # shape=(B,), float32: the largest norm that it has seen.
    mass: jax.Array  # shape=(K, K), float32: moves when both objectives take part.


class WeightAverage(NamedTuple):
    """A running average of weights."""

    weights: jax.Array  # shape=(B, K), float32: biased.
    mass: jax.Array  # shape=(K,), float32: moves when the objective takes part.


def init_gram_average(
    decay: jax.typing.ArrayLike, blocks: int, number: int
) -> GramAverage | tuple[()]:
    """Zeros, or () for a decay that is known to be 0."""
    if not _in_use(decay):
        return ()
    return GramAverage(
        jnp.zeros((blocks, number, number), jnp.float32),
        jnp.zeros((blocks,), jnp.float32),
        jnp.zeros((number, number), jnp.float32),
    )


def init_weight_average(
    decay: jax.typing.ArrayLike, blocks: int, number: int
) -> WeightAverage | tuple[()]:
    """Zeros, or () for a decay that is known to be 0."""
    if not _in_use(decay):
        return ()
    return WeightAverage(
        jnp.zeros((blocks, number), jnp.float32), jnp.zeros((number,), jnp.float32)
    )


def smooth_gram(
    gram: Gram,
    average: GramAverage | tuple[()],
    active: jax.Array,
    decay: jax.typing.ArrayLike,
) -> tuple[Gram, GramAverage | tuple[()]]:
    """The average with this step's Gram in it, and its state; () changes nothing."""
    if not isinstance(average, GramAverage):
        return gram, average
    decay = jnp.asarray(decay, jnp.float32)
    both = active[:, None] & active[None, :]
    gram = jax.tree.map(lambda x: x.astype(jnp.float32), gram)
    scale = jnp.maximum(gram.scale, average.scale)
    safe = jnp.where(scale > 0, scale, 1.0)
    old = average.matrix * ((average.scale / safe) ** 2)[:, None, None]
    new = jax.vmap(lambda g: g.matrix)(gram) * ((gram.scale / safe) ** 2)[:, None, None]
    matrix = _moved(old, new, both[None], decay)
    mass = _moved(average.mass, jnp.ones_like(average.mass), both, decay)
    shown = matrix / jnp.where(mass > 0, mass, 1.0)[None]
    shown = jnp.where(both[None], shown, 0.0)
    parts = jax.vmap(_split_relative)(shown, scale)
    return parts, GramAverage(matrix, scale, mass)


def smooth_weights(
    weights: jax.Array,
    average: WeightAverage | tuple[()],
    active: jax.Array,
    decay: jax.typing.ArrayLike,
) -> tuple[jax.Array, WeightAverage | tuple[()]]:
    """The average with this step's weights in it, and its state; () changes nothing."""
    if not isinstance(average, WeightAverage):
        return weights, average
    decay = jnp.asarray(decay, jnp.float32)
    weights = weights.astype(jnp.float32)
    kept = _moved(average.weights, weights, active[None], decay)
    mass = _moved(average.mass, jnp.ones_like(average.mass), active, decay)
    shown = kept / jnp.where(mass > 0, mass, 1.0)[None]
    return jnp.where(active[None], shown, 0.0), WeightAverage(kept, mass)


def _moved(
    old: jax.Array, new: jax.Array, where: jax.Array, decay: jax.Array
) -> jax.Array:
    return jnp.where(where, decay * old + (1 - decay) * new, old).astype(jnp.float32)


def _split_relative(matrix: jax.Array, scale: jax.Array) -> Gram:
    parts = from_scaled(matrix, jnp.zeros(matrix.shape[:1], jnp.int32))
    return parts._replace(scale=parts.scale * scale)


def _in_use(decay: jax.typing.ArrayLike) -> bool:
    known = concrete(decay)
    return known is None or bool(known != 0)
