"""From means over blocks to log energies, one kind of energy or a mixture."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax import blocks as blocks_lib
from eagc_jax.energy.float32 import bounded
from eagc_jax.energy.options import ALIGNMENTS, Options
from eagc_jax.objectives import expand_to


def log_energy(
    statistics: dict[str, jax.Array],
    references: dict[str, jax.Array],
    takes_part: jax.Array,
    options: Options,
) -> jax.Array:
    """One block array of log energies ``(K, *block)``."""
    total = jnp.zeros_like(statistics["magnitude"])
    for kind, coefficient in options.mixture.items():
        if kind in ALIGNMENTS:
            cosine = _cosine(statistics)
            share = (1 + cosine) / 2 if kind == "progress" else 1 - cosine**2
            floor = options.alignment_floor
            value = jnp.log(floor + (1 - floor) * share)
        else:
            reference = references[kind]
            if options.scale == "global":
                mean = mean_over(reference, takes_part)
                reference = jnp.broadcast_to(mean, reference.shape)
            reference = expand_to(jnp.where(reference > 0, reference, 1.0), total.ndim)
            # A leaf that is not shared can exceed the reference by any factor.
            value = jnp.log(bounded(statistics[kind] / reference) + options.eps)
        total = total + coefficient * value
    return total


def _cosine(statistics: dict[str, jax.Array]) -> jax.Array:
    """The cosine with the running direction, 0 where either is 0."""
    # Square roots before the product: it stays in range where the squares' would not.
    product = jnp.sqrt(statistics["magnitude"]) * jnp.sqrt(statistics["length"])
    product = jnp.where(jnp.isfinite(product), product, 0.0)
    cosine = statistics["along"] / jnp.where(product > 0, product, 1.0)
    return jnp.where(product > 0, jnp.clip(cosine, -1.0, 1.0), 0.0)


def shared_share(
    squares: jax.Array, takes_part: jax.Array, layout: blocks_lib.Layout
) -> jax.Array:
    """Each leaf's share of the entries that at least two objectives reach, ``(leaves,)``.

    Without the restriction a big head that one objective owns would dilute that
    objective's energy in the trunk.
    """
    reaches = (squares > 0) & takes_part[:, None]
    shared = jnp.sum(reaches, axis=0, dtype=jnp.int32) >= 2
    sizes = jnp.where(shared, layout.sizes(), jnp.float32(0))
    return sizes / jnp.maximum(jnp.sum(sizes), 1.0)


def mean_over(values: jax.Array, takes_part: jax.Array) -> jax.Array:
    """The mean of ``(K,)`` values over the objectives that take part."""
    number = jnp.maximum(jnp.sum(takes_part, dtype=jnp.int32), 1)
    return jnp.sum(jnp.where(takes_part, values, 0.0)) / number.astype(values.dtype)
