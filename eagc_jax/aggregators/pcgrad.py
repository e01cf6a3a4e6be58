"""PCGrad: every gradient is projected off those that it conflicts with."""

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
    or_nan,
    visiting_order,
)
from eagc_jax.aggregators._weighting import Problem, problem_of, stateless, unscale

Order = Literal["random", "fixed"]
ORDERS: tuple[Order, ...] = get_args(Order)
# Up to here the loop over objectives is unrolled.
_UNROLL_LIMIT = 8


@shows_options
def pcgrad(
    num_objectives: int, *, order: Order = "random", **options: Unpack[GramOptions]
) -> optax.GradientTransformationExtraArgs:
    r"""Projects each gradient off those it conflicts with, then sums.

    Each gradient starts as :math:`g_i' = g_i` and meets the others in turn. Where
    :math:`\langle g_i', g_j \rangle < 0` it is projected on the plane normal to the
    *original* :math:`g_j`:

    .. math:: g_i' \leftarrow g_i' - \frac{\langle g_i', g_j \rangle}{\|g_j\|^2} g_j,
        \qquad d = \sum_i g_i'.

    For two objectives :math:`w_i = 1 - \min(G_{12}, 0) / G_{ii}`, twice UPGrad, and the
    order has no effect.

    Guarantee: for K = 2 no conflict with either objective; none for K >= 3, where the
    update may even increase the sum. Weights are at least 1. Linear under rescaling of
    the objectives, given the order. Length: "sum". Cost: one Gram pass, K steps of
    O(K^2), one weighted sum.

    Args:
      num_objectives: K, a Python int.
      order: "random", one permutation for each objective and step, as in the paper; or
        "fixed", 0, 1, ..., K - 1.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`. The preference
        multiplies the gradients (``K u_k``); projections don't depend on it.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import pcgrad
      >>> tx = pcgrad(2)
      >>> grads = {"w": jnp.array([[1.0, 0.0], [-1.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4)
      Array([0.5, 1.5], dtype=float32)

    References:
      Yu et al., `Gradient Surgery for Multi-Task Learning
      <https://arxiv.org/abs/2001.06782>`_, 2020, algorithm 1.
    """
    check_choice("order", order, ORDERS)
    method = stateless("pcgrad", "sum", _solve, random=order == "random")
    return from_weighting(num_objectives, method, **options)


def pcgrad_weights(
    gram: jax.typing.ArrayLike,
    *,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
    key: jax.Array | None = None,
) -> jax.Array:
    """PCGrad's weights from a ``(K, K)`` Gram matrix: see :func:`pcgrad`.

    Args:
      gram: ``(K, K)``.
      preference: K numbers >= 0, or None.
      key: a PRNG key for random orders; None for the fixed one.

    Returns:
      ``(K,)``.
    """
    return _solve(problem_of(gram, preference, key))


def _solve(problem: Problem) -> jax.Array:
    """Row i of ``coefficients`` is what has become of unit gradient i."""
    cosines, norms = problem.gram.cosines, problem.gram.norms
    number = norms.shape[0]
    order = visiting_order(problem.key, number)
    objectives = jnp.arange(number)

    def meet(step, coefficients):
        other = order[:, step]
        slopes = jnp.sum(coefficients * cosines[other], axis=1)
        moves = jnp.where(other == objectives, 0, jnp.minimum(slopes, 0))
        return coefficients.at[objectives, other].add(-moves)

    coefficients = jax.lax.fori_loop(
        0,
        number,
        meet,
        jnp.eye(number, dtype=norms.dtype),
        unroll=number <= _UNROLL_LIMIT,
    )
    factors = importance(problem)
    # Summed and not multiplied: a matrix product may be of lower precision.
    lengths = jnp.sum((factors * norms)[:, None] * coefficients, axis=0)
    return or_nan(unscale(lengths, norms, factors), problem.gram)
