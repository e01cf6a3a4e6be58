"""A Gram matrix in parts: cosines, norms relative to the largest, and that one."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Gram(NamedTuple):
    """A Gram matrix in parts: ``g_i . g_j = scale^2 norms_i norms_j cosines_ij``.

    An objective whose gradient is zero, or that takes no part, has norm 0, cosine 0 with
    the others and 1 with itself, so that systems in the cosines stay regular.
    """

    cosines: jax.Array  # shape=(K, K), float: unit diagonal, symmetric.
    norms: jax.Array  # shape=(K,), float, in [0, 1]: relative to the largest.
    scale: jax.Array  # shape=(), float: the largest norm, in the gradients' units.

    @property
    def matrix(self) -> jax.Array:
        """The Gram matrix over ``scale^2``: its largest diagonal entry is 1."""
        return self.cosines * self.norms[:, None] * self.norms[None, :]


def split_gram(gram: jax.typing.ArrayLike) -> Gram:
    """A ``(K, K)`` Gram matrix in parts.

    Args:
      gram: symmetric, positive semi-definite; of any float dtype.

    Returns:
      Its :class:`Gram`, float32 or wider.
    """
    gram = jnp.asarray(gram)
    gram = gram.astype(np.promote_types(gram.dtype, np.float32))
    exponents = jnp.zeros(gram.shape[:1], jnp.int32)
    return from_scaled(0.5 * (gram + gram.T), exponents)


@jax.jit  # traced once for a size, and one program where it is called by itself
def from_scaled(gram: jax.Array, exponents: jax.Array) -> Gram:
    """Parts of the Gram matrix of rows that were multiplied by ``2^exponents``."""
    squares = jnp.diagonal(gram)
    positive = squares > 0
    roots = jnp.sqrt(jnp.where(positive, squares, 1.0))
    cosines = gram / roots[:, None] / roots[None, :]
    cosines = 0.5 * (cosines + cosines.T)  # divided in another order, rounded otherwise
    cosines = jnp.where(positive[:, None] & positive[None, :], cosines, 0.0)
    eye = jnp.eye(gram.shape[0], dtype=bool)
    # A NaN on the diagonal stays: it must reach the weights.
    unit = jnp.where(jnp.isnan(squares), squares, 1.0)
    cosines = jnp.where(eye, unit[:, None], jnp.clip(cosines, -1.0, 1.0))
    base = jnp.min(jnp.where(positive, exponents, jnp.iinfo(jnp.int32).max))
    base = jnp.where(jnp.any(positive), base, 0)
    norms = jnp.where(positive | jnp.isnan(squares), jnp.sqrt(squares), 0.0)
    norms = norms * power_of_two(base - exponents, gram.dtype)
    largest = jnp.max(norms)
    norms = norms / jnp.where(largest > 0, largest, 1.0)
    # In two halves: the power alone may leave the range where the product doesn't.
    half = -base // 2
    scale = largest * power_of_two(half, gram.dtype)
    scale = scale * power_of_two(-base - half, gram.dtype)
    return Gram(cosines, norms, scale)


def whole(grams: Gram) -> Gram:
    """The Gram of a tree from those of its blocks, ``(B, ...)``: their sum."""
    if grams.scale.shape[0] == 1:
        return jax.tree.map(lambda x: x[0], grams)
    lengths = grams.scale[:, None] * grams.norms
    largest = jnp.max(lengths, axis=0)
    # Over the largest: the squares then stay in range.
    shares = lengths / jnp.where(largest > 0, largest, 1.0)
    roots = jnp.sqrt(jnp.sum(shares**2, axis=0))
    shares = shares / jnp.where(roots > 0, roots, 1.0)
    cosines = jnp.sum(grams.cosines * shares[:, :, None] * shares[:, None, :], axis=0)
    eye = jnp.eye(cosines.shape[0], dtype=bool)
    total = largest * roots
    scale = jnp.max(total)
    norms = total / jnp.where(scale > 0, scale, 1.0)
    return Gram(jnp.where(eye, 1.0, jnp.clip(cosines, -1.0, 1.0)), norms, scale)


def scaling_to_one(gram: Gram) -> tuple[jax.Array, jax.Array]:
    """``(K,)`` exponents of two that bring norms near 1, and what norms then are."""
    _, of_scale = jnp.frexp(gram.scale)
    of_scale = jnp.clip(of_scale, -120, 120)
    _, of_norms = jnp.frexp(gram.norms)
    exponents = jnp.clip(-(of_norms + of_scale), -120, 120)
    # In two halves, each in range.
    norms = gram.norms * power_of_two(exponents + of_scale, gram.norms.dtype)
    return exponents, norms * (gram.scale * power_of_two(-of_scale, gram.norms.dtype))


def power_of_two(exponents: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """``2^exponents``, exactly; at the ends of the range, its ends."""
    if dtype != np.float32:
        return jnp.ldexp(jnp.ones([], dtype), exponents)
    # Its bits, exact and a few instructions; below the smallest normal number, that.
    bits = (jnp.clip(exponents, -126, 127) + 127) << 23
    return jax.lax.bitcast_convert_type(bits.astype(jnp.int32), jnp.float32)
