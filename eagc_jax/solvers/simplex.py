"""The simplex: projection onto it, and Frank-Wolfe on it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax.solvers.entrywise import dot, matvec
from eagc_jax.solvers.nnqp import SolveInfo


def project_simplex(x: jax.Array) -> jax.Array:
    """The nearest point of the simplex {w >= 0, sum w = 1} to ``x`` ``(K,)``."""
    ordered = jnp.sort(x)[::-1]
    excess = jnp.cumsum(ordered) - 1
    counts = jnp.arange(1, x.shape[0] + 1, dtype=x.dtype)
    inside = ordered * counts > excess
    last = jnp.sum(inside, dtype=jnp.int32) - 1
    return jnp.maximum(x - excess[last] / counts[last], 0.0)


def frank_wolfe(
    matrix: jax.Array, *, tolerance: float = 1e-3, max_iterations: int = 100
) -> tuple[jax.Array, SolveInfo]:
    """Minimises ``w' G w`` over the simplex by Frank-Wolfe steps of exact length.

    For comparison with other implementations; it is slow to converge.
    :func:`eagc_jax.solvers.nnqp` solves the same problem to rounding.

    Args:
      matrix: G, ``(K, K)``.
      tolerance: it stops at a step length below this.
      max_iterations: and after this many steps at the latest.

    Returns:
      w ``(K,)``, and its :class:`SolveInfo`: the residual is the duality gap relative to
      the largest diagonal entry.
    """
    number = matrix.shape[0]

    def body(carry):
        w, _, iterations = carry
        along = matvec(matrix, w)
        vertex = jnp.argmin(along)
        a, b, c = along[vertex], dot(w, along), matrix[vertex, vertex]
        inner = (b - a) / jnp.where(b + c - 2 * a > 0, b + c - 2 * a, 1.0)
        length = jnp.where(c <= a, 1.0, jnp.where(b <= a, 0.0, inner))
        moved = (1 - length) * w
        return moved.at[vertex].add(length), length, iterations + 1

    def unfinished(carry):
        return (carry[1] >= tolerance) & (carry[2] < max_iterations)

    uniform = jnp.full((number,), 1 / number, matrix.dtype)
    first = (uniform, jnp.ones([], matrix.dtype), jnp.zeros([], jnp.int32))
    w, _, iterations = jax.lax.while_loop(unfinished, body, first)
    along = matvec(matrix, w)
    level = jnp.max(jnp.diagonal(matrix))
    gap = (dot(w, along) - jnp.min(along)) / jnp.where(level > 0, level, 1.0)
    return w, SolveInfo(gap, iterations)
