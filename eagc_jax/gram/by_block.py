"""Products of a tree's leaves, put together by block."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from eagc_jax import _shards
from eagc_jax import blocks as blocks_lib
from eagc_jax.blocks import GLOBAL, Layout
from eagc_jax.gram import products
from eagc_jax.gram.metric import LeafMetric


def block_grams(
    leaves: dict[str, jax.Array],
    layout: Layout,
    powers: jax.Array | None = None,
    names: tuple[str, ...] = (),
    metric: dict[str, LeafMetric] | None = None,
    *,
    only_rest: bool = False,
) -> jax.Array:
    """``(B, K, K)``, blocks in the layout's order.

    With a rest ``(B, K, K + 1)``, or only what is made of it, ``(B, K, 1)``.
    """
    if layout.alone:
        raise ValueError(
            "a granularity for Gram matrices must let a block span at least one axis of "
            f"a matrix; it spans none of leaf '{layout.alone[0]}'."
        )
    by_leaf = grams_by_leaf(leaves, layout, powers, metric, only_rest=only_rest)
    if layout.granularity == GLOBAL:
        return _shards.sum_leaves(list(by_leaf.values()), list(leaves.values()), names)[
            None
        ]
    groups = [_of_group(layout, group, by_leaf) for group in layout.groups]
    return jnp.concatenate(_shards.alike(groups), axis=0)


def grams_by_leaf(
    leaves: dict[str, jax.Array],
    layout: Layout,
    powers: jax.Array | None = None,
    metric: dict[str, LeafMetric] | None = None,
    *,
    only_rest: bool = False,
) -> dict[str, jax.Array]:
    """``(K, K, *kept)`` by leaf, of this device: sums over the axes that a block spans.

    Args:
      leaves: by name, ``(K, *shape)``.
      layout: of the blocks.
      powers: as for ``products.leaf_grams``.
      metric: of every leaf, or None.
      only_rest: whether products with the rest are wanted alone, ``(K, 1, *kept)``.
    """
    kept = {name: _kept_axes(layout, name) for name in leaves}
    halves = {name: products.real_parts(leaf) for name, leaf in leaves.items()}
    flat = [half for parts in halves.values() for half in parts]
    axes = [kept[name] for name, parts in halves.items() for _ in parts]
    metrics = None
    if metric is not None:
        metrics = [metric[name] for name, parts in halves.items() for _ in parts]
    if only_rest:
        assert metrics is not None
        found = iter(products.leaf_rests(flat, axes, powers, metrics))
    else:
        found = iter(products.leaf_grams(flat, axes, powers, metrics))
    return {
        name: functools.reduce(jnp.add, [next(found) for _ in parts])
        for name, parts in halves.items()
    }


def _kept_axes(layout: Layout, name: str) -> tuple[int, ...]:
    """Of ``(K, *shape)``, those that a block doesn't span."""
    if layout.granularity == GLOBAL:  # which packs of vectors are in no layout of
        return ()
    rank = len(layout.shapes[name])
    return tuple(axis + 1 for axis in range(rank) if axis not in layout.axes[name])


def _of_group(layout: Layout, group: str, by_leaf: dict[str, jax.Array]) -> jax.Array:
    """``(blocks, K, K)`` of a group's leaves, on every device."""
    names = layout.groups[group]
    found = _shards.alike([by_leaf[name] for name in names])
    if any(axis is not None for x in found for axis in jax.typeof(x).sharding.spec):
        # Explicit axes; block values are small.
        found = [
            jax.sharding.reshard(x, PartitionSpec(*[None] * x.ndim)) for x in found
        ]
    matrix = found[0].shape[:2]
    stacked = jnp.stack([x.reshape(*matrix, -1) for x in found], axis=2)
    split = layout.splits.get(names[0], blocks_lib.Split())
    if split.within:
        stacked = jax.lax.psum(stacked, split.within)
    return stacked.reshape(*matrix, -1).transpose(2, 0, 1)


def in_tree_order(layout: Layout) -> np.ndarray:
    """Where the blocks of the first leaf, the second, ... are in the layout's order."""
    start, position = 0, {}
    for names in layout.groups.values():
        for name in names:
            count = int(np.prod(layout.block_shape(name), dtype=int))
            position[name] = np.arange(start, start + count)
            start += count
    return np.concatenate([position[name] for name in layout.axes])
