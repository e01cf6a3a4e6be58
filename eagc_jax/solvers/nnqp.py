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
    free: jax.Array  # shape=(K,), bool: variables that may be positive, to try next.
    x: jax.Array  # shape=(K,), >= 0: the best so far.
    violation: jax.Array  # shape=(), float: of its conditions.
    center: jax.Array  # shape=(K,): what a careful solve is drawn to.
    careful: jax.Array  # shape=(), bool: see _CAREFUL_RIDGE.
    fewest: jax.Array  # shape=(), int32: violated conditions so far, on the free sets.
    patience: jax.Array  # shape=(), int32: full exchanges left without progress.
    iterations: jax.Array  # shape=(), int32.
    done: jax.Array  # shape=(), bool.


# Where H is singular, exchanges on rounding can go on for ever. Then the problem is
# replaced by a sequence of regular ones: with this ridge, drawn to the last solution.
_CAREFUL_RIDGE = 1e-2


def nnqp(
    matrix: jax.typing.ArrayLike,
    linear: jax.typing.ArrayLike,
    *,
    max_iterations: int | None = None,
) -> tuple[jax.Array, SolveInfo]:
    r"""Solves :math:`\min_{x \ge 0} \frac12 x^\top H x - b^\top x`.

    Block principal pivoting: guess which variables are free, solve for them, exchange
    every variable whose condition (:math:`x_i \ge 0` if free, :math:`(Hx - b)_i \ge 0`
    if not) is violated; when that stops making progress, exchange only the last one. It
    ends when the conditions hold to rounding; where rounding keeps them from it (a
    singular H), the best point found is returned. The problem is first scaled to a unit
    diagonal and a unit :math:`b`: nothing depends on the units of H or b. A ridge of a
    few K eps makes the linear systems regular; steps of iterative refinement take it
    out again wherever H itself is regular. K = 2 is a closed form.

    Args:
      matrix: H, ``(K, K)``, symmetric, positive semi-definite.
      linear: b, ``(K,)``.
      max_iterations: None for ``3 K + 60``.

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
    matrix, linear = jnp.asarray(matrix), jnp.asarray(linear)
    check_shapes(matrix, linear, 1)
    dtype = np.promote_types(np.promote_types(matrix.dtype, linear.dtype), np.float32)
    matrix, linear = matrix.astype(dtype), linear.astype(dtype)
    number = linear.shape[0]
    unit, scale = unit_diagonal(matrix)
    target = linear * scale
    size = jnp.max(jnp.abs(target))
    target = target / jnp.where(size > 0, size, 1.0)
    if number == 1:
        x, iterations = jnp.maximum(target, 0.0), jnp.zeros([], jnp.int32)
    elif number == 2:
        x, iterations = _two(unit[0, 1], target), jnp.zeros([], jnp.int32)
    else:
        x, iterations = _pivot(unit, target, max_iterations or 3 * number + 60)
    residual, _ = _violation(unit, target, x)
    return x * scale * size, SolveInfo(residual, iterations)


def _pivot(unit: jax.Array, target: jax.Array, cap: int) -> tuple[jax.Array, jax.Array]:
    number = target.shape[0]
    eps = float(jnp.finfo(target.dtype).eps)
    patient = 8 + number // 8

    def body(pivot):
        drawn = jnp.where(pivot.careful, _CAREFUL_RIDGE, 0.0).astype(target.dtype)
        goal = target + drawn * pivot.center
        raw = _solve_free(unit, goal, pivot.free, drawn)
        slack = _matvec(unit, raw) + drawn * raw - goal
        size = jnp.sum(jnp.abs(raw))
        bad = jnp.where(
            pivot.free, raw < -4 * eps * size, slack < -4 * eps * jnp.maximum(size, 1.0)
        )
        x = jnp.maximum(raw, 0.0)
        violation, rounding = _violation(unit, target, x)
        better = ~(violation >= pivot.violation)  # a NaN is taken: it must come out
        best = jnp.where(better, x, pivot.x)
        wrong = jnp.sum(bad, dtype=jnp.int32)
        progress = wrong < pivot.fewest
        patience = jnp.where(progress, 3, pivot.patience - 1)
        last = jnp.arange(number) == number - 1 - jnp.argmax(bad[::-1])
        settled = wrong == 0
        careful = pivot.careful | (pivot.iterations >= patient)
        restart = settled | (careful & ~pivot.careful)
        return _Pivot(
            free=pivot.free ^ jnp.where(progress | (patience >= 0), bad, last),
            x=best,
            violation=jnp.where(better, violation, pivot.violation),
            center=jnp.where(settled, x, jnp.where(pivot.careful, pivot.center, best)),
            careful=careful,
            fewest=jnp.where(restart, number + 1, jnp.minimum(wrong, pivot.fewest)),
            patience=jnp.where(restart, 3, patience).astype(jnp.int32),
            iterations=pivot.iterations + 1,
            done=(settled & ~pivot.careful) | ~(violation > rounding),
        )

    first = _Pivot(
        free=target > 0,
        x=jnp.zeros_like(target),
        violation=jnp.asarray(jnp.inf, target.dtype),
        center=jnp.zeros_like(target),
        careful=jnp.zeros([], bool),
        fewest=jnp.int32(number + 1),
        patience=jnp.int32(3),
        iterations=jnp.zeros([], jnp.int32),
        done=jnp.zeros([], bool),
    )
    last = jax.lax.while_loop(
        lambda pivot: ~pivot.done & (pivot.iterations < cap), body, first
    )
    return last.x, last.iterations


def _solve_free(
    unit: jax.Array, target: jax.Array, free: jax.Array, drawn: jax.Array
) -> jax.Array:
    """The solution of ``H + drawn`` on a free set, 0 elsewhere."""
    number = target.shape[0]
    # Below this, rounding could make the Cholesky factor of a singular matrix fail.
    ridge = 4 * number * float(jnp.finfo(target.dtype).eps) + drawn
    both = free[:, None] & free[None, :]
    eye = jnp.eye(number, dtype=unit.dtype)
    system = jnp.where(both, unit, 0.0) + eye * jnp.where(free, ridge, 1.0)
    factor = jnp.linalg.cholesky(system)

    def solve(rhs):
        return jax.scipy.linalg.cho_solve((factor, True), jnp.where(free, rhs, 0.0))

    x = solve(target)
    for _ in range(2):
        x = x + solve(target - _matvec(unit, x) - drawn * x)
    return x


def _two(cosine: jax.Array, target: jax.Array) -> jax.Array:
    """K = 2: both free, or one, or none."""
    ridge = 4 * float(jnp.finfo(target.dtype).eps)
    other = target[::-1]
    determinant = (1 - cosine) * (1 + cosine) + 2 * ridge
    both = ((1 + ridge) * target - cosine * other) / determinant
    alone = jnp.maximum(target, 0.0)
    slack = cosine * alone - other  # of the other one, where this one alone is free
    first = slack[0] >= slack[1]
    one = jnp.where(jnp.stack([first, ~first]), alone, 0.0)
    # The ridge is for singular matrices; elsewhere a step of refinement takes it out.
    residual = target - both - cosine * both[::-1]
    refined = ((1 + ridge) * residual - cosine * residual[::-1]) / determinant
    inside = jnp.all(both > 0) & jnp.any(slack < 0)
    x = jnp.where(inside, jnp.maximum(both + refined, 0.0), one)
    return jnp.where(jnp.isnan(cosine), cosine, x)


def _violation(
    unit: jax.Array, target: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The largest violation of the conditions at x >= 0, and what rounding allows.

    A positive variable needs slack 0, another one slack >= 0; between the two it is the
    smaller of x and slack that counts.
    """
    slack = _matvec(unit, x) - target
    size = jnp.maximum(jnp.sum(x), 1.0)
    violation = jnp.max(jnp.where(slack < 0, -slack, jnp.minimum(slack, x))) / size
    return violation, jnp.asarray(4 * float(jnp.finfo(target.dtype).eps), x.dtype)


def _matvec(matrix: jax.Array, x: jax.Array) -> jax.Array:
    return jnp.matmul(matrix, x, precision=jax.lax.Precision.HIGHEST)


def unit_diagonal(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The matrix scaled to a unit diagonal, and the scale of each row."""
    diagonal = jnp.diagonal(matrix)
    scale = jnp.where(diagonal > 0, diagonal, 1.0) ** -0.5
    unit = matrix * scale[:, None] * scale[None, :]
    eye = jnp.eye(matrix.shape[0], dtype=bool)
    return jnp.where(eye, jnp.ones([], matrix.dtype), unit), scale


def check_shapes(matrix: Any, linear: Any, rank: int) -> None:
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
