"""MoDo: one step of the weights on the simplex per update, from two batches."""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import NONNEGATIVE, check_number
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._two_batches import (
    begin,
    cross_gram_of,
    descend,
    even,
    keep_absent,
    normalized,
    reads_batches,
)
from eagc_jax.aggregators._unit_rows import product
from eagc_jax.aggregators._weighting import (
    Problem,
    Weighting,
    problem_of,
    refuse_preference,
)
from eagc_jax.solvers.nnqp import SolveInfo, no_solve
from eagc_jax.typing import OptState


@shows_options
def modo(
    num_objectives: int,
    *,
    learning_rate: float = 0.1,
    regularization: float = 0.1,
    normalize: bool = True,
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""One stochastic step per update towards the point of least norm.

    .. math:: w \leftarrow \Pi_\Delta \big( w - \gamma (A w + \rho w) \big), \qquad
        d = J^\top w.

    ``update(..., batches=(left, right))`` takes the K gradients of two further batches,
    leaves ``(K, *shape)``, for :math:`A = J_1 J_2^\top`: with this double sampling the
    step of w is unbiased. Without it A is the Gram matrix of the updates themselves.

    Guarantee: none at a step; the weights follow MGDA's at a pace set by gamma. Length:
    "convex". Cost: one Gram pass, one projection on a simplex of size K, one weighted
    sum; the gradients of two more batches if they are given. The state holds w.

    Args:
      num_objectives: K, a Python int.
      learning_rate: :math:`\gamma \ge 0`.
      regularization: :math:`\rho \ge 0`.
      normalize: divide A by the squared mean norm of the gradients, so that gamma has no
        unit. False is the paper's: the pace then depends on the gradients' length.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`. Preferences are
        refused: MoDo has none.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``; ``method`` in
      its state holds w, ``(blocks, K)``.

    Raises:
      ValueError: bad arguments (at once); updates or batches that don't fit, or batches
        at another granularity than "global" (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import modo
      >>> tx = modo(2, learning_rate=0.125, regularization=0.0, normalize=False)
      >>> grads = {"w": jnp.array([[2.0, 0.0], [0.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> state.weights
      Array([0.40625, 0.59375], dtype=float32)

    References:
      Chen et al., `Three-Way Trade-Off in Multi-Objective Learning
      <https://arxiv.org/abs/2305.20057>`_, 2023, algorithm 1.
    """
    _check(learning_rate, regularization)
    refuse_preference("modo", options)

    def apply(
        problem: Problem, point: OptState
    ) -> tuple[jax.Array, OptState, SolveInfo]:
        matrix = _matrix_of(problem, normalize)
        weights, point = _solve(problem, matrix, point, learning_rate, regularization)
        return weights, point, no_solve()

    reads = reads_batches(num_objectives, options)
    method = Weighting("modo", "convex", apply, init=even, reads=reads)
    return from_weighting(num_objectives, method, **options)


def modo_weights(
    gram: jax.typing.ArrayLike,
    start: jax.typing.ArrayLike | None = None,
    *,
    learning_rate: float = 0.1,
    regularization: float = 0.1,
    normalize: bool = True,
) -> tuple[jax.Array, jax.Array]:
    """MoDo's weights from a Gram or cross-Gram matrix: see :func:`modo`.

    Args:
      gram: ``(K, K)``, symmetric or not.
      start: w of the step before, ``(K,)`` on the simplex; None for 1 / K each.
      learning_rate: gamma.
      regularization: rho.
      normalize: whether the matrix is normalised first.

    Returns:
      ``(K,)`` weights, and the next start: the same.
    """
    _check(learning_rate, regularization)
    problem = problem_of(gram)
    matrix = jnp.asarray(gram).astype(problem.preference.dtype)
    matrix = normalized(matrix) if normalize else matrix
    start = even(matrix.shape[0]) if start is None else jnp.asarray(start)
    return _solve(problem, matrix, start, learning_rate, regularization)


def _check(
    learning_rate: jax.typing.ArrayLike, regularization: jax.typing.ArrayLike
) -> None:
    check_number("learning_rate", learning_rate, NONNEGATIVE)
    check_number("regularization", regularization, NONNEGATIVE)


def _matrix_of(problem: Problem, normalize: bool) -> jax.Array:
    cross = cross_gram_of(problem)
    if cross is not None:
        return normalized(cross) if normalize else cross
    matrix = problem.gram.matrix
    return normalized(matrix) if normalize else matrix * problem.gram.scale**2


def _solve(
    problem: Problem,
    matrix: jax.Array,
    start: jax.Array,
    learning_rate: jax.typing.ArrayLike,
    regularization: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    def gradient(point):
        return product(matrix, point) + regularization * point

    first = begin(problem, start)
    point = descend(first, gradient, problem.active, 1, learning_rate, 0.0)
    point = jnp.where(jnp.all(jnp.isfinite(matrix)), point, jnp.nan)
    return point, keep_absent(point, start, problem)
