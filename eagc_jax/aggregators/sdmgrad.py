"""SDMGrad: the point of least norm near a preference, from independent batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import DECAY, NONNEGATIVE, check_count, check_number
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
from eagc_jax.aggregators._weighting import Problem, Weighting, problem_of
from eagc_jax.solvers.nnqp import SolveInfo, no_solve
from eagc_jax.typing import OptState


@shows_options
def sdmgrad(
    num_objectives: int,
    *,
    pull: float = 0.3,
    learning_rate: float = 10.0,
    momentum: float = 0.5,
    steps: int = 20,
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Stochastic steps towards the point of least norm, pulled to a preference.

    For :math:`\min_w \frac12 \|J^\top (w + \lambda u)\|^2` over the simplex, with the
    preference u (normalised to sum 1) and
    :math:`a = A / (\mathrm{mean}_k \sqrt{A_{kk}})^2`:

    .. math:: v \leftarrow \mu v + a (w + \lambda u), \qquad
        w \leftarrow \Pi_\Delta(w - \eta v),

    ``steps`` times from :math:`v = 0` and the w of the step before; then
    :math:`d = J^\top (w + \lambda u) / (1 + \lambda)`.

    ``update(..., batches=(left, right))`` takes the K gradients of two further batches,
    leaves ``(K, *shape)``, for :math:`A = J_1 J_2^\top`, with which the steps of w are
    unbiased; it is neither symmetric nor positive. Without it A is the Gram matrix of
    the updates themselves.

    Guarantee: none at a step. lambda = 0 is a stochastic MGDA, a large one the
    preference's mean. Length: "convex". Cost: one Gram pass, ``steps`` projections on a
    simplex of size K, one weighted sum; the gradients of two more batches if they are
    given. The state holds w.

    Args:
      num_objectives: K, a Python int.
      pull: :math:`\lambda \ge 0`.
      learning_rate: :math:`\eta > 0`; A is normalised, so it has no unit.
      momentum: :math:`\mu` in [0, 1).
      steps: an int >= 1.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; ``preference`` is u.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``; ``method`` in
      its state holds w, ``(blocks, K)``.

    Raises:
      ValueError: bad arguments (at once); updates or batches that don't fit, or batches
        at another granularity than "global" (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import sdmgrad
      >>> tx = sdmgrad(2, learning_rate=1.0, pull=0.0)
      >>> grads = {"w": jnp.array([[2.0, 0.0], [0.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> bool(jnp.allclose(state.weights, jnp.array([0.2, 0.8]), atol=1e-3))
      True

    References:
      Xiao, Ban and Ji, `Direction-oriented Multi-objective Learning
      <https://arxiv.org/abs/2305.18409>`_, 2023, algorithm 1.
    """
    settings = _checked(pull, learning_rate, momentum, steps)

    def apply(
        problem: Problem, point: OptState
    ) -> tuple[jax.Array, OptState, SolveInfo]:
        cross = cross_gram_of(problem)
        matrix = problem.gram.matrix if cross is None else cross
        weights, point = _solve(problem, matrix, point, *settings)
        return weights, point, no_solve()

    reads = reads_batches(num_objectives, options)
    method = Weighting("sdmgrad", "convex", apply, init=even, reads=reads)
    return from_weighting(num_objectives, method, **options)


def sdmgrad_weights(
    gram: jax.typing.ArrayLike,
    start: jax.typing.ArrayLike | None = None,
    *,
    pull: float = 0.3,
    learning_rate: float = 10.0,
    momentum: float = 0.5,
    steps: int = 20,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> tuple[jax.Array, jax.Array]:
    """SDMGrad's weights from a Gram or cross-Gram matrix: see :func:`sdmgrad`.

    Args:
      gram: ``(K, K)``, symmetric or not.
      start: w of the step before, ``(K,)`` on the simplex; None for 1 / K each.
      pull: lambda.
      learning_rate: eta.
      momentum: mu.
      steps: a number.
      preference: K numbers >= 0, or None.

    Returns:
      ``(K,)`` weights, and the next start ``(K,)``.
    """
    settings = _checked(pull, learning_rate, momentum, steps)
    problem = problem_of(gram, preference)
    start = even(problem.preference.shape[0]) if start is None else jnp.asarray(start)
    return _solve(problem, jnp.asarray(gram), start, *settings)


def _solve(
    problem: Problem,
    matrix: jax.Array,
    start: jax.Array,
    pull: jax.typing.ArrayLike,
    learning_rate: jax.typing.ArrayLike,
    momentum: jax.typing.ArrayLike,
    steps: int,
) -> tuple[jax.Array, jax.Array]:
    matrix = normalized(matrix.astype(problem.preference.dtype))

    def gradient(point):
        return product(matrix, point + pull * problem.preference)

    first = begin(problem, start)
    point = descend(first, gradient, problem.active, steps, learning_rate, momentum)
    point = jnp.where(jnp.all(jnp.isfinite(matrix)), point, jnp.nan)
    weights = (point + pull * problem.preference) / (1 + pull)
    return weights, keep_absent(point, start, problem)


def _checked(
    pull: jax.typing.ArrayLike,
    learning_rate: jax.typing.ArrayLike,
    momentum: jax.typing.ArrayLike,
    steps: int,
) -> tuple[jax.typing.ArrayLike, jax.typing.ArrayLike, jax.typing.ArrayLike, int]:
    check_number("pull", pull, NONNEGATIVE)
    check_number("learning_rate", learning_rate, NONNEGATIVE)
    check_number("momentum", momentum, DECAY)
    check_count("steps", steps, 1)
    return pull, learning_rate, momentum, steps
