"""Aligned-MTL: the gradients are made orthogonal and equally long, then averaged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, get_args

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import DECAY, check_choice, check_number
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._unit_rows import (
    live_rows,
    or_nan,
    product,
    rounding,
)
from eagc_jax.aggregators._weighting import Problem, problem_of, stateless

Scale = Literal["min", "median", "rmse"]
SCALES: tuple[Scale, ...] = get_args(Scale)


@shows_options
def aligned_mtl(
    num_objectives: int,
    *,
    scale: Scale = "min",
    rel_tol: float | None = None,
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Replaces the gradients by the nearest orthogonal ones, then averages.

    With :math:`G = V \Lambda V^\top` over the eigenvalues above ``rel_tol`` times the
    largest, and the preference u (normalised to sum 1),

    .. math:: d = (B J)^\top u, \qquad B = \sqrt\sigma \, V \Lambda^{-1/2} V^\top,
        \qquad w = B u.

    The rows of :math:`B J` are orthogonal, each of norm :math:`\sqrt\sigma` (where no
    eigenvalue was dropped). ``sigma`` is the smallest eigenvalue kept, their lower median
    or their mean.

    Guarantee: descent on the preference's mean; conflicts with single objectives are
    possible, and weights may be negative. The update jumps where an eigenvalue crosses
    ``rel_tol``, since the smallest one sets the length. In float32 gradients whose
    norms differ by a factor of 1e3 or more are below it: the small ones then have no
    part. Length: "mean". Cost: one Gram pass, one eigendecomposition of size K, one
    weighted sum.

    Args:
      num_objectives: K, a Python int.
      scale: sigma: "min", "median" or "rmse" (the mean).
      rel_tol: eigenvalues up to this share of the largest are taken for 0; None for ten
        eps (1e-6 in float32).
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; ``preference`` is u.
        (The authors' code sums where this averages: ``rescale="sum"``.)

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import aligned_mtl
      >>> tx = aligned_mtl(2)
      >>> grads = {"w": jnp.array([[2.0, 0.0], [0.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4), state.weights.round(4)
      (Array([0.5, 0.5], dtype=float32), Array([0.25, 0.5 ], dtype=float32))

    References:
      Senushkin et al., `Independent Component Alignment for Multi-Task Learning
      <https://arxiv.org/abs/2305.19000>`_, 2023, algorithm 1.
    """
    _check(scale, rel_tol)
    return from_weighting(
        num_objectives,
        stateless("aligned_mtl", "mean", lambda p: _solve(p, scale, rel_tol)),
        **options,
    )


def aligned_mtl_weights(
    gram: jax.typing.ArrayLike,
    *,
    scale: Scale = "min",
    rel_tol: float | None = None,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Aligned-MTL's weights from a ``(K, K)`` Gram matrix: see :func:`aligned_mtl`."""
    _check(scale, rel_tol)
    return _solve(problem_of(gram, preference), scale, rel_tol)


def _check(scale: Scale, rel_tol: float | None) -> None:
    check_choice("scale", scale, SCALES)
    check_number("rel_tol", rel_tol, DECAY, " or be None")


def _solve(problem: Problem, scale: Scale, rel_tol: float | None) -> jax.Array:
    gram, preference = problem.gram, problem.preference
    # gram.matrix has 0 on the diagonal for a gradient that is zero.
    values, vectors = jnp.linalg.eigh(gram.matrix)
    share = rounding(values.dtype) if rel_tol is None else rel_tol
    kept = (values > share * values[-1]) & (values > 0)
    sigma = _common_length(values, kept, scale)
    factors = jnp.where(kept, jnp.sqrt(sigma / jnp.where(kept, values, 1)), 0)
    weights = product(vectors, factors * product(vectors.T, preference))
    weights = jnp.where(live_rows(gram), weights, preference)
    return or_nan(weights, gram)


def _common_length(values: jax.Array, kept: jax.Array, scale: Scale) -> jax.Array:
    """The squared length of the aligned gradients; ``values`` ascend, ``kept`` last."""
    rank = jnp.sum(kept, dtype=jnp.int32)
    if scale == "rmse":
        total = jnp.sum(jnp.where(kept, values, 0))
        return total / jnp.maximum(rank, 1).astype(values.dtype)
    number = values.shape[0]
    place = number - rank
    if scale == "median":
        place = place + (rank - 1) // 2
    return jnp.maximum(values[jnp.clip(place, 0, number - 1)], 0)
