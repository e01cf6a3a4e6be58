"""Non-negative quadratic programs by block principal pivoting."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.solvers import two_float
from eagc_jax.solvers.two_float import TwoFloat


class SolveInfo(NamedTuple):
    """How a solve went."""

    residual: (
        jax.Array
    )  # shape=(), float: relative violation of what it had to satisfy.
    iterations: jax.Array  # shape=(), int32.


def no_solve() -> SolveInfo:
    """The info of a closed form: nothing was iterated, nothing is violated."""
    return SolveInfo(jnp.zeros([], jnp.float32), jnp.zeros([], jnp.int32))


# How often the ridged problem is solved, the later times drawn to the solution before
# instead of to 0: a direction of curvature h then misses (ridge / h)^2 of its share,
# which is less than float32's rounding of the matrix makes of it.
_ROUNDS = 2


class _Pivot(NamedTuple):
    free: jax.Array  # shape=(K,), bool: variables that may be positive, to try next.
    x: TwoFloat  # shape=(K,), >= 0: the last solution.
    center: TwoFloat  # shape=(K,): what the ridge draws it to.
    fewest: jax.Array  # shape=(), int32: violated conditions so far, in this round.
    patience: jax.Array  # shape=(), int32: full exchanges left without progress.
    rounds: jax.Array  # shape=(), int32: still to do.
    iterations: jax.Array  # shape=(), int32.


def nnqp(
    matrix: jax.typing.ArrayLike,
    linear: jax.typing.ArrayLike | TwoFloat,
    *,
    max_iterations: int | None = None,
) -> tuple[jax.Array, SolveInfo]:
    r"""Solves :math:`\min_{x \ge 0} \frac12 x^\top H x - b^\top x`.

    Block principal pivoting: guess which variables are free, solve for them, exchange
    every variable whose condition (:math:`x_i \ge 0` if free, :math:`(Hx - b)_i \ge 0`
    if not) is violated; when that stops making progress, exchange a single one. The
    problem is first scaled to a unit diagonal and a b of about 1: nothing depends on the
    units of H or b. K = 2 is a closed form.

    Where H is singular, or nearly, x is not unique, or rounding decides. So H + r I is
    solved instead, r a few K eps, once for itself and once drawn to that solution, which
    takes r out again wherever H is regular. Both problems have exactly one solution, and
    they are solved with twice the digits of their dtype: x doesn't depend on the order
    of the variables.

    Args:
      matrix: H, ``(K, K)``, symmetric, positive semi-definite.
      linear: b, ``(K,)``.
      max_iterations: None for ``10 K + 100``; some 3 to 6 is usual.

    Returns:
      x ``(K,)``, and its :class:`SolveInfo`: the residual is the largest violation of
      the conditions relative to the largest of ``|b|`` and ``|H| x``.

    Raises:
      ValueError: shapes that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.solvers import nnqp
      >>> x, info = nnqp(jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, -1.0]))
      >>> x.round(4)
      Array([0.5, 0. ], dtype=float32)

    References:
      Portugal, Judice, Vicente, "A comparison of block pivoting and interior-point
      algorithms for linear least squares problems with nonnegative variables", 1994.
    """
    matrix, target = jnp.asarray(matrix), two_float.of(linear)
    check_shapes(matrix, target.high, 1)
    return _solve(matrix, target, max_iterations)


# Traced once for a size, however many programs solve one.
@partial(jax.jit, static_argnums=2)
def _solve(
    matrix: jax.Array, linear: TwoFloat, max_iterations: int | None
) -> tuple[jax.Array, SolveInfo]:
    high, low = linear
    dtype = np.promote_types(np.promote_types(matrix.dtype, high.dtype), np.float32)
    matrix, high, low = (x.astype(dtype) for x in (matrix, high, low))
    number = high.shape[0]
    unit, scale = unit_diagonal(matrix)
    size = two_float.power_of_two_below(jnp.max(jnp.abs(high * scale)))
    target = TwoFloat(high * scale / size, low * scale / size)
    if number == 1:
        x, iterations = jnp.maximum(target.high, 0), jnp.zeros([], jnp.int32)
    elif number == 2:
        x, iterations = _two(unit[0, 1], target.high), jnp.zeros([], jnp.int32)
    else:
        x, iterations = _pivot(unit, target, max_iterations or 10 * number + 100)
    return x * scale * size, SolveInfo(_violation(unit, target.high, x), iterations)


def _pivot(unit: jax.Array, target: TwoFloat, cap: int) -> tuple[jax.Array, jax.Array]:
    """K > 2. Every round's problem has one solution, whatever the order of its rows."""
    number = unit.shape[0]
    eps = float(jnp.finfo(unit.dtype).eps)
    index = jnp.arange(number)
    matrix, ridge = ridged(unit)
    draw = two_float.exact(jnp.full_like(unit[0], ridge))

    def body(pivot):
        goal = two_float.add(target, two_float.multiply(draw, pivot.center))
        table = jax.tree.map(
            lambda m, g: jnp.concatenate([m, g[:, None]], axis=1), matrix, goal
        )
        # x where free, elsewhere what is left of the right side.
        high, low = (x[:, -1] for x in sweep(table, pivot.free, ridge / 4))
        size = jnp.maximum(jnp.sum(jnp.where(pivot.free, jnp.abs(high), 0)), 1)
        # A slack that is missed moves its variable by as much over the ridge, a variable
        # only itself: slacks are asked for more.
        bad = jnp.where(pivot.free, -high / eps, high / eps**1.5) > size
        wrong = jnp.sum(bad, dtype=jnp.int32)
        progress = wrong < pivot.fewest
        patience = jnp.where(progress, 3, pivot.patience - 1)
        # Alone the worst one is quickest, but only the last one is sure to end.
        order = jnp.where(patience > -2 * number, -high, index.astype(high.dtype))
        order = jnp.where(bad, jnp.where(pivot.free, order, jnp.abs(order)), -1)
        one = index == jnp.argmax(order)
        settled = wrong == 0
        # NaN is kept: it must come out.
        kept = (pivot.free & ~(high < 0)) | jnp.isnan(high)
        x = TwoFloat(jnp.where(kept, high, 0), jnp.where(kept, low, 0))
        return _Pivot(
            free=pivot.free ^ (bad & (progress | (patience >= 0) | one)),
            x=x,
            center=jax.tree.map(partial(jnp.where, settled), x, pivot.center),
            fewest=jnp.where(settled, number + 1, jnp.minimum(wrong, pivot.fewest)),
            patience=jnp.where(settled, 3, patience).astype(jnp.int32),
            rounds=pivot.rounds - settled.astype(jnp.int32),
            iterations=pivot.iterations + 1,
        )

    zero = two_float.exact(jnp.zeros_like(unit[0]))
    first = _Pivot(
        free=target.high > 0,
        x=zero,
        center=zero,
        fewest=jnp.int32(number + 1),
        patience=jnp.int32(3),
        rounds=jnp.int32(_ROUNDS),
        iterations=jnp.zeros([], jnp.int32),
    )
    last = jax.lax.while_loop(
        lambda pivot: (pivot.rounds > 0) & (pivot.iterations < cap), body, first
    )
    return last.x.high, last.iterations


