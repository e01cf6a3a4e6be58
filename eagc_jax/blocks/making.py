"""The layout of a tree, from parameters or from updates."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import PartitionSpec

from eagc_jax import _shards
from eagc_jax.blocks.granularity import Granularity
from eagc_jax.blocks.layout import Layout
from eagc_jax.blocks.split import Split


def layout_of_params(
    granularity: Granularity,
    params: dict[str, jax.Array],
    names: tuple[str, ...] = (),
    specs: dict[str, PartitionSpec] | None = None,
) -> Layout:
    """The layout from named parameters; inside ``shard_map``, split over ``names``."""
    layout = Layout(granularity, {n: np.shape(leaf) for n, leaf in params.items()})
    return _with_splits(layout, params, names, specs)


def layout_of_updates(
    granularity: Granularity,
    updates: dict[str, jax.Array],
    names: tuple[str, ...] = (),
    specs: dict[str, PartitionSpec] | None = None,
) -> Layout:
    """The layout from named updates ``(K, *shape)``."""
    layout = Layout(granularity, {n: np.shape(u)[1:] for n, u in updates.items()})
    return _with_splits(layout, updates, names, specs)


def _with_splits(
    layout: Layout,
    leaves: dict[str, jax.Array],
    names: tuple[str, ...],
    specs: dict[str, PartitionSpec] | None,
) -> Layout:
    if not names:
        return layout
    splits = {n: _split(layout, n, leaf, names, specs) for n, leaf in leaves.items()}
    kept = {name: split for name, split in splits.items() if split != Split()}
    return Layout(layout.granularity, layout.shapes, kept)


def _split(
    layout: Layout,
    name: str,
    leaf: jax.Array,
    names: tuple[str, ...],
    specs: dict[str, PartitionSpec] | None,
) -> Split:
    over = _shards.split_over(leaf, names)
    axes, rank = layout.axes[name], len(layout.shapes[name])
    if len(axes) == rank or not over:
        return Split(within=over)
    if not axes:
        return Split(across=over)
    if specs is None:
        raise ValueError(
            f"leaf '{name}' is split over {over}, and a block of granularity "
            f"{layout.granularity!r} spans its axes {axes} alone: give param_specs, the "
            "PartitionSpecs of the parameters, that shard_map got as in_specs; or "
            "use granularity 'global' or 'tensor'."
        )
    if name not in specs:
        raise ValueError(
            f"param_specs has no leaf '{name}'; it has {list(specs)[:5]}. It must be a "
            "tree like params."
        )
    spec = tuple(specs[name]) + (None,) * (rank - len(tuple(specs[name])))
    by_axis = [(e,) if isinstance(e, str) else tuple(e or ()) for e in spec]
    within = tuple(n for axis in axes for n in by_axis[axis] if n in over)
    return Split(within, tuple(n for n in over if n not in within))
