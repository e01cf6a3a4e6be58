"""Linear programs over the simplex, by looking at every vertex."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np

# Beyond, there are too many vertices to look at.
LARGEST = 6


def best_vertex(
    cost: jax.Array, matrix: jax.Array, bounds: jax.Array
) -> tuple[jax.Array, jax.Array]:
    r"""Solves :math:`\max c^\top x`, x in the simplex, :math:`Ax\ge b`.

    A linear program has a solution in a vertex: K - 1 of the inequalities hold as
    equalities there. All choices of K - 1 are solved at once, and the best of those that
    satisfy the others is taken: no loop that depends on the numbers, and exact to
    rounding, but for few variables only: with m rows there are
    :math:`\binom{K+m}{K-1}` choices, 84 for K = 4 and m = 5.

    Args:
      cost: c, ``(K,)``, K of 1 to 6.
      matrix: A, ``(m, K)``.
      bounds: b, ``(m,)``; minus infinity for a row that doesn't count.

    Returns:
      x ``(K,)``, and whether there is a feasible one, shape=() bool. Rows are relative to
      their largest entry; a bound counts as met to within a few hundred roundings.

    Raises:
      ValueError: more than 6 variables.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.solvers.vertices import best_vertex
      >>> one = jnp.array([[1.0, 0.0]])  # at least 1/4 of the first
      >>> best_vertex(jnp.array([1.0, 2.0]), one, jnp.array([0.25]))[0]
      Array([0.25, 0.75], dtype=float32)
    """
    number = cost.shape[0]
    if number > LARGEST:
        raise ValueError(
            f"best_vertex looks at 1 to {LARGEST} variables, got {number}."
        )
    return _best(cost, matrix, bounds)


@jax.jit  # many small operations, in a program of their own where nothing else is
def _best(
    cost: jax.Array, matrix: jax.Array, bounds: jax.Array
) -> tuple[jax.Array, jax.Array]:
    number, dtype = cost.shape[0], cost.dtype
    counts = bounds > -jnp.inf
    size = jnp.max(jnp.abs(matrix), axis=1)
    size = jnp.maximum(size, jnp.where(counts, jnp.abs(bounds), 0))
    size = jnp.where(size > 0, size, 1)
    rows = jnp.concatenate([jnp.eye(number, dtype=dtype), matrix / size[:, None]])
    least = jnp.where(counts, bounds, 0) / size
    least = jnp.concatenate([jnp.zeros(number, dtype), least])
    counts = jnp.concatenate([jnp.ones(number, bool), counts])
    tight = list(itertools.combinations(range(rows.shape[0]), number - 1))
    choices = np.array(tight, int).reshape(len(tight), number - 1)
    ones = jnp.ones((len(choices), 1, number), dtype)
    systems = jnp.concatenate([ones, rows[choices]], axis=1)
    right = jnp.concatenate([ones[:, :, 0], least[choices]], axis=1)
    x, regular = _solved(systems, right)
    near = 300 * float(jnp.finfo(dtype).eps)
    held = jnp.sum(x[:, None, :] * rows[None], axis=2) >= least[None] - near
    feasible = regular & jnp.all(held | ~counts[None], axis=1)
    gains = jnp.where(feasible, jnp.sum(x * cost[None], axis=1), -jnp.inf)
    best = jnp.maximum(x[jnp.argmax(gains)], 0)
    return best / jnp.maximum(jnp.sum(best), near), jnp.any(feasible)


def _solved(systems: jax.Array, right: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Gauss-Jordan on ``(B, K, K)``, rows exchanged: ``(B, K)``, and who is regular."""
    number = right.shape[1]
    table = jnp.concatenate([systems, right[:, :, None]], axis=2)
    regular = jnp.ones(right.shape[:1], bool)
    tiny = 100 * float(jnp.finfo(right.dtype).eps)
    index = jnp.arange(number)[None, :]
    for step in range(number):
        sizes = jnp.where(index >= step, jnp.abs(table[:, :, step]), -1)
        chosen = jnp.argmax(sizes, axis=1)[:, None]
        order = jnp.where(index == step, chosen, index)
        order = jnp.where((index == chosen) & (index != step), step, order)
        table = jnp.take_along_axis(table, order[:, :, None], axis=1)
        pivot = table[:, step, step]
        regular = regular & (jnp.abs(pivot) > tiny)
        row = table[:, step] / jnp.where(jnp.abs(pivot) > tiny, pivot, 1)[:, None]
        cleared = table - table[:, :, step, None] * row[:, None, :]
        table = jnp.where((index == step)[:, :, None], row[:, None, :], cleared)
        # A singular system is out: its numbers mustn't grow.
        table = jnp.where(regular[:, None, None], table, 0)
    return table[:, :, number], regular
