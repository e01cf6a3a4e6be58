"""Proportional fairness: ``G w = r w^(-1/alpha)`` by damped Newton."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.solvers import two_float
from eagc_jax.solvers.entrywise import dot, matvec
from eagc_jax.solvers.nnqp import SolveInfo

_HALVINGS = 12


class _Newton(NamedTuple):
    w: jax.Array  # shape=(K,), > 0.
    change: jax.Array  # shape=(): the last step's largest change of an entry, relative.
    iterations: jax.Array  # shape=(), int32.


def fair(
    matrix: jax.typing.ArrayLike,
    alpha: jax.typing.ArrayLike = 1.0,
    *,
    right: jax.typing.ArrayLike | None = None,
    start: jax.typing.ArrayLike | None = None,
    max_iterations: int = 60,
) -> tuple[jax.Array, SolveInfo]:
    r"""Solves :math:`(Gw)_i = r_i w_i^{-1/\alpha}`, :math:`w > 0`.

    The stationary point of the strictly convex :math:`\frac12 w^\top G w - \sum_i
    r_i \phi(w_i)`, :math:`\phi' = w^{-1/\alpha}`, found by Newton steps that stay inside
    :math:`w > 0` and are halved until the function decreases. The system is first scaled
    to a unit diagonal and a largest right side of 1: nothing depends on units.

    Args:
      matrix: G, ``(K, K)``, symmetric, positive semi-definite, diagonal > 0.
      alpha: > 0; 1 is the Nash bargaining solution.
      right: r > 0, ``(K,)``; None for ones. With the cosine matrix in place of G and
        ``norms ** (1 / alpha - 1)`` here, the solution is ``norms * w``.
      start: w > 0 to start from, ``(K,)``; None for the solution of a diagonal G.
      max_iterations: of Newton's method.

    Returns:
      w ``(K,)``, and its :class:`SolveInfo`: the residual is the largest
      :math:`|w_i^{1/\alpha}(Gw)_i / r_i - 1|`. Where 0 is in the convex hull of the
      gradients no solution exists; w then grows until a relative ridge stops it.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.solvers import fair
      >>> w, _ = fair(jnp.array([[4.0, 0.0], [0.0, 1.0]]))  # Nash: w_i = 1 / n_i
      >>> w.round(4)
      Array([0.5, 1. ], dtype=float32)

    References:
      Navon et al., `Nash-MTL <https://arxiv.org/abs/2202.01017>`_, 2022; Ban and Ji,
      `FairGrad <https://arxiv.org/abs/2402.15638>`_, 2024.
    """
    matrix = jnp.asarray(matrix)
    dtype = np.promote_types(matrix.dtype, np.float32)
    matrix = matrix.astype(dtype)
    number = matrix.shape[0]
    eps = float(jnp.finfo(dtype).eps)
    power = 1 / jnp.asarray(alpha, dtype)  # w^-power
    diagonal = jnp.diagonal(matrix)
    length = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    unit = matrix / (length[:, None] * length[None, :])
    unit = unit + 10 * eps * jnp.eye(number, dtype=dtype)
    # With v = length * w: (unit v)_i = sides_i v_i^-power.
    sides = jnp.ones((number,), dtype) if right is None else jnp.asarray(right, dtype)
    sides = sides * length ** (power - 1)
    level = jnp.max(sides)
    sides = sides / level
    undo = level ** (1 / (1 + power)) / length

    def gradient(v):
        # Its terms cancel at the solution: rounded, it would end elsewhere in each order.
        along = two_float.product(unit, v)
        return two_float.add(along, two_float.exact(-sides * v**-power)).high

    def value(v):
        exponent = 1 - power
        flat = jnp.abs(exponent) < 1e-6
        safe = jnp.where(flat, 1.0, exponent)
        phi = jnp.where(flat, jnp.log(v), (v**safe - 1) / safe)
        return 0.5 * jnp.sum(v * matvec(unit, v)) - jnp.sum(sides * phi)

    def body(newton):
        v = newton.w
        slope = gradient(v)
        curvature = unit + jnp.diag(sides * power * v ** (-power - 1))
        factor = jnp.linalg.cholesky(curvature)
        step = -jax.scipy.linalg.cho_solve((factor, True), slope)
        decrement = -dot(step, slope)
        ratio = jnp.where(step < 0, -v / jnp.where(step < 0, step, -1.0), jnp.inf)
        longest = jnp.minimum(1.0, 0.95 * jnp.min(ratio))
        lengths = longest * 0.5 ** jnp.arange(_HALVINGS, dtype=dtype)
        found = jax.vmap(lambda t: value(v + t * step))(lengths)
        here = value(v)
        # Near the end the function is flat to rounding: the full step is then right.
        slack = 10 * eps * (1 + jnp.abs(here))
        enough = found <= here - 1e-4 * lengths * decrement + slack
        step = lengths[jnp.argmax(enough)] * step
        change = jnp.max(jnp.abs(step) / v)
        return _Newton(v + step, change, newton.iterations + 1)

    def unfinished(newton):
        # Entry by entry, since the small ones hardly show in the function's value. The
        # error left by a step is about the square of the step.
        small = newton.change <= (10 * eps) ** 0.5
        return ~small & (newton.iterations < max_iterations)

    first = sides ** (1 / (1 + power))
    if start is not None:
        first = jnp.asarray(start, dtype) / undo
    first = _Newton(first, jnp.asarray(jnp.inf, dtype), jnp.zeros([], jnp.int32))
    last = jax.lax.while_loop(unfinished, body, first)
    residual = jnp.abs(last.w**power * matvec(unit, last.w) / sides - 1)
    return last.w * undo, SolveInfo(jnp.max(residual), last.iterations)
