"""Granularity: which entries of a leaf are assessed and gated together.

A *block* is what shares one energy and one gate. Block arrays keep the reduced axes with
length 1, so that they broadcast over their leaf.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# "global", "tensor", "channel", "element", or (path, param shape) -> axes of the param
# that one block spans.
Granularity = str | Callable[[str, tuple[int, ...]], tuple[int, ...]]

GRANULARITIES = ("global", "tensor", "channel", "element")
GLOBAL = "global"  # the name of the only block at that granularity


def check_granularity(granularity: Any) -> None:
    """Raises ValueError unless it is one of the four names or a function."""
    if not callable(granularity) and granularity not in GRANULARITIES:
        raise ValueError(
            f"granularity must be one of {GRANULARITIES}, or a function (path, shape) "
            f"-> axes that one block spans; got {granularity!r}."
        )


def block_axes(
    granularity: Granularity, name: str, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The axes of a parameter that one block spans.

    "channel" follows ``optax.adaptive_grad_clip``: a vector is one block; of a matrix
    (in, out) or a kernel (in, heads, dim) axis 0 is reduced, one block per output unit;
    of a convolution kernel all but the last axis, one block per filter.
    """
    rank = len(shape)
    if callable(granularity):
        axes = tuple(int(axis) for axis in granularity(name, shape))
        if not all(-rank <= axis < rank for axis in axes):
            raise ValueError(
                f"granularity gave the axes {axes} for leaf '{name}' of shape {shape}."
            )
        return tuple(sorted({axis % rank for axis in axes}))
    if granularity == "element":
        return ()
    if granularity != "channel" or rank <= 1:
        return tuple(range(rank))
    return (0,) if rank <= 3 else tuple(range(rank - 1))


def block_shape(
    granularity: Granularity, name: str, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape of a leaf's block array, less the objective axis."""
    axes = block_axes(granularity, name, shape)
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape))


def block_zeros(
    granularity: Granularity, name: str, leaf: Any, num_objectives: int
) -> jax.Array:
    """``(K, *block)`` float32 zeros for a parameter, sharded as its blocks are.

    Computed from the parameter's own zeros, since only so they follow its sharding in
    every setting: traced or not, with a mesh whose axes are explicit or automatic.
    """
    axes = block_axes(granularity, name, np.shape(leaf))
    zeros = jnp.zeros_like(leaf, dtype=jnp.float32)
    if axes:
        zeros = jnp.sum(zeros, axis=axes, keepdims=True)
    return jnp.stack([zeros] * num_objectives)


def block_mean(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The mean over each block, axes kept; 0 for a leaf without entries."""
    size = math.prod(values.shape[axis] for axis in axes)
    if not axes:
        return values
    return jnp.sum(values, axis=axes, keepdims=True) / max(size, 1)


def leaf_mean(blocks: jax.Array) -> jax.Array:
    """``(K, *block)`` to ``(K,)``: the mean over a leaf's blocks, all of one size."""
    return block_mean(blocks, tuple(range(1, blocks.ndim))).reshape(blocks.shape[0])


def leaf_size(leaf: Any) -> int:
    """How many entries one objective has in a ``(K, *shape)`` leaf."""
    return math.prod(np.shape(leaf)[1:])
