"""SDMGrad: the point of least norm near a preference, from independent batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._unit_rows import product
from eagc_jax.aggregators._weighting import Problem, Weighting, problem_of, share
from eagc_jax.gram import cross_gram
from eagc_jax.objectives import concrete
from eagc_jax.solvers import project_simplex
from eagc_jax.solvers.nnqp import no_solve


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

    def apply(problem, point):
        matrix = _matrix_of(problem)
        weights, point = _solve(problem, matrix, point, *settings)
        return weights, point, no_solve()

    method = Weighting("sdmgrad", "convex", apply, init=even, needs_values=True)
    return with_batches(num_objectives, method, options)


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


def even(number: int) -> jax.Array:
    """The middle of the simplex: ``(K,)`` float32."""
    return jnp.full((number,), 1 / number, jnp.float32)


def with_batches(
    num_objectives: int, method: Weighting, options: GramOptions
) -> optax.GradientTransformationExtraArgs:
    """An aggregator whose ``update`` takes ``batches=(left, right)``.

    The method finds their cross-Gram matrix as ``problem.values``, or None.
    """
    inner = from_weighting(num_objectives, method, **options)
    granularity = options.get("granularity", "global")

    def update_fn(updates, state, params=None, *, batches=None, **extra_args):
        extra_args.pop("value", None)
        matrix: Any = ()
        if batches is not None:
            if granularity != "global":
                raise ValueError(
                    "batches= gives one matrix for the whole tree, so granularity must "
                    f"be 'global', got {granularity!r}."
                )
            matrix = cross_gram(*batches, axis_name=options.get("axis_name"))
            if matrix.shape != (num_objectives, num_objectives):
                raise ValueError(
                    f"batches must hold gradients of {num_objectives} objectives each, "
                    f"got {matrix.shape}."
                )
        return inner.update(updates, state, params, value=matrix, **extra_args)

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def normalized(matrix: jax.Array) -> jax.Array:
    """Over the squared mean norm; over the largest entry where no norm is positive."""
    largest = jnp.max(jnp.abs(matrix))
    matrix = matrix / jnp.where(largest > 0, largest, 1)
    diagonal = jnp.maximum(jnp.diagonal(matrix), 0)
    squared = jnp.mean(jnp.sqrt(diagonal)) ** 2
    # The diagonal of a cross-Gram matrix may be negative: batches may disagree.
    return matrix / jnp.where(squared > 0, squared, 1)


def descend(
    point: jax.Array, gradient: Callable, active: jax.Array, steps: int, eta, mu
) -> jax.Array:
    """Projected momentum steps on the simplex of the active objectives."""

    def step(_, carry):
        point, velocity = carry
        velocity = mu * velocity + gradient(point)
        moved = jnp.where(active, point - eta * velocity, -jnp.inf)
        return jnp.where(active, project_simplex(moved), 0), velocity

    carry = (point, jnp.zeros_like(point))
    return jax.lax.fori_loop(0, steps, step, carry)[0]


def begin(problem: Problem, start: jax.Array) -> jax.Array:
    """Where to start from: on the simplex of the objectives that take part."""
    dtype = problem.preference.dtype
    kept = share(start.astype(dtype), problem.active)
    middle = share(jnp.ones_like(kept), problem.active)
    return jnp.where(jnp.sum(kept) > 0, kept, middle)


def keep_absent(point: jax.Array, start: jax.Array, problem: Problem) -> jax.Array:
    """The next start: absent objectives keep theirs, a matrix with NaN changes none."""
    take = problem.active & jnp.all(jnp.isfinite(point))
    return jnp.where(take, point.astype(start.dtype), start)


def _matrix_of(problem: Problem) -> jax.Array:
    if isinstance(problem.values, tuple):  # no batches
        return problem.gram.matrix
    matrix = problem.values.astype(problem.preference.dtype)
    active = problem.active
    return jnp.where(active[:, None] & active[None, :], matrix, 0)


def _solve(problem, matrix, start, pull, learning_rate, momentum, steps):
    matrix = normalized(matrix.astype(problem.preference.dtype))

    def gradient(point):
        return product(matrix, point + pull * problem.preference)

    first = begin(problem, start)
    point = descend(first, gradient, problem.active, steps, learning_rate, momentum)
    point = jnp.where(jnp.all(jnp.isfinite(matrix)), point, jnp.nan)
    weights = (point + pull * problem.preference) / (1 + pull)
    return weights, keep_absent(point, start, problem)


def _checked(pull: Any, learning_rate: Any, momentum: Any, steps: Any):
    check_at_least("pull", pull)
    check_at_least("learning_rate", learning_rate)
    value = concrete(momentum)
    if value is not None and not (value.shape == () and 0 <= value < 1):
        raise ValueError(f"momentum must lie in [0, 1), got {momentum!r}.")
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be an int >= 1, got {steps!r}.")
    return pull, learning_rate, momentum, steps


def check_at_least(name: str, number: Any) -> None:
    """Raises ValueError for a number that is negative or not finite."""
    value = concrete(number)
    if value is not None and not (
        value.shape == () and np.isfinite(value) and value >= 0
    ):
        raise ValueError(f"{name} must be a finite number >= 0, got {number!r}.")
