"""Semi-supervised k-means for several numbers of clusters, in one compilation.

Quick rather than thorough, for comparing the numbers: every one starts from the first of
the same seeds, and the centres that a number doesn't use wait where no row is near.
"""

import functools

import jax
import jax.numpy as jnp

from eagc_jax.gcd.clustering import _lloyd

_FAR = 1e4  # from unit rows


@functools.partial(jax.jit, static_argnames="most")
def seeds(
    key: jax.Array, unit: jax.Array, pinned: jax.Array, *, most: int
) -> jax.Array:
    """(most, D) centres: the known ones, then greedy k-means++ one after another."""
    rows = _lloyd._in_blocks(unit, pinned, most)
    known, centres = _lloyd._known_centres(rows, most)
    closest = _lloyd._distance_to_known(rows, known, centres)
    return _lloyd._starts(key, unit, pinned, closest, known, centres, 1)[0]


@functools.partial(jax.jit, static_argnames="iterations")
def clustered(
    unit: jax.Array,
    pinned: jax.Array,
    seeds: jax.Array,
    number: jax.Array,
    *,
    iterations: int,
) -> jax.Array:
    """(N,) the cluster of each row, from the first `number` of the seeds."""
    rows = _lloyd._in_blocks(unit, pinned, len(seeds))
    used = jnp.arange(len(seeds)) < number
    far = jnp.full_like(seeds, 0).at[:, 0].set(_FAR)
    centres = jnp.where(used[:, None], seeds, far)

    def iterate(
        _: jax.Array, carry: tuple[jax.Array, _lloyd._Pass]
    ) -> tuple[jax.Array, _lloyd._Pass]:
        centres, found = carry
        means = found.sums / jnp.maximum(found.counts, 1)[:, None]
        centres = jnp.where((found.counts > 0)[:, None], means, centres)
        return centres, _lloyd._visit(rows, centres)

    start = centres, _lloyd._visit(rows, centres)
    _, found = jax.lax.fori_loop(0, iterations, iterate, start)
    return found.assignments.reshape(-1)[: len(unit)]
