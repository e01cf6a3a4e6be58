"""Trees of arrays as arrays by name, and back."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.typing import PyTree

Leaf: TypeAlias = np.ndarray | jax.Array | jax.ShapeDtypeStruct

_OUTSIDE = re.compile(r"[^A-Za-z0-9_.-]")  # of what a file's name may have
_LONGEST = 200


def to_arrays(tree: PyTree) -> dict[str, np.ndarray]:
    """Arrays of a tree by name, but for empty ones; typed keys as their numbers."""
    return {n: np.asarray(_untyped(x)) for n, x in _named(tree).items() if _size(x)}


def shapes_of(tree: PyTree) -> dict[str, jax.ShapeDtypeStruct]:
    """What `to_arrays` makes of a tree of arrays, or of their shapes."""
    found = {}
    for name, leaf in _named(tree).items():
        if is_key(leaf):
            leaf = jax.eval_shape(jax.random.key_data, leaf)
        if _size(leaf):
            found[name] = jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype)
    return found


def from_arrays(
    like: PyTree, arrays: Mapping[str, np.ndarray], *, host: bool
) -> PyTree:
    """The tree again, of the form of `like`: on the host, or on the device.

    Nobody may write to the arrays afterwards.
    """
    leaves = []
    for name, leaf in _named(like).items():
        found = arrays[name] if _size(leaf) else np.zeros(np.shape(leaf), leaf.dtype)
        if is_key(leaf):
            assert isinstance(leaf, jax.Array)  # shapes stand for numbers
            impl = jax.random.key_impl(leaf)
            found = jax.random.wrap_key_data(jax.device_put(found), impl=impl)
        leaves.append(found)
    tree = jax.tree.unflatten(jax.tree.structure(like), leaves)
    return tree if host else jax.device_put(tree)


def _named(tree: PyTree) -> dict[str, Leaf]:
    """Leaves by their path, as a file's name."""
    found: dict[str, Leaf] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        text = jax.tree_util.keystr(path, simple=True, separator=".")
        name = _OUTSIDE.sub("_", text)[-_LONGEST:].lstrip(".") or "leaf"
        key, again = name, 2
        while key.lower() in found:  # nor two names that differ in their case alone
            key, again = f"{name}-{again}", again + 1
        found[key.lower()] = leaf
    return found


def _size(leaf: Leaf) -> int:
    return math.prod(np.shape(leaf))


def is_key(leaf: Leaf) -> bool:
    """Whether an array, or its shape, is of typed random keys."""
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _untyped(leaf: Leaf) -> Leaf:
    if isinstance(leaf, jax.Array) and is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf
