"""Non-negative quadratic programs by block principal pivoting."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class SolveInfo(NamedTuple):
    """How a solve went."""

    residual: (
        jax.Array
    )  # shape=(), float: relative violation of what it had to satisfy.
    iterations: jax.Array  # shape=(), int32.


def no_solve() -> SolveInfo:
    """The info of a closed form: nothing was iterated, nothing is violated."""
    return SolveInfo(jnp.zeros([], jnp.float32), jnp.zeros([], jnp.int32))


class _Pivot(NamedTuple):
    free: jax.Array  # shape=(K,), bool: variables that may be positive.
    x: jax.Array  # shape=(K,): the solution on the free set.
    bad: jax.Array  # shape=(K,), bool: conditions that x violates.
    best: jax.Array  # shape=(), int32: fewest violations so far.
    patience: jax.Array  # shape=(), int32: full exchanges left without progress.
    iterations: jax.Array  # shape=(), int32.


def nnqp(
    matrix: jax.typing.ArrayLike,
    linear: jax.typing.ArrayLike,
    *,
    ridge: float | None = None,
    max_iterations: int | None = None,
) -> tuple[jax.Array, SolveInfo]:
    r"""Solves :math:`\min_{x \ge 0} \frac12 x^\top H x - b^\top x`.

    Block principal pivoting: guess which variables are free, solve for them, exchange
    every variable whose condition (:math:`x_i \ge 0` if free, :math:`(Hx - b)_i \ge 0`
    if not) is violated; when that stops making progress, exchange only the last one,
    which terminates. The problem is first scaled to a unit diagonal and a unit
    :math:`b`: nothing depends on the units of H or b. The ridge makes the linear
    systems regular; steps of iterative refinement then take it out again wherever H
    itself is regular.

    Args:
      matrix: H, ``(K, K)``, symmetric, positive semi-definite.
      linear: b, ``(K,)``.
      ridge: relative to the diagonal; None for 1e-6 (float32) or 1e-12 (float64).
      max_iterations: None for ``3 K + 20``.

    Returns:
      x ``(K,)``, and its :class:`SolveInfo`: the residual is the largest violation of
      the conditions relative to the largest ``|b|``.

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
    matrix, linear = jnp.asarray(matrix), jnp.asarray(linear)
    _check(matrix, linear)
    dtype = np.promote_types(np.promote_types(matrix.dtype, linear.dtype), np.float32)
    matrix, linear = matrix.astype(dtype), linear.astype(dtype)
    number = linear.shape[0]
    eps = float(jnp.finfo(dtype).eps)
    ridge = (1e-6 if dtype == np.float32 else 1e-12) if ridge is None else ridge
    cap = 3 * number + 20 if max_iterations is None else max_iterations

    diagonal = jnp.diagonal(matrix)
    scale = jnp.where(diagonal > 0, diagonal, 1.0) ** -0.5
    unit = matrix * scale[:, None] * scale[None, :]
    unit = jnp.where(jnp.eye(number, dtype=bool), jnp.ones([], dtype), unit)
    target = linear * scale
    size = jnp.max(jnp.abs(target))
    target = target / jnp.where(size > 0, size, 1.0)
    tolerance = 50 * eps

    def start(free):
        return _evaluate(unit, target, free, ridge, tolerance)

    def body(pivot):
        progress = jnp.sum(pivot.bad, dtype=jnp.int32)
        better = progress < pivot.best
        patience = jnp.where(better, 3, pivot.patience - 1)
        last = number - 1 - jnp.argmax(pivot.bad[::-1])
        only_last = jnp.arange(number) == last
        flip = jnp.where(better | (patience >= 0), pivot.bad, only_last)
        free = pivot.free ^ flip
        x, bad = start(free)
        return _Pivot(
            free,
            x,
            bad,
            jnp.minimum(progress, pivot.best),
            patience.astype(jnp.int32),
            pivot.iterations + 1,
        )

    def unfinished(pivot):
        return jnp.any(pivot.bad) & (pivot.iterations < cap)

    free = target > 0
    x, bad = start(free)
    first = _Pivot(
        free, x, bad, jnp.int32(number + 1), jnp.int32(3), jnp.zeros([], jnp.int32)
    )
    last = jax.lax.while_loop(unfinished, body, first)
    x = jnp.maximum(last.x, 0.0)
    slack = unit @ x - target
    violation = jnp.where(last.free & (x > 0), jnp.abs(slack), jnp.maximum(-slack, 0.0))
    return x * scale * size, SolveInfo(jnp.max(violation), last.iterations)


def _evaluate(unit, target, free, ridge, tolerance):
    """The solution on a free set, and the conditions that it violates."""
    number = target.shape[0]
    both = free[:, None] & free[None, :]
    eye = jnp.eye(number, dtype=unit.dtype)
    system = jnp.where(both, unit, 0.0) + eye * jnp.where(free, ridge, 1.0)
    factor = jnp.linalg.cholesky(system)

    def solve(rhs):
        return jax.scipy.linalg.cho_solve((factor, True), jnp.where(free, rhs, 0.0))

    x = solve(target)
    for _ in range(2):
        x = x + solve(target - _matvec(unit, x))
    slack = _matvec(unit, x) - target
    bad = jnp.where(free, x < -tolerance * jnp.max(jnp.abs(x)), slack < -tolerance)
    return x, bad


def _matvec(matrix: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)


def _check(matrix: Any, linear: Any) -> None:
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"matrix must be (K, K), got shape {matrix.shape}.")
    if linear.shape != matrix.shape[:1]:
        raise ValueError(
            f"linear must be ({matrix.shape[0]},) as the matrix is {matrix.shape}, got "
            f"shape {linear.shape}."
        )
