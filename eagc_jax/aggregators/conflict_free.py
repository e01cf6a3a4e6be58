"""ConFIG: the update has the same angle to every gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import check_choice
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._unit_rows import (
    importance,
    live_rows,
    or_nan,
)
from eagc_jax.aggregators._weighting import Problem, problem_of, stateless, unscale
from eagc_jax.gram import Gram
from eagc_jax.solvers import pseudo_inverse, two_float

Length = Literal["projection", "min", "max", "harmonic", "arithmetic", "geometric"]
LENGTHS: tuple[Length, ...] = get_args(Length)


@shows_options
def conflict_free(
    num_objectives: int,
    *,
    length: Length = "projection",
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""ConFIG: the direction with the same angle to every gradient.

    With the unit gradients U and their cosines C, the direction is
    :math:`b = U^+ 1 = U^\top C^+ 1`, and

    .. math:: d = \Big( \sum_k \langle g_k, \hat b \rangle \Big) \hat b, \qquad
        \hat b = b / \|b\|.

    All of it comes from the K x K cosines: the pseudo-inverse of the K x N matrix, which
    in float32 cuts off everything at some 1e7 parameters, is never formed.
    Where C is singular, to rounding, and no direction has equal cosines other than 0,
    the update is 0.

    Guarantee: where the gradients are linearly independent all cosines with the update
    are equal and positive, so it conflicts with none. The direction doesn't depend on
    the norms; the update is linear under rescaling of the objectives. Weights may be
    negative. Length: "sum" ("unit" for the other length models). Cost: one Gram pass,
    one eigendecomposition of size K, one weighted sum.

    Args:
      num_objectives: K, a Python int.
      length: "projection" as above; or :math:`\sum_k \langle u_k, \hat b \rangle` times
        the smallest ("min"), largest ("max") or "harmonic", "arithmetic", "geometric"
        mean norm.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`. With a preference the
        cosines are in proportion to it: :math:`b = U^+ (K u)`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import conflict_free
      >>> tx = conflict_free(2)
      >>> grads = {"w": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4)
      Array([2., 2.], dtype=float32)

    References:
      Liu, Chu and Thuerey, `ConFIG <https://arxiv.org/abs/2408.11104>`_, 2025, equations
      2 and 3.
    """
    check_choice("length", length, LENGTHS)
    return from_weighting(
        num_objectives,
        stateless("conflict_free", "sum", lambda problem: solve(problem, length)),
        **options,
    )


def conflict_free_weights(
    gram: jax.typing.ArrayLike,
    *,
    length: Length = "projection",
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """ConFIG's weights from a ``(K, K)`` Gram matrix: see :func:`conflict_free`."""
    check_choice("length", length, LENGTHS)
    return solve(problem_of(gram, preference), length)


def solve(problem: Problem, length: Length) -> jax.Array:
    """ConFIG's weights ``(K,)`` of one block's problem."""
    gram = problem.gram
    aims = jnp.where(live_rows(gram), importance(problem), 0)
    coefficients, reached = _coefficients(gram.cosines, aims)
    if length == "projection":
        along = jnp.sum(gram.norms * aims)
    else:
        along = jnp.sum(aims) * _typical_norm(gram, length)
    # The cosines times the coefficients are the aims, so this is the square of b.
    terms = two_float.multiply(two_float.exact(coefficients), two_float.exact(aims))
    squared = two_float.sum_last(terms).high
    some = reached & ~(squared <= 0)  # NaN must come out
    coefficients = jnp.where(some, coefficients * (along / squared), 0)
    return or_nan(unscale(coefficients, gram.norms), gram)


def _coefficients(cosines: jax.Array, aims: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``C^+ aims`` up to a factor, and whether C times it gives the aims."""
    if aims.shape[0] == 1:
        return aims, jnp.ones([], bool)
    solved, _, reached = pseudo_inverse(cosines, aims)
    found = solved.high
    if aims.shape[0] == 2:  # (1, 1) / (1 + c): without rounding at every angle
        found = jnp.where(aims[0] == aims[1], aims, found)
    return found, reached


def _typical_norm(gram: Gram, length: Length) -> jax.Array:
    live = live_rows(gram)
    norms = jnp.where(live, gram.norms, 1)  # relative to the largest, so <= 1
    count = jnp.maximum(jnp.sum(live, dtype=jnp.int32), 1).astype(norms.dtype)

    def mean(values):
        return jnp.sum(jnp.where(live, values, 0)) / count

    if length == "min":
        return jnp.min(norms)
    if length == "max":
        return jnp.max(norms)
    if length == "harmonic":
        return 1 / jnp.maximum(mean(1 / norms), 1)
    if length == "geometric":
        return jnp.exp(mean(jnp.log(norms)))
    return mean(norms)
