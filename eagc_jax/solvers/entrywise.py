"""Products of small matrices and vectors, entry by entry.

A matrix product at default precision is rounded to bfloat16 on TPU and to TF32 on many
GPUs, and at full precision it takes the TPU's compiler seconds. For K numbers neither is
worth it: here every product is rounded once, in the arrays' own dtype.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def dot(left: jax.Array, right: jax.Array) -> jax.Array:
    """``(K,)`` and ``(K,)`` to ``()``."""
    return jnp.sum(left * right)


def matvec(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """``(K, L)`` and ``(L,)`` to ``(K,)``."""
    return jnp.sum(matrix * vector[None, :], axis=1)
