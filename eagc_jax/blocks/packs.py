"""Vectors of one length as one array."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from eagc_jax import _shards

Packs = dict[str, tuple[str, ...]]


def packs_of(shapes: Mapping[str, tuple[int, ...]]) -> Packs:
    """The names of all vectors, those of one length by a name that no leaf has.

    Args:
      shapes: by leaf, less any leading axis.
    """
    found: dict[str, list[str]] = {}
    for name, shape in shapes.items():
        if len(shape) == 1:
            found.setdefault(f"*{shape[0]}", []).append(name)
    return {key: tuple(names) for key, names in found.items()}


def packed(values: dict[str, jax.Array], packs: Packs) -> dict[str, jax.Array]:
    """``(lead, *shape)`` by leaf; those of each pack as one, ``(lead, leaves, n)``.

    Most leaves are vectors, biases and scales, and next to nothing to copy: what is
    computed from each of them is then computed once a length, not once a leaf. Not where
    their types say where they lie, which may differ. Where that is the compiler's to
    decide it splits a pack as the leaves that are split, and sums over devices what it
    would have summed leaf by leaf.
    """
    members = {name for names in packs.values() for name in names}
    if are_placed(values[name] for name in members):
        return values
    found = {name: value for name, value in values.items() if name not in members}
    for key, names in packs.items():
        rows = [values[name] for name in names]
        dtype = functools.reduce(jnp.promote_types, [row.dtype for row in rows])
        found[key] = jnp.stack([row.astype(dtype) for row in rows], axis=1)
    return found


def are_placed(leaves: Iterable[jax.Array]) -> bool:
    """Whether axes of any are explicit, or manual within ``shard_map``."""
    return any(_is_placed(leaf) for leaf in leaves)


def _is_placed(leaf: jax.Array) -> bool:
    explicit = any(axis is not None for axis in jax.typeof(leaf).sharding.spec)
    return explicit or bool(_shards.varying_over(leaf))
