"""CAGrad: the best worst-case progress in a ball around the mean gradient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, NamedTuple, Unpack, get_args

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import NONNEGATIVE, check_choice, check_number
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._unit_rows import (
    live_rows,
    or_nan,
    rounding,
)
from eagc_jax.aggregators._weighting import Problem, problem_of, stateless, unscale
from eagc_jax.gram import Gram
from eagc_jax.solvers import SolveInfo, nnqp, two_float
from eagc_jax.solvers.nnqp import no_solve, ridged, sweep
from eagc_jax.solvers.two_float import TwoFloat

Shrink = Literal["none", "linear", "quadratic"]
SHRINKS: tuple[Shrink, ...] = get_args(Shrink)
# By then halving alone has closed the bracket to rounding.
_MAX_STEPS = 40


@shows_options
def cagrad(
    num_objectives: int,
    *,
    c: float = 0.4,
    shrink: Shrink = "none",
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""The best worst-case progress in a ball around the mean gradient.

    With :math:`g_0 = \sum_k u_k g_k` (the preference u sums to 1),

    .. math:: \max_d \min_k \langle g_k, d \rangle \quad \text{subject to} \quad
        \|d - g_0\| \le c \|g_0\|.

    The solution is :math:`d = g_0 + J^\top x`, where :math:`x \ge 0` minimises
    :math:`\frac12 x^\top G x - (s 1 - J g_0)^\top x` at the level s of the objective at
    which :math:`\|J^\top x\| = c \|g_0\|`. The level is found by Newton steps kept in a
    bracket, each of which solves that problem; for two objectives it is a closed form. A
    gradient of zero doesn't limit the level. Where the gradients are Pareto stationary
    and the ball holds directions without conflict, no level is above 0 and every such
    direction is a solution: the one nearest to :math:`g_0` is taken, its projection on
    the dual cone.

    Guarantee: :math:`\langle d, g_0 \rangle \ge (1 - c) \|g_0\|^2`, descent on the mean
    for c < 1, where conflicts with single objectives are possible; none for c >= 1, since
    d = 0 is then in the ball. c = 0 is the mean. Length:
    "mean" (identical gradients give (1 + c) g). Cost: one Gram pass, some three to ten
    problems of K variables, one weighted sum.

    Args:
      num_objectives: K, a Python int.
      c: the radius over :math:`\|g_0\|`, >= 0; in the paper [0, 1).
      shrink: a factor on the update, as the authors' code has it: "none", "linear" for
        1 / (1 + c), "quadratic" for 1 / (1 + c^2), which is their default.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; ``preference`` is u.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``. ``residual``
      in its state is how far the length missed the radius, relative to it.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import cagrad
      >>> tx = cagrad(2, c=0.5)
      >>> grads = {"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4)
      Array([0.75, 0.75], dtype=float32)

    References:
      Liu et al., `Conflict-Averse Gradient Descent for Multi-task Learning
      <https://arxiv.org/abs/2110.14048>`_, 2021, equations 3 to 5.
    """
    _check(c, shrink)
    return from_weighting(
        num_objectives,
        stateless("cagrad", "mean", lambda problem: _solve(problem, c, shrink)),
        **options,
    )


