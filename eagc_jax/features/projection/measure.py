"""What is measured, by group of blocks."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax._shards import alike, max_each
from eagc_jax._trees import compute_dtype, widened
from eagc_jax.blocks import GLOBAL, Layout
from eagc_jax.features.projection.options import Options
from eagc_jax.objectives import expand_to


class Found(NamedTuple):
    """Means over blocks, of gradients in units of their largest entry."""

    square: dict[str, jax.Array]  # <g_k, g_k>, (K, blocks).
    inner: dict[str, jax.Array]  # <g_k, g_s>, (K, blocks).
    along: dict[str, jax.Array]  # <g_k, d>, (K, blocks).
    length: dict[str, jax.Array]  # <d, d>, (1, blocks).
    units: dict[str, jax.Array]  # by leaf: (K,).


def measure(
    leaves: dict[str, jax.Array],
    direction: dict[str, jax.Array],
    layout: Layout,
    options: Options,
) -> Found:
    """Products of every gradient with itself, the supervised one and the direction."""
    wide = {n: widened(leaf) for n, leaf in leaves.items()}
    everything = layout.granularity == GLOBAL
    units = _units(wide, everything, options.names)
    scaled = {n: leaf / expand_to(units[n], leaf.ndim) for n, leaf in wide.items()}
    own = {n: leaf[options.supervised][None] for n, leaf in scaled.items()}
    if options.energy == "running":
        along = {n: direction[n].astype(leaf.dtype)[None] for n, leaf in wide.items()}
        lengths = _units(along, everything, options.names)
        along = {n: d / expand_to(lengths[n], d.ndim) for n, d in along.items()}
    else:
        along = own

    def collect(left, right):
        groups = layout.block_means({n: _product(left[n], right[n]) for n in leaves})
        if everything:
            sums = layout.leaf_means(groups) * layout.sizes()[None]
            return {GLOBAL: jnp.sum(sums, axis=1, keepdims=True)}
        return groups

    return Found(
        square=collect(scaled, scaled),
        inner=collect(scaled, own),
        along=collect(scaled, along),
        length=collect(along, along),
        units=units,
    )


def _units(
    leaves: dict[str, jax.Array], everything: bool, names: tuple[str, ...]
) -> dict[str, jax.Array]:
    """Each objective's largest entry, in the leaf or in all."""
    largest = {
        name: jnp.max(
            jnp.abs(leaf), axis=tuple(range(1, leaf.ndim)), initial=0.0
        ).astype(compute_dtype(leaf.real.dtype))
        for name, leaf in leaves.items()
    }
    largest = max_each(largest, leaves, names)
    if everything:
        overall = jnp.max(jnp.stack(alike(list(largest.values()))), axis=0)
        # In the leaf's dtype, which may be narrower: inside its range.
        largest = {
            n: jnp.minimum(overall, float(jnp.finfo(x.dtype).max)).astype(x.dtype)
            for n, x in largest.items()
        }
    return {name: jnp.where(x == 0, 1.0, x) for name, x in largest.items()}


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    """The real inner product's terms, also of complex numbers."""
    return (left * jnp.conj(right)).real