def ridged(unit: jax.Array) -> tuple[TwoFloat, float]:
    """A matrix with the least ridge that makes it regular."""
    ridge = least_eigenvalue(unit)
    eye = jnp.eye(unit.shape[0], dtype=unit.dtype)
    return two_float.two_sum(unit, ridge * eye), ridge


def least_eigenvalue(unit: jax.Array) -> float:
    """Of a matrix of unit diagonal, below which it may be rounding of its entries."""
    return 4 * unit.shape[0] * float(jnp.finfo(unit.dtype).eps)


def sweep(table: TwoFloat, free: jax.Array, least: float) -> TwoFloat:
    """Solves for the free variables: Gauss-Jordan steps on their rows and columns.

    Args:
      table: ``(K, K + R)``, a positive definite matrix and R right sides.
      free: ``(K,)`` bool.
      least: no pivot is less, but for rounding in the matrix itself.

    Returns:
      On free rows and columns the inverse; in the last columns x on free rows, and on the
      others what is left of the right side.
    """
    number, width = table.high.shape
    rows, columns = jnp.arange(number)[:, None], jnp.arange(width)[None, :]

    def body(index, table):
        def at(axis, of):
            return jax.tree.map(
                lambda x: jax.lax.dynamic_index_in_dim(x, index, axis), of
            )

        row, column = at(0, table), at(1, table)
        here = at(1, row)
        here = TwoFloat(jnp.where(here.high < least, least, here.high), here.low)
        own, ours = rows == index, columns == index
        row = TwoFloat(jnp.where(ours, 1, row.high), jnp.where(ours, 0, row.low))
        row = two_float.multiply(row, two_float.reciprocal(here))
        rest = jax.tree.map(lambda x: jnp.where(ours, 0, x), table)
        minus = two_float.negative(two_float.multiply(column, row))
        new = two_float.add(rest, minus)
        taken = free[index]
        return jax.tree.map(
            lambda n, r, t: jnp.where(taken, jnp.where(own, r, n), t), new, row, table
        )

    return jax.lax.fori_loop(0, number, body, table)


