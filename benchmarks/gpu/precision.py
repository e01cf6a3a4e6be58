"""What TF32 does to the cosines between gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.gpu import trees
from benchmarks.gpu.context import Context, Part, Row, attempt
from benchmarks.gpu.sizes import Sizes
from eagc_jax import gram_matrix

HIGHEST, DEFAULT = jax.lax.Precision.HIGHEST, jax.lax.Precision.DEFAULT


def part(sizes: Sizes) -> Part:
    return Part(
        "precision",
        "cosines between float32 gradients: largest absolute difference from those of "
        "products in full float32",
        tuple(f"K = {k}, {way}" for k in sizes.num_objectives for way in _WAYS),
        _rows,
    )


def _rows(context: Context) -> Iterator[Row]:
    for number in context.sizes.num_objectives:
        for way, function in _WAYS.items():
            row = {"num_objectives": number, "way": way}
            yield attempt(row, functools.partial(_compare, context, number, function))


def _compare(context: Context, number: int, function: Callable) -> Row:
    gradients = correlated(trees.abstract(context.sizes.tree, (number,), "float32"))
    exact = gram_by_products(gradients, HIGHEST)
    difference = cosines(function(gradients)) - cosines(exact)
    return {"largest_difference": float(jnp.max(jnp.abs(difference)))}


def correlated(tree: Any) -> Any:
    """Random numbers, with a part that all K rows share: cosines around one half."""
    own, shared = trees.fill(tree, seed=1), trees.fill(tree, seed=2)
    return jax.tree.map(lambda a, b: a + b[:1], own, shared)


def cosines(gram: jax.Array) -> jax.Array:
    norms = jnp.sqrt(jnp.diagonal(gram))
    return gram / norms[:, None] / norms[None, :]


def gram_by_products(gradients: Any, precision: Any) -> jax.Array:
    """One matrix product a leaf, as it is usually written."""
    return sum(_product(leaf, precision) for leaf in jax.tree.leaves(gradients))


def gram_by_leaf(gradients: Any) -> jax.Array:
    """The package's, leaf by leaf: ten shapes compile sooner than 150 leaves."""
    return sum(_gram(leaf) for leaf in jax.tree.leaves(gradients))


@jax.jit
def _gram(leaf):
    return gram_matrix([leaf])


@functools.partial(jax.jit, static_argnums=1)
def _product(leaf, precision):
    rows = leaf.reshape(leaf.shape[0], -1)
    return jnp.matmul(rows, rows.T, precision=precision)


_WAYS: dict[str, Callable[[Any], jax.Array]] = {
    "products at default precision": functools.partial(
        gram_by_products, precision=DEFAULT
    ),
    "gram_matrix": gram_by_leaf,
}
