"""Trees by the names of their leaves, the dtype of sums, and how a state moves on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec

from eagc_jax.blocks import GLOBAL
from eagc_jax.typing import Params, PyTree

# ---------------------------------------------------------------------------
# Names
# ---------------------------------------------------------------------------


def leaf_name(path: tuple[object, ...]) -> str:
    """A leaf's path as text, ``"blocks/11/kernel"``; the same for arrays and Variables.

    ``nnx.Optimizer`` calls ``init`` with Variables, whose arrays sit one step deeper
    under ``.value``, and ``update`` with bare arrays. That last step is dropped.
    """
    if path and getattr(path[-1], "name", None) == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/") or "params"


def named_leaves(tree: PyTree) -> dict[str, jax.Array]:
    """The leaves of a tree by their path, in tree order."""
    named: dict[str, jax.Array] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = leaf_name(path)
        # {"a": {"b": ...}, "a/b": ...}: rare, but legal; nor may a leaf be called what
        # the one block at granularity "global" is.
        while name in named or name == GLOBAL:
            name += "'"
        named[name] = leaf
    return named


def named_specs(param_specs: PyTree) -> dict[str, PartitionSpec] | None:
    """A tree of ``PartitionSpec`` by leaf name; raises ValueError for another."""
    if param_specs is None:
        return None
    found = jax.tree_util.tree_leaves_with_path(
        param_specs, is_leaf=lambda node: isinstance(node, PartitionSpec)
    )
    for path, spec in found:
        if not isinstance(spec, PartitionSpec):
            raise ValueError(
                "param_specs must be a tree of jax.sharding.PartitionSpec like params; "
                f"leaf '{leaf_name(path)}' is {spec!r}."
            )
    return {leaf_name(path): spec for path, spec in found}


# ---------------------------------------------------------------------------
# The dtype of sums
# ---------------------------------------------------------------------------


def compute_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype sums are made in: at least float32, wider where the leaf is wider."""
    # NumPy's rule: JAX's own refuses under jax.numpy_dtype_promotion("strict").
    return np.promote_types(dtype, np.float32)


def widened(leaf: jax.Array) -> jax.Array:
    """The leaf in the dtype that sums are made in: float32, or wider as it is."""
    return leaf.astype(compute_dtype(leaf.dtype))


def wide_zeros(params: Params, number: int | None = None) -> PyTree:
    """Zeros like the parameters, or K times them, in float32 or wider."""

    def zeros(p):
        one = jnp.zeros_like(p, dtype=compute_dtype(jnp.result_type(p)))
        # From the parameter, so that they lie where it lies.
        return one if number is None else jnp.stack([one] * number)

    return jax.tree.map(zeros, params)


def ratio(
    numerator: jax.Array, denominator: jax.Array, otherwise: float = 0.0
) -> jax.Array:
    """``numerator / denominator``, and ``otherwise`` where the denominator isn't > 0."""
    positive = denominator > 0
    return jnp.where(
        positive, numerator / jnp.where(positive, denominator, 1), otherwise
    )


# ---------------------------------------------------------------------------
# From one state to the next
# ---------------------------------------------------------------------------


def select(advance: jax.Array, new: PyTree, old: PyTree) -> PyTree:
    """The new tree where it may change, the old one elsewhere."""
    return jax.tree.map(lambda n, o: jnp.where(advance, n, o), new, old)


def increment(count: jax.Array) -> jax.Array:
    """The next step's number; stays at the largest int32."""
    return jnp.asarray(optax.safe_increment(count))


def counted(count: jax.Array, more: jax.Array) -> jax.Array:
    """int32 counts and ``more``, bool or int32 >= 0; they stay at the largest int32."""
    room = jnp.iinfo(jnp.int32).max - count
    return count + jnp.minimum(more.astype(jnp.int32), room)
