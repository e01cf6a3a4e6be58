"""GradVac: pairs of gradients are moved up to their usual cosine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import SHARE, check_choice, check_number
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._unit_rows import (
    importance,
    known,
    live_rows,
    or_nan,
    rounding,
    visiting_order,
)
from eagc_jax.aggregators._weighting import Problem, Weighting, problem_of, unscale
from eagc_jax.aggregators.pcgrad import ORDERS, Order
from eagc_jax.gram import Gram
from eagc_jax.solvers.nnqp import SolveInfo, no_solve
from eagc_jax.typing import OptState

_UNROLL_LIMIT = 8
# A target cosine of 1 would ask for an infinite correction.
_LARGEST_TARGET = 1 - 1e-3


@shows_options
def gradvac(
    num_objectives: int,
    *,
    decay: float = 0.5,
    order: Order = "random",
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Moves gradients towards each other, up to the cosine that the pair usually has.

    Each gradient starts as :math:`g_i' = g_i` and meets the others in turn. Where their
    cosine :math:`c` is below the target :math:`t = \phi_{ij}`, it is raised to it:

    .. math:: g_i' \leftarrow g_i' +
        \frac{\|g_i'\| (t \sqrt{1 - c^2} - c \sqrt{1 - t^2})}{\|g_j\| \sqrt{1 - t^2}} g_j,

    and, raised or not, :math:`\phi_{ij} \leftarrow (1 - \beta) t + \beta c` with the
    cosine as it was before; :math:`d = \sum_i g_i'`. From :math:`\phi = 0` the first step
    is PCGrad's.

    Guards: targets are clipped to +-0.999; a gradient that was projected to zero has
    cosine 0; where either of a pair is zero or absent, neither the gradient nor the
    target changes.

    Guarantee: none (a later meeting may undo an earlier one). Length: "sum". Cost: one
    Gram pass, K steps of O(K^3), one weighted sum; the state holds K x K targets for
    each block.

    Args:
      num_objectives: K, a Python int.
      decay: :math:`\beta` in [0, 1]: how far a target moves to the cosine found. 0.5 as
        in other implementations; the paper averages over more steps, 0.01.
      order: "random", one permutation for each objective and step; or "fixed".
      **options: as in :func:`eagc_jax.aggregators.from_weighting`. The preference
        multiplies the gradients (``K u_k``).

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``; ``method`` in
      its state holds the targets, ``(blocks, K, K)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import gradvac
      >>> tx = gradvac(2)
      >>> grads = {"w": jnp.array([[1.0, 0.0], [-1.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4), state.method[0, 0].round(4)
      (Array([0.5, 1.5], dtype=float32), Array([ 0.    , -0.3536], dtype=float32))

    References:
      Wang et al., `Gradient Vaccine <https://arxiv.org/abs/2010.05874>`_, 2021, equations
      6 to 8.
    """
    check_choice("order", order, ORDERS)
    check_number("decay", decay, SHARE)

    def apply(
        problem: Problem, targets: OptState
    ) -> tuple[jax.Array, OptState, SolveInfo]:
        weights, targets = _solve(problem, targets, decay)
        return weights, targets, no_solve()

    method = Weighting(
        "gradvac",
        "sum",
        apply,
        init=lambda number: jnp.zeros((number, number), jnp.float32),
        random=order == "random",
    )
    return from_weighting(num_objectives, method, **options)


def gradvac_weights(
    gram: jax.typing.ArrayLike,
    targets: jax.typing.ArrayLike,
    *,
    decay: float = 0.5,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
    key: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """GradVac's weights from a ``(K, K)`` Gram matrix: see :func:`gradvac`.

    Args:
      gram: ``(K, K)``.
      targets: ``(K, K)`` target cosines, zeros at the start.
      decay: in [0, 1].
      preference: K numbers >= 0, or None.
      key: a PRNG key for random orders; None for the fixed one.

    Returns:
      ``(K,)`` weights and the next targets ``(K, K)``.
    """
    check_number("decay", decay, SHARE)
    return _solve(problem_of(gram, preference, key), jnp.asarray(targets), decay)


def _solve(
    problem: Problem, targets: jax.Array, decay: float
) -> tuple[jax.Array, jax.Array]:
    gram = problem.gram
    dtype, number = gram.norms.dtype, gram.norms.shape[0]
    order = visiting_order(problem.key, number)
    objectives = jnp.arange(number)
    live = live_rows(gram)

    def meet(step, carry):
        coefficients, phi = carry
        other = order[:, step]
        takes_part = (other != objectives) & live & live[other]
        norm, slopes = _lengths(coefficients, gram)
        cosine = slopes[objectives, other] / jnp.where(norm > 0, norm, 1)
        cosine = jnp.where(norm > 0, jnp.clip(cosine, -1, 1), 0)
        found = phi[objectives, other].astype(dtype)
        target = jnp.clip(found, -_LARGEST_TARGET, _LARGEST_TARGET)
        ratio = target / jnp.sqrt(1 - target**2)
        move = norm * (ratio * jnp.sqrt(1 - cosine**2) - cosine)
        move = jnp.where(takes_part & (cosine < target), move, 0)
        following = jnp.where(takes_part, (1 - decay) * found + decay * cosine, found)
        return (
            coefficients.at[objectives, other].add(move),
            phi.at[objectives, other].set(following.astype(phi.dtype)),
        )

    start = (jnp.eye(number, dtype=dtype), targets)
    coefficients, phi = jax.lax.fori_loop(
        0, number, meet, start, unroll=number <= _UNROLL_LIMIT
    )
    factors = importance(problem)
    lengths = jnp.sum((factors * gram.norms)[:, None] * coefficients, axis=0)
    weights = or_nan(unscale(lengths, gram.norms, factors), gram)
    return weights, jnp.where(known(gram), phi, targets)


def _lengths(coefficients: jax.Array, gram: Gram) -> tuple[jax.Array, jax.Array]:
    """Norms of the current gradients over their first, and products with unit rows."""
    slopes = jnp.sum(coefficients[:, :, None] * gram.cosines[None], axis=1)
    squared = jnp.sum(slopes * coefficients, axis=1)
    size = jnp.sum(jnp.abs(coefficients), axis=1)
    # Projected to zero, up to rounding: it has no direction any more.
    gone = squared <= rounding(size.dtype) * size**2
    return jnp.where(gone, 0, jnp.sqrt(jnp.where(gone, 1, squared))), slopes
