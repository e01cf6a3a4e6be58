"""Many non-negative quadratic programs with one matrix."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.solvers.nnqp import SolveInfo, check_shapes, nnqp, unit_diagonal

# From this size on, M factorisations an iteration cost much more than products with the
# matrix, which serve all M problems at once (on CPU, M = K = 16: some 3 ms against 0.5;
# 32: 300 against 10). They are less exact where the matrix is singular, or nearly: there
# the order of the variables may show, by about eps relative to the sum of |x|.
_ITERATIVE_FROM = 24
# Every solve is drawn to the last solution with this ridge: regular, so that conjugate
# gradients are quick, and taken out again as the solutions settle.
_RIDGE = 1e-2
_LOOSE = 1e-2  # how well the first free sets are solved, relative to |b|


class _Many(NamedTuple):
    x: jax.Array  # shape=(M, K): last solutions on their free sets.
    best: jax.Array  # shape=(M, K), >= 0: the best so far.
    violation: jax.Array  # shape=(M, 1): of the best.
    center: jax.Array  # shape=(M, K): what a solve is drawn to.
    free: jax.Array  # shape=(M, K), bool: to try next.
    tolerance: jax.Array  # shape=(M, 1): of the next solve.
    fewest: jax.Array  # shape=(M, 1), int32.
    patience: jax.Array  # shape=(M, 1), int32.
    done: jax.Array  # shape=(M, 1), bool.
    iterations: jax.Array  # shape=(), int32.


def nnqp_many(
    matrix: jax.typing.ArrayLike, linears: jax.typing.ArrayLike
) -> tuple[jax.Array, SolveInfo]:
    r"""Solves :math:`\min_{x \ge 0} \frac12 x^\top H x - b_i^\top x` for M vectors b.

    As :func:`eagc_jax.solvers.nnqp` for each; for K of 24 or more the exchanges are the
    same but the free sets' systems are solved by conjugate gradients, one product of
    ``(M, K)`` with ``(K, K)`` a step for all problems, in the dtype's own precision.

    Args:
      matrix: H, ``(K, K)``, symmetric, positive semi-definite.
      linears: b, ``(M, K)``.

    Returns:
      x ``(M, K)``, and the :class:`SolveInfo` of the worst problem.

    Raises:
      ValueError: shapes that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.solvers import nnqp_many
      >>> x, _ = nnqp_many(jnp.eye(2), jnp.array([[1.0, -1.0], [2.0, 3.0]]))
      >>> x.round(4)
      Array([[1., 0.],
             [2., 3.]], dtype=float32)
    """
    matrix, linears = jnp.asarray(matrix), jnp.asarray(linears)
    check_shapes(matrix, linears, 2)
    number = matrix.shape[0]
    if number < _ITERATIVE_FROM:
        x, info = jax.vmap(nnqp, in_axes=(None, 0))(matrix, linears)
        return x, SolveInfo(
            jnp.max(info.residual, initial=0.0),
            jnp.max(info.iterations, initial=0).astype(jnp.int32),
        )
    dtype = np.promote_types(np.promote_types(matrix.dtype, linears.dtype), np.float32)
    unit, scale = unit_diagonal(matrix.astype(dtype))
    target = linears.astype(dtype) * scale
    size = jnp.max(jnp.abs(target), axis=1, keepdims=True)
    target = target / jnp.where(size > 0, size, 1.0)
    last = _exchange(unit, target, number + 64)
    x = last.best * scale * size
    return x, SolveInfo(jnp.max(last.violation), last.iterations)


def _exchange(unit: jax.Array, target: jax.Array, cap: int) -> _Many:
    number = target.shape[1]
    eps = float(jnp.finfo(target.dtype).eps)
    backwards = jnp.arange(number - 1, -1, -1)

    def body(many):
        goal = target + _RIDGE * many.center
        x = _conjugate_gradients(unit, goal, many)
        slack = _times(x, unit) + _RIDGE * x - goal
        size = jnp.maximum(jnp.sum(jnp.abs(x), axis=1, keepdims=True), 1.0)
        allowed = many.tolerance + 4 * eps * size
        bad = jnp.where(many.free, x < -allowed, slack < -allowed)
        inside = jnp.maximum(x, 0.0)
        violation = _violation(unit, target, inside)
        better = ~(violation >= many.violation) & ~many.done
        wrong = jnp.sum(bad, axis=1, keepdims=True, dtype=jnp.int32)
        progress = wrong < many.fewest
        patience = jnp.where(progress, 3, many.patience - 1)
        last = backwards[jnp.argmax(bad[:, ::-1], axis=1)][:, None]
        flip = jnp.where(
            progress | (patience >= 0), bad, bad & (jnp.arange(number) == last)
        )
        settled = wrong == 0
        least = jnp.where(better, violation, many.violation)
        return _Many(
            x=x,
            best=jnp.where(better, inside, many.best),
            violation=least,
            center=jnp.where(settled, inside, many.center),
            free=many.free ^ (flip & ~many.done),
            tolerance=jnp.clip(0.03 * violation, eps, _LOOSE),
            fewest=jnp.where(settled, number + 1, jnp.minimum(wrong, many.fewest)),
            patience=jnp.where(settled, 3, patience).astype(jnp.int32),
            done=many.done | ~(least > 2 * eps),
            iterations=many.iterations + 1,
        )

    shape = (target.shape[0], 1)
    first = _Many(
        x=jnp.zeros_like(target),
        best=jnp.zeros_like(target),
        violation=jnp.full(shape, jnp.inf, target.dtype),
        center=jnp.zeros_like(target),
        free=target > 0,
        tolerance=jnp.full(shape, _LOOSE, target.dtype),
        fewest=jnp.full(shape, number + 1, jnp.int32),
        patience=jnp.full(shape, 3, jnp.int32),
        done=jnp.zeros(shape, bool),
        iterations=jnp.zeros([], jnp.int32),
    )
    return jax.lax.while_loop(
        lambda many: jnp.any(~many.done) & (many.iterations < cap), body, first
    )


def _conjugate_gradients(unit: jax.Array, goal: jax.Array, many: _Many) -> jax.Array:
    """Solves ``(H + ridge) x = goal`` on each row's free set, from the last solution."""
    free = many.free & ~many.done
    x = jnp.where(many.free, many.x, 0.0)

    def apply(x):
        return jnp.where(free, _times(x, unit) + _RIDGE * x, 0.0)

    def body(carry):
        x, residual, along, square, steps = carry
        image = apply(along)
        curvature = jnp.sum(along * image, axis=1, keepdims=True)
        length = jnp.where(
            curvature > 0, square / jnp.where(curvature > 0, curvature, 1), 0
        )
        x = x + length * along
        residual = residual - length * image
        new = jnp.sum(residual**2, axis=1, keepdims=True)
        ratio = new / jnp.where(square > 0, square, 1.0)
        return x, residual, residual + ratio * along, new, steps + 1

    def unfinished(carry):
        return jnp.any(carry[3] > many.tolerance**2) & (carry[4] < 50)

    residual = jnp.where(free, goal, 0.0) - apply(x)
    square = jnp.sum(residual**2, axis=1, keepdims=True)
    first = (x, residual, residual, square, jnp.zeros([], jnp.int32))
    return jax.lax.while_loop(unfinished, body, first)[0]


def _violation(unit: jax.Array, target: jax.Array, x: jax.Array) -> jax.Array:
    slack = _times(x, unit) - target
    size = jnp.maximum(jnp.sum(x, axis=1, keepdims=True), 1.0)
    wrong = jnp.where(slack < 0, -slack, jnp.minimum(slack, x))
    return jnp.max(wrong, axis=1, keepdims=True) / size


def _times(x: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.matmul(x, matrix, precision=jax.lax.Precision.HIGHEST)
