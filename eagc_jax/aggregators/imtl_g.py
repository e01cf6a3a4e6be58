"""IMTL-G: the update has the same projection on every gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._unit_rows import importance, live_rows, or_nan, rounding
from eagc_jax.aggregators._weighting import Problem, problem_of, stateless, unscale
from eagc_jax.solvers import pseudo_inverse, two_float


@shows_options
def imtl_g(
    num_objectives: int,
    *,
    max_weight: float | None = None,
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""The affine combination of the gradients with the same projection on each.

    :math:`d = \sum_k w_k g_k`, :math:`\sum_k w_k = 1`, with
    :math:`\langle d, g_k / \|g_k\| \rangle` equal for all k:

    .. math:: w = v / \textstyle\sum_k v_k, \qquad v = D^{-1} C^{-1} 1

    with the norms :math:`D` and the cosines :math:`C`. Where C is singular, to rounding,
    v is the limit of :math:`D^{-1} (C + r I)^{-1} 1` for r towards 0: the pseudo-inverse
    where it solves the system, else the part of 1 in the null space, which makes all
    projections 0. So gradients that are opposed give 0. For two objectives
    :math:`w = (n_2, n_1) / (n_1 + n_2)` whatever the angle. The direction is ConFIG's, or
    its opposite where :math:`\sum_k v_k < 0`.

    Guarantee: equal projections; not descent. Weights may be negative and, where
    :math:`\sum_k v_k` is near 0, large. Length: "convex". Cost: one Gram pass, one
    eigendecomposition of size K, one weighted sum.

    Args:
      num_objectives: K, a Python int.
      max_weight: where a weight would be larger in absolute value, the weights are
        :math:`(1 / n_k) / \sum_j (1 / n_j)` instead, those of gradients at right angles.
        None: only where :math:`\sum_k v_k` is 0 to rounding.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`. With a preference the
        projections are in proportion to it.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import imtl_g
      >>> tx = imtl_g(2)
      >>> grads = {"w": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4), state.weights.round(4)
      (Array([0.75, 0.75], dtype=float32), Array([0.25, 0.75], dtype=float32))

    References:
      Liu et al., `Towards Impartial Multi-task Learning
      <https://openreview.net/forum?id=IMPnRXEWpvr>`_, 2021, equations 4 to 6.
    """
    _check(max_weight)
    return from_weighting(
        num_objectives,
        stateless("imtl_g", "convex", lambda problem: _solve(problem, max_weight)),
        **options,
    )


def imtl_g_weights(
    gram: jax.typing.ArrayLike,
    *,
    max_weight: float | None = None,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """IMTL-G's weights from a ``(K, K)`` Gram matrix: see :func:`imtl_g`."""
    _check(max_weight)
    return _solve(problem_of(gram, preference), max_weight)


def _check(max_weight: float | None) -> None:
    if max_weight is not None and not max_weight > 0:
        raise ValueError(f"max_weight must be > 0 or None, got {max_weight!r}.")


def _solve(problem: Problem, max_weight: float | None) -> jax.Array:
    gram = problem.gram
    live = live_rows(gram)
    aims = jnp.where(live, importance(problem), 0)
    free = unscale(_coefficients(gram.cosines, aims), gram.norms)
    total = two_float.sum_last(two_float.exact(free)).high
    undefined = jnp.abs(total) <= rounding(total.dtype) * jnp.sum(jnp.abs(free))
    weights = free / jnp.where(undefined, 1, total)
    if max_weight is not None:
        undefined |= jnp.max(jnp.abs(weights)) > max_weight
    plain = unscale(aims, gram.norms)
    plain = plain / jnp.where(jnp.any(live), jnp.sum(plain), 1)
    return or_nan(jnp.where(undefined, plain, weights), gram)


def _coefficients(cosines: jax.Array, aims: jax.Array) -> jax.Array:
    """``(C + r I)^-1 aims`` for r towards 0, up to a factor."""
    if aims.shape[0] == 1:
        return aims
    if aims.shape[0] == 2:  # times 1 - c^2; exact where the aims are equal
        cosine = cosines[0, 1]
        apart = aims - cosine * aims[::-1]
        return jnp.where(aims[0] == aims[1], aims, apart)
    solved, missed, reached = pseudo_inverse(cosines, aims)
    return jnp.where(reached, solved.high, missed)
