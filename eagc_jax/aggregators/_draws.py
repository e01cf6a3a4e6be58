"""One uniform number for each coordinate of a leaf, from a hash of where it is.

A generator's words cost more than the rest of an elementwise method, in time and in
compiling. A hash of the coordinate's number costs a few operations, nothing is stored,
and the number is the same however the leaf is sharded.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from eagc_jax._shards import split_over
from eagc_jax.blocks import axis_sizes

_BITS = 24  # that float32 holds


def uniform_by_coordinate(
    words: jax.Array,
    leaf: jax.Array,
    dtype: jax.typing.DTypeLike,
    names: tuple[str, ...] = (),
    spec: PartitionSpec | None = None,
) -> jax.Array:
    """Numbers in [0, 1), multiples of ``2^-24``, one for each coordinate.

    Args:
      words: ``(2,)`` uint32, random: this leaf's in this step.
      leaf: ``(K, *shape)``. Coordinates ``2^32`` apart share a number.
      dtype: float32 or wider.
      names: inside ``shard_map``, the mesh axes over which leaves may be split.
      spec: how this leaf's parameter is split, as ``shard_map`` was told; the numbers
        are then those of the whole leaf. None: every part of a leaf has its own.

    Returns:
      ``(*shape)``.
    """
    split = split_over(leaf, names) if names else ()
    if spec is None and split:
        device = jax.lax.axis_index(split).astype(jnp.uint32)
        words = jnp.stack([_mixed(words[0] + device), words[1]])
    number = _coordinates(leaf.shape[1:], split, spec)
    # Twice: the numbers of two keys aren't those of one another, shifted.
    bits = _mixed(_mixed(number + words[0]) ^ words[1])
    return (bits >> (32 - _BITS)).astype(dtype) * 2.0**-_BITS


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of uint32: MurmurHash3's last step (Appleby, 2011, public domain)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _coordinates(
    shape: tuple[int, ...], split: tuple[str, ...], spec: PartitionSpec | None
) -> jax.Array:
    """The number of each coordinate in the whole leaf, in row-major order, uint32."""
    entries = tuple(spec or ())
    over = [_over(e, split) for e in entries] + [()] * (len(shape) - len(entries))
    sizes = [n * axis_sizes(axes) for n, axes in zip(shape, over, strict=True)]
    number = jnp.zeros(shape, jnp.uint32)
    for axis, axes in enumerate(over):
        own = jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
        if axes:
            part = jax.lax.axis_index(axes).astype(jnp.uint32)
            own = own + part * jnp.uint32(shape[axis])
        stride = math.prod(sizes[axis + 1 :]) % 2**32
        number = number + own * jnp.uint32(stride)
    return number


def _over(
    entry: str | tuple[str, ...] | None, split: tuple[str, ...]
) -> tuple[str, ...]:
    """The mesh axes that split one axis of a leaf."""
    axes = (entry,) if isinstance(entry, str) else tuple(entry or ())
    return tuple(name for name in axes if name in split)
