"""What is measured, by group of blocks."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax._trees import widened
from eagc_jax.blocks import GLOBAL, Layout
from eagc_jax.features.projection.options import Options
from eagc_jax.gram import exponents_for, grams_by_leaf, power_of_two
from eagc_jax.objectives import expand_to


class Found(NamedTuple):
    """Means over blocks, of gradients in units that are powers of two."""

    square: dict[str, jax.Array]  # <g_k, g_k>, (K, blocks).
    inner: dict[str, jax.Array]  # <g_k, g_s>, (K, blocks).
    along: dict[str, jax.Array]  # <g_k, d>, (K, blocks).
    length: dict[str, jax.Array]  # <d, d>, (1, blocks).
    units: jax.Array  # (K,).


def measure(
    leaves: dict[str, jax.Array],
    direction: dict[str, jax.Array],
    layout: Layout,
    options: Options,
) -> Found:
    """Products of every gradient with itself, the supervised one and the direction.

    As :func:`eagc_jax.gram.gram_blocks`: as they are, and again, in other units, only
    where a whole gradient's square comes close to the ends of float32's range; in a loop
    that normally runs once. Units of every leaf's own would make a dozen small programs
    a leaf more; without them a leaf whose entries are 1e19 times smaller than others'
    counts as one without a gradient.

    Args:
      leaves: by name, ``(K, *shape)``.
      direction: by name, ``(*shape)``; empty where d is the supervised gradient.
      layout: of the blocks.
      options: of the projection.
    """

    def products(exponents: jax.Array) -> _Products:
        return _products(leaves, direction, layout, options, exponents)

    def body(carry):
        turn, exponents, _ = carry
        found = products(exponents)
        wanted = exponents_for(_squares(found, layout)[:rows])
        again = (turn == 0) & jnp.any(wanted != 0)
        exponents = jnp.where(again, wanted, exponents)
        return jnp.where(again, jnp.int32(1), jnp.int32(2)), exponents, found

    number = next(iter(leaves.values())).shape[0]
    rows = number + bool(direction)
    zeros = jnp.zeros((rows,), jnp.int32)
    # Typed as they will be: on meshes with explicit axes, and in shard_map.
    start = jax.tree.map(jnp.zeros_like, jax.eval_shape(products, zeros))
    carry = jnp.zeros([], jnp.int32), zeros, start
    carry = jax.lax.while_loop(lambda carry: carry[0] < 2, body, carry)
    _, exponents, (square, inner, along, length) = carry
    units = power_of_two(-exponents[:number], jnp.float32)
    return Found(square, inner, along, length, units)


# square, inner, along and length, as in ``Found``
_Products = tuple[
    dict[str, jax.Array],
    dict[str, jax.Array],
    dict[str, jax.Array],
    dict[str, jax.Array],
]


def _products(
    leaves: dict[str, jax.Array],
    direction: dict[str, jax.Array],
    layout: Layout,
    options: Options,
    exponents: jax.Array,
) -> _Products:
    """(square, inner, along, length) of rows multiplied by ``2^exponents``."""
    number = next(iter(leaves.values())).shape[0]
    powers = power_of_two(exponents, jnp.float32)
    matrix = jnp.broadcast_to(powers[:number, None], (number, number))
    grams = grams_by_leaf(leaves, layout, matrix)
    sums = {
        name: jnp.expand_dims(
            gram.reshape(number * number, *gram.shape[2:]),
            tuple(axis + 1 for axis in layout.axes[name]),
        )
        for name, gram in grams.items()
    }
    found = _whole(layout.means_of_sums(sums), layout)
    found = {g: x.reshape(number, number, *x.shape[1:]) for g, x in found.items()}
    square = {g: jnp.stack([x[k, k] for k in range(number)]) for g, x in found.items()}
    inner = {g: x[:, options.supervised] for g, x in found.items()}
    if not direction:
        one = slice(options.supervised, options.supervised + 1)
        return square, inner, inner, {g: x[one] for g, x in square.items()}
    along, length = {}, {}
    for name, leaf in leaves.items():
        rows = widened(leaf)
        d = direction[name].astype(rows.dtype)[None]
        d = d * powers[number].astype(d.real.dtype)
        by = expand_to(powers[:number], rows.ndim).astype(d.real.dtype)
        along[name] = (rows * by * jnp.conj(d)).real
        length[name] = (d * jnp.conj(d)).real
    along, length = (
        _whole(layout.block_means(values), layout) for values in (along, length)
    )
    return square, inner, along, length


def _whole(groups: dict[str, jax.Array], layout: Layout) -> dict[str, jax.Array]:
    """Means of blocks; where everything is one block, its sum."""
    if layout.granularity != GLOBAL:
        return groups
    sums = layout.leaf_means(groups) * layout.sizes()[None]
    return {GLOBAL: jnp.sum(sums, axis=1, keepdims=True)}


def _squares(found: _Products, layout: Layout) -> jax.Array:
    """Of the K gradients and of d, all their entries: ``(K + 1,)``."""
    square, _, _, length = found
    if layout.granularity == GLOBAL:
        return jnp.concatenate([x[GLOBAL][:, 0] for x in (square, length)])
    sums = [layout.leaf_means(x) * layout.sizes()[None] for x in (square, length)]
    return jnp.sum(jnp.concatenate(sums), axis=1)