def _two(cosine: jax.Array, target: jax.Array) -> jax.Array:
    """K = 2: both free, or one, or none."""
    ridge = 4 * float(jnp.finfo(target.dtype).eps)
    other = target[::-1]
    determinant = (1 - cosine) * (1 + cosine) + 2 * ridge
    both = ((1 + ridge) * target - cosine * other) / determinant
    alone = jnp.maximum(target, 0)
    slack = cosine * alone - other  # of the other one, where this one alone is free
    first = slack[0] >= slack[1]
    one = jnp.where(jnp.stack([first, ~first]), alone, 0)
    # The ridge is for singular matrices; elsewhere a step of refinement takes it out.
    residual = target - both - cosine * both[::-1]
    refined = ((1 + ridge) * residual - cosine * residual[::-1]) / determinant
    inside = jnp.all(both > 0) & jnp.any(slack < 0)
    x = jnp.where(inside, jnp.maximum(both + refined, 0), one)
    return jnp.where(jnp.isnan(cosine), cosine, x)


def _violation(unit: jax.Array, target: jax.Array, x: jax.Array) -> jax.Array:
    """The largest violation of the conditions at x >= 0.

    A positive variable needs slack 0, another one slack >= 0; between the two it is the
    smaller of x and slack that counts.
    """
    slack = jnp.sum(unit * x[None, :], axis=1) - target
    size = jnp.maximum(jnp.sum(x), 1)
    return jnp.max(jnp.where(slack < 0, -slack, jnp.minimum(slack, x))) / size


def unit_diagonal(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The matrix scaled to a unit diagonal, and the scale of each row."""
    diagonal = jnp.diagonal(matrix)
    scale = jnp.where(diagonal > 0, diagonal, 1.0) ** -0.5
    unit = matrix * scale[:, None] * scale[None, :]
    eye = jnp.eye(matrix.shape[0], dtype=bool)
    return jnp.where(eye, 1, 0.5 * (unit + unit.T)), scale


def check_shapes(matrix: jax.Array, linear: jax.Array, rank: int) -> None:
    """Raises ValueError unless they are ``(K, K)`` and ``(K,)``, or ``(M, K)``."""
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix must be (K, K), got shape {matrix.shape}.")
    number = matrix.shape[0]
    if linear.ndim != rank or linear.shape[-1] != number:
        wanted = f"({number},)" if rank == 1 else f"(M, {number})"
        raise ValueError(
            f"linear must be {wanted} as the matrix is {matrix.shape}, got shape "
            f"{linear.shape}."
        )
