"""Trees of numbers, and how many bytes they are."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp


def is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def abstract(shapes: Any, leading: tuple[int, ...], dtype: Any) -> Any:
    """Leaves ``(*leading, *shape)`` without numbers in them."""
    return jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct((*leading, *shape), dtype),
        shapes,
        is_leaf=is_shape,
    )


def fill(tree: Any, seed: int = 0, scale: float = 1.0) -> Any:
    """Random numbers of that standard deviation in the place of abstract leaves."""
    leaves, treedef = jax.tree.flatten(tree)
    key = jax.random.key(
        seed, impl="rbg"
    )  # compiles, and runs, sooner than the default
    made = [
        _uniform(jax.random.fold_in(key, index), scale, leaf.shape, leaf.dtype)
        for index, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, made)


def count_bytes(tree: Any) -> int:
    """Of all leaves."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )


# Compiled once for each shape: a ViT has about ten, and 150 leaves.
@functools.partial(jax.jit, static_argnums=(2, 3))
def _uniform(key, scale, shape, dtype):
    drawn = jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)
    return (3**0.5 * scale * drawn).astype(jnp.dtype(dtype))
