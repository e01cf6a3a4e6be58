"""Smooth Chebyshev scalarization: descend on a smooth maximum of the losses."""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import POSITIVE, check_number
from eagc_jax._trees import ratio
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.aggregators.chebyshev import Ideal, scalarization


@_direct.shows_options
def smooth_chebyshev(
    num_objectives: int,
    *,
    ideal: Ideal = 0.0,
    mu: float = 1.0,
    relative: bool = False,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Descends on a smooth maximum of the weighted distances from the ideal point.

    With the preference :math:`\lambda` and the ideal point z,

    .. math:: \mu\log\sum_k e^{\lambda_k(L_k-z_k)/\mu}, \qquad
              w_k = \lambda_k\,\mathrm{softmax}(\lambda(L-z)/\mu)_k .

    Smooth, at most :math:`\mu\log K` above the maximum; as :math:`\mu\to0` it is
    :func:`eagc_jax.aggregators.chebyshev`, as :math:`\mu\to\infty` the mean. Guarantee
    (paper): for a small enough :math:`\mu` every Pareto point is the minimum for some
    :math:`\lambda`. As published :math:`\mu` has the losses' unit; ``relative=True``
    multiplies it by the mean of :math:`|\lambda_k(L_k-z_k)|`. Length: "convex" (where
    preferences are equal). Cost: the weighted sum. Memory: K numbers.

    Args:
      num_objectives: K, a Python int.
      ideal: z, a number or K of them; or "running", the smallest losses seen so far.
      mu: :math:`\mu` > 0.
      relative: whether :math:`\mu` is relative to the distances.
      **options: ``preference``, :math:`\lambda`, K numbers >= 0, divided by their
        mean, None for ones; ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``; ``update`` needs
      ``value``, the K losses. State: :class:`DirectState`, ``method`` a
      ``ChebyshevState``.

    Raises:
      ValueError: bad arguments (at once); no ``value`` (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import smooth_chebyshev
      >>> tx = smooth_chebyshev(2)
      >>> grads = {"w": jnp.eye(2)}
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(2)}),
      ...                       value=jnp.array([1.0, 4.0]))
      >>> update["w"].round(2)
      Array([0.05, 0.95], dtype=float32)

    References:
      Lin et al., `Smooth Tchebycheff Scalarization for Multi-Objective Optimization
      <https://arxiv.org/abs/2402.19078>`_, 2024, equation 6.
    """
    check_number("mu", mu, POSITIVE)

    def weigh(losses, ratios, point, active):
        return smooth_chebyshev_weights(
            losses, ratios, point, active, mu=mu, relative=relative
        )

    return scalarization("smooth_chebyshev", num_objectives, weigh, ideal, options)


def smooth_chebyshev_weights(
    losses: jax.Array,
    preference: jax.Array,
    ideal: jax.typing.ArrayLike = 0.0,
    active: jax.Array | None = None,
    *,
    mu: jax.typing.ArrayLike = 1.0,
    relative: bool = False,
) -> jax.Array:
    """The weights of the smooth Chebyshev scalarization: its gradient in L.

    Args:
      losses: ``(K,)``.
      preference: ``(K,)``.
      ideal: a number or ``(K,)``.
      active: ``(K,)`` bool, or None for all.
      mu: a number > 0.
      relative: as in :func:`smooth_chebyshev`; mu counts as a constant.

    Returns:
      ``(K,)``, 0 where not active.
    """
    if active is None:
        active = jnp.ones(losses.shape, bool)
    distances = preference * (losses - ideal)
    size = jnp.asarray(mu, distances.dtype)
    if relative:
        size = size * _arithmetic.masked_mean(jnp.abs(distances), active)
    # Below the largest first: what is divided by a small mu must not overflow to NaN.
    top = jnp.max(jnp.where(active, distances, -jnp.inf))
    below = jnp.where(active, distances - top, 0.0)
    return preference * _arithmetic.masked_softmax(ratio(below, size), active)