def cagrad_weights(
    gram: jax.typing.ArrayLike,
    *,
    c: float = 0.4,
    shrink: Shrink = "none",
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """CAGrad's weights from a ``(K, K)`` Gram matrix: see :func:`cagrad`."""
    _check(c, shrink)
    return _solve(problem_of(gram, preference), c, shrink)[0]


def _check(c: jax.typing.ArrayLike, shrink: Shrink) -> None:
    check_number("c", c, NONNEGATIVE)
    check_choice("shrink", shrink, SHRINKS)


class _Ball(NamedTuple):
    gram: Gram
    slopes: TwoFloat  # shape=(K,): <u_k, g_0>.
    length: jax.Array  # shape=(): ||g_0||.
    radius: jax.Array  # shape=(): c ||g_0||.


def _solve(
    problem: Problem, c: jax.typing.ArrayLike, shrink: Shrink
) -> tuple[jax.Array, SolveInfo]:
    gram = problem.gram
    mean = problem.preference * gram.norms  # g_0 on the unit gradients
    slopes = two_float.product(gram.cosines, mean)
    squared = two_float.quadratic(gram.cosines, mean)
    # What is left where gradients cancel is rounding: there is no ball.
    cancels = squared <= rounding(mean.dtype) * jnp.sum(mean) ** 2
    length = jnp.sqrt(jnp.where(cancels, 0, squared))
    ball = _Ball(gram, slopes, length, length * c)
    info = no_solve()
    if mean.shape[0] == 1:
        added = nearest = live_rows(gram).astype(mean.dtype)
    elif mean.shape[0] == 2:
        added = _in_pair(ball)
        nearest, _ = nnqp(gram.cosines, two_float.negative(slopes))
    else:
        added, nearest, info = _at_level(ball)
    added = _to_radius(added, nearest, ball)
    weights = problem.preference + unscale(added, gram.norms)
    factor = {"none": 1.0, "linear": 1 / (1 + c), "quadratic": 1 / (1 + c * c)}[shrink]
    return or_nan(weights * factor, gram), info


def _to_radius(added: jax.Array, nearest: jax.Array, ball: _Ball) -> jax.Array:
    """Rescales ``sum_k added_k u_k`` to the radius.

    Where it cancels, the gradients are Pareto stationary: then towards the projection on
    the dual cone, at most to the radius.
    """
    cosines = ball.gram.cosines
    squared, away = (two_float.quadratic(cosines, x) for x in (added, nearest))
    none = _cancels(squared, added)
    share = ball.radius / jnp.sqrt(jnp.where(none, 1, squared))
    inside = away <= ball.radius**2
    there = jnp.where(inside, 1, ball.radius / jnp.sqrt(jnp.where(inside, 1, away)))
    return jnp.where(none, there * nearest, share * added)


def _cancels(squared: jax.Array, added: jax.Array) -> jax.Array:
    size = jnp.sum(jnp.abs(added))
    return squared <= rounding(added.dtype) * size**2


def _in_pair(ball: _Ball) -> jax.Array:
    """K = 2: the point of the segment between the gradients, by geometry.

    With ``g(w) = w g_1 + (1 - w) g_2`` and ``u = g_1 - g_2``, the dual of the problem is
    stationary where the cosine of g(w) with u is ``-<u, g_0> / (c |g_0| |u|)``.
    """
    live = live_rows(ball.gram)
    (first, second), cosine = ball.gram.norms, ball.gram.cosines[0, 1]
    across = (first - second) ** 2 + 2 * first * second * (1 - cosine)  # |u|^2
    same = across <= 0
    across = jnp.sqrt(jnp.where(same, 1, across))
    slopes = ball.slopes.high
    along = first * slopes[0] - second * slopes[1]  # <u, g_0>
    wanted = -along / jnp.where(ball.radius > 0, ball.radius * across, 1)
    inside = jnp.abs(wanted) < 1
    wanted = jnp.where(inside, wanted, jnp.sign(wanted))
    height = first * second * jnp.sqrt(jnp.maximum(1 - cosine**2, 0)) / across
    sine = jnp.sqrt(jnp.where(inside, 1 - wanted**2, 1))
    from_second = second * (first * cosine - second) / across  # <u, g_2> / |u|
    share = jnp.clip((height * wanted / sine - from_second) / across, 0, 1)
    share = jnp.where(inside, share, jnp.where(wanted > 0, 1, 0))
    share = jnp.where(same, 0.5, share)
    # A gradient of zero doesn't limit the level: the other one takes all.
    share = jnp.where(live[1], jnp.where(live[0], share, 0), 1)
    return jnp.stack([share * first, (1 - share) * second])


class _Search(NamedTuple):
    low: jax.Array  # shape=(): a level at which the radius isn't reached.
    high: jax.Array  # shape=(): one at which it is exceeded.
    level: TwoFloat  # shape=(): the next one to try.
    added: jax.Array  # shape=(K,): the last solution.
    nearest: jax.Array  # shape=(K,): that of level 0, the projection on the dual cone.
    miss: jax.Array  # shape=(): how far its length is from the radius, relative to it.
    stationary: jax.Array  # shape=(), bool: a level above 0 has no solution.
    iterations: jax.Array  # shape=(), int32.


def _at_level(ball: _Ball) -> tuple[jax.Array, jax.Array, SolveInfo]:
    """K > 2: what to add to g_0, on the unit gradients; the same at level 0."""
    gram, radius = ball.gram, jnp.where(ball.radius > 0, ball.radius, 1)
    live, dtype = live_rows(gram), radius.dtype
    inverse = unscale(jnp.ones_like(gram.norms), gram.norms)
    against = jax.tree.map(lambda x: jnp.where(live, -x, 0), ball.slopes)

    def solve(level):
        wanted = two_float.multiply(level, two_float.exact(inverse))
        wanted = jax.tree.map(lambda x: jnp.where(live, x, 0), wanted)
        never = two_float.exact(jnp.where(live, 0, -jnp.ones_like(inverse)))
        target = two_float.add(two_float.add(wanted, against), never)
        return nnqp(gram.cosines, target)[0]

    def body(search):
        added = solve(search.level)
        squared = two_float.quadratic(gram.cosines, added)
        miss = jnp.sqrt(jnp.maximum(squared, 0)) / radius - 1
        now = search.level.high
        low = jnp.where(miss < 0, jnp.maximum(now, search.low), search.low)
        high = jnp.where(miss < 0, search.high, now)
        step = _step_on(added, squared, inverse, ball)
        level = two_float.add(search.level, two_float.exact(step))
        inside = (level.high >= low) & (level.high <= high)
        middle = two_float.exact(0.5 * (low + high))
        return _Search(
            low=low,
            high=high,
            level=jax.tree.map(partial(jnp.where, inside), level, middle),
            added=added,
            nearest=jnp.where(search.iterations == 0, added, search.nearest),
            miss=jnp.abs(miss),
            stationary=(now > 0) & _cancels(squared, added),
            iterations=search.iterations + 1,
        )

    def unfinished(search):
        missed = (search.miss > rounding(dtype)) & ~search.stationary
        return missed & (search.iterations < _MAX_STEPS)

    # From the level of g_0 itself to what no direction in the ball exceeds.
    bounds = jnp.stack(
        [ball.slopes.high, jnp.broadcast_to(ball.length + radius, live.shape)]
    )
    bounds = jnp.where(live[None, :], gram.norms[None, :] * bounds, jnp.inf)
    low, high = jnp.min(bounds, axis=1)
    zero = jnp.zeros_like(inverse)
    first = _Search(
        low=low,
        high=high,
        level=two_float.exact(jnp.zeros([], dtype)),
        added=zero,
        nearest=zero,
        miss=jnp.where(ball.radius > 0, jnp.asarray(jnp.inf, dtype), 0),
        stationary=jnp.zeros([], bool),
        iterations=jnp.int32(0),
    )
    last = jax.lax.while_loop(unfinished, body, first)
    info = SolveInfo(jnp.where(last.stationary, 0, last.miss), last.iterations)
    return last.added, last.nearest, info


def _step_on(
    added: jax.Array, squared: jax.Array, inverse: jax.Array, ball: _Ball
) -> jax.Array:
    """How far the level at which this free set reaches the radius is: by a quadratic."""
    free = added > 0
    matrix, ridge = ridged(ball.gram.cosines)
    table = jax.tree.map(
        lambda m, side: jnp.concatenate([m, side[:, None]], axis=1),
        matrix,
        two_float.exact(inverse),
    )
    slope = jnp.where(free, sweep(table, free, ridge / 4).high[:, -1], 0)
    square, middle = jnp.sum(inverse * slope), jnp.sum(inverse * added)
    rest = squared - ball.radius**2
    root = jnp.sqrt(jnp.maximum(middle**2 - square * rest, 0))
    return -rest / jnp.where(middle > 0, middle + root, jnp.nan)
