"""Sums over slices of leaves that stay in cache: for the CPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from eagc_jax._shards import vary_like


def sum_over_blocks(
    leaves: Sequence[jax.Array],
    shapes: Sequence[tuple[int, ...]],
    block: int,
    function: Callable[..., jax.Array],
) -> jax.Array:
    """The sum of ``function`` over blocks of one leaf, or of several alongside.

    Args:
      leaves: arrays.
      shapes: what each is seen as, of at least two axes; axis 1 is as long in all.
      block: the width of a slice of axis 1; the last one may be less.
      function: from a slice of each to an array.

    Returns:
      What ``function`` returns, summed.
    """
    number, rest = divmod(shapes[0][1], block)

    def seen(leaves):
        return [x.reshape(shape) for x, shape in zip(leaves, shapes, strict=True)]

    def body(index, total):
        # Reshaped in here: out there XLA may write the leaf a second time, so shaped.
        parts = [
            jax.lax.dynamic_slice_in_dim(x, index * block, block, axis=1)
            for x in seen(leaves)
        ]
        return total + function(*parts)

    last = [x[:, number * block :] for x in seen(leaves)]
    if not number:
        return function(*last)
    of_one = jax.eval_shape(
        lambda xs: function(*[x[:, :block] for x in seen(xs)]), leaves
    )
    zeros = vary_like(jnp.zeros(of_one.shape, of_one.dtype), *leaves)
    total = jax.lax.fori_loop(0, number, body, zeros)
    return total + function(*last) if rest else total
