"""FairGrad: alpha-fair progress of the objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import NONNEGATIVE, check_number, concrete
from eagc_jax.aggregators._base import GramOptions, from_weighting
from eagc_jax.aggregators._signature import shows_options_of
from eagc_jax.aggregators._unit_rows import importance, live_rows, or_nan, product
from eagc_jax.aggregators._weighting import (
    Problem,
    Weighting,
    problem_of,
    stateless,
    unscale,
)
from eagc_jax.solvers import SolveInfo, fair


@shows_options_of(from_weighting, rescale="norm_of_mean")
def fairgrad(
    num_objectives: int, *, alpha: float = 1.0, **options: Unpack[GramOptions]
) -> optax.GradientTransformationExtraArgs:
    r"""The update whose progress on the objectives is alpha-fair.

    The direction in a ball that maximises
    :math:`\sum_k \langle g_k, d \rangle^{1 - \alpha} / (1 - \alpha)` (the sum of
    logarithms for :math:`\alpha = 1`): :math:`d = \sum_k w_k g_k`, :math:`w > 0`, with

    .. math:: G w = w^{-1/\alpha}, \qquad
        w_k^{1/\alpha} \langle g_k, d \rangle = 1 \quad \text{for all } k.

    alpha = 0 is the mean, 1 is Nash-MTL; towards infinity the smallest progress counts
    alone.

    Guarantee: conflicts with no objective, :math:`\langle g_k, d \rangle > 0`, unless
    the gradients are Pareto stationary to rounding; then the weights are 0. Length:
    "unit", of degree :math:`(1 - \alpha) / (1 + \alpha)` in the gradients; so ``rescale``
    is "norm_of_mean" here unless it is given, which makes it shrink with the gradients.
    Cost: one Gram pass, some ten Cholesky factorisations of size K, one weighted sum.

    Args:
      num_objectives: K, a Python int.
      alpha: finite, >= 0.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; ``rescale="native"``
        is the solution above. The preference multiplies the terms of the sum (by
        ``K u_k``): the right side is :math:`K u_k w_k^{-1/\alpha}`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``. ``residual``
      in its state is the largest
      :math:`|w_k^{1/\alpha} \langle g_k, d \rangle - 1|`.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import fairgrad
      >>> tx = fairgrad(2, alpha=2.0, rescale="native")
      >>> grads = {"w": jnp.array([[8.0, 0.0], [0.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4), state.weights.round(4)
      (Array([0.5, 1. ], dtype=float32), Array([0.0625, 1.    ], dtype=float32))

    References:
      Ban and Ji, `Fair Resource Allocation in Multi-Task Learning
      <https://arxiv.org/abs/2402.15638>`_, 2024, equation 7.
    """
    return from_weighting(
        num_objectives, alpha_fair("fairgrad", alpha), **with_length_of_mean(options)
    )


def fairgrad_weights(
    gram: jax.typing.ArrayLike,
    *,
    alpha: float = 1.0,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""FairGrad's weights, :math:`G w = w^{-1/\alpha}`: see :func:`fairgrad`."""
    return alpha_fair("fairgrad", alpha).apply(problem_of(gram, preference), ())[0]


def with_length_of_mean(options: GramOptions) -> GramOptions:
    """The options, with the length of the mean where none is asked for."""
    options.setdefault("rescale", "norm_of_mean")
    return options


def alpha_fair(name: str, alpha: float) -> Weighting:
    """The weighting for an alpha.

    Raises:
      ValueError: alpha is negative or not finite.
    """
    check_number("alpha", alpha, NONNEGATIVE)
    if concrete(alpha) == 0:
        return stateless(name, "sum", importance)
    return stateless(name, "unit", lambda problem: _solve(problem, alpha))


def _solve(problem: Problem, alpha: float) -> tuple[jax.Array, SolveInfo]:
    """In the cosines: ``C a = K u n^(1/alpha - 1) a^(-1/alpha)``, ``w = a / n``."""
    gram = problem.gram
    shares = importance(problem)
    # Neither a zero gradient nor one that doesn't count has an equation.
    part = live_rows(gram) & (shares > 0)
    both = part[:, None] & part[None, :]
    cosines = jnp.where(both, gram.cosines, jnp.eye(*both.shape, dtype=shares.dtype))
    power = 1 / jnp.asarray(alpha, shares.dtype)
    norms = jnp.where(part, gram.norms, 1)
    right = jnp.where(part, shares, 1) * norms ** (power - 1)
    found, info = fair(cosines, alpha, right=right)
    progress = product(cosines, found)
    # At a Pareto stationary point the solution is at infinity, and what fair returns is
    # made by its ridge: large weights that cancel, of a length that has no meaning.
    solved = jnp.all(progress > 0.5 * right * found**-power)
    weights = unscale(jnp.where(part & solved, found, 0), gram.norms)
    scale = jnp.where(gram.scale > 0, gram.scale, 1)
    weights = weights * scale ** (-2 / (1 + power))
    return or_nan(weights, gram), info
