"""Granularity: which entries of a leaf are assessed and gated together.

A *block* is a set of entries that share one energy and one gate. What is computed per
block is small, but there are many leaves: it is computed for all leaves of one shape at
once, in *groups*, arrays ``(lead, leaves, *block)``. A ViT-B/16 has 150 leaves and nine
groups; leaf by leaf, compiling its program took minutes. Values are stacked, never
concatenated: an axis of a leaf that is sharded over devices stays where it is. Only
leaves of which every entry is a block stay by themselves, but for vectors: grouping them
would copy the gradients.
"""

from eagc_jax._by_leaf import ByLeaf, Place, check_places, spec_of, stand_in
from eagc_jax.blocks.granularity import (
    GLOBAL,
    GRANULARITIES,
    POOL,
    Granularity,
    block_axes,
    check_granularity,
)
from eagc_jax.blocks.layout import Layout
from eagc_jax.blocks.making import layout_of_params, layout_of_updates
from eagc_jax.blocks.packs import are_placed, packed, packs_of
from eagc_jax.blocks.split import Split, axis_sizes

__all__ = [
    "GLOBAL",
    "GRANULARITIES",
    "POOL",
    "ByLeaf",
    "Granularity",
    "Layout",
    "Place",
    "Split",
    "are_placed",
    "axis_sizes",
    "block_axes",
    "check_granularity",
    "check_places",
    "layout_of_params",
    "layout_of_updates",
    "packed",
    "packs_of",
    "spec_of",
    "stand_in",
]
