"""Rewards in conflict: weights from the Gram matrix of their advantages or gradients."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._checks import SHARE, check_choice, check_number
from eagc_jax._trees import widened
from eagc_jax.gradients import Weighting
from eagc_jax.gradients._common import inner_products, weights_of
from eagc_jax.objectives import expand_to
from eagc_jax.rewards.advantages import checked

Per = Literal["batch", "prompt"]


def coordinated_advantages(
    advantages: jax.typing.ArrayLike,
    weighting: Weighting,
    *,
    per: Per = "batch",
) -> tuple[jax.Array, jax.Array]:
    r"""Advantages of K rewards into one, by a weighting of their Gram matrix.

    .. math:: G_{kl} = \sum_i A^{(k)}_i A^{(l)}_i, \qquad w = w(G), \qquad
              A = \sum_k w_k A^{(k)} .

    The policy gradient of reward k is :math:`g_k=\sum_i A^{(k)}_i\,s_i` with the scores
    :math:`s_i=\nabla\log\pi(a_i)`. G is the Gram matrix of these gradients where scores
    are orthogonal and of equal length; then a weighting without conflict, such as
    ``weightings.upgrad``, gives an update that lowers no reward, to first order. Scores
    aren't quite that, so it is a guess, for one backward pass; with
    :func:`surrogate_losses` it is exact, for K.

    Args:
      advantages: ``(K, ..., group)``, from :func:`eagc_jax.rewards.group_advantages`.
      weighting: a pure function from a ``(K, K)`` Gram matrix to ``(K,)`` weights: see
        :mod:`eagc_jax.weightings`.
      per: "batch" (one set of weights) or "prompt" (one for each group).

    Returns:
      The advantages ``(..., group)``, and the weights, ``(K,)`` or ``(K, ...)``.

    Raises:
      ValueError: advantages that aren't ``(K, ..., group)``, or a bad weighting or
        ``per``.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import weightings
      >>> from eagc_jax.rewards import coordinated_advantages
      >>> two = jnp.array([[1.0, -1.0, 0.0], [-1.0, 0.0, 1.0]])
      >>> both, weights = coordinated_advantages(two, weightings.upgrad)
      >>> bool(jnp.all(two @ both >= 0))  # what one gains isn't the other's loss
      True
    """
    check_choice("per", per, get_args(Per))
    values = checked(advantages, 2)
    if per == "batch" or values.ndim == 2:
        weights = weights_of(weighting, inner_products(values, values))
        return jnp.sum(values * expand_to(weights, values.ndim), axis=0), weights
    number, *prompts, group = values.shape
    flat = values.reshape(number, -1, group)

    def of_prompt(rows: jax.Array) -> jax.Array:
        return weights_of(weighting, inner_products(rows, rows))

    weights = jax.vmap(of_prompt, in_axes=1, out_axes=1)(flat)
    weights = weights.reshape(number, *prompts)
    return jnp.sum(values * weights[..., None], axis=0), weights


def surrogate_losses(
    log_probs: jax.Array,
    advantages: jax.typing.ArrayLike,
    *,
    old_log_probs: jax.Array | None = None,
    clip: float | None = 0.2,
) -> jax.Array:
    r"""K policy losses whose gradients are the K rewards' policy gradients.

    .. math:: L_k = -\mathrm{mean}_i \min\big(\rho_i A^{(k)}_i,\;
        \mathrm{clip}(\rho_i, 1-c, 1+c)\,A^{(k)}_i\big), \qquad
        \rho_i = e^{\log\pi(a_i) - \log\pi_{\text{old}}(a_i)} .

    For :func:`eagc_jax.value_and_grads`, or any way in :mod:`eagc_jax.gradients`, and an
    aggregator: the exact form of :func:`coordinated_advantages`.

    Args:
      log_probs: ``(..., group)``, of whole answers, to differentiate.
      advantages: ``(K, ..., group)``, constants.
      old_log_probs: of the policy that the answers are from; None where it is the same,
        :math:`\rho=1`: the plain policy gradient.
      clip: c, in [0, 1]; None for no clipping.

    Returns:
      ``(K,)``, float32 or wider. Their values mean little; their gradients count.

    Raises:
      ValueError: shapes that don't fit, or a bad clip.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from eagc_jax.rewards import surrogate_losses
      >>> advantages = jnp.array([[1.0, -1.0], [0.0, 2.0]])
      >>> jax.jacrev(surrogate_losses)(jnp.log(jnp.array([0.4, 0.6])), advantages)
      Array([[-0.5,  0.5],
             [ 0. , -1. ]], dtype=float32)

    References:
      Schulman et al., `Proximal Policy Optimization Algorithms
      <https://arxiv.org/abs/1707.06347>`_, 2017, equation 7.
    """
    if clip is not None:
        check_number("clip", clip, SHARE)
    values = checked(advantages, 2)
    old = jax.lax.stop_gradient(log_probs) if old_log_probs is None else old_log_probs
    for name, array in (("log_probs", log_probs), ("old_log_probs", old)):
        if np.shape(array) != values.shape[1:]:
            raise ValueError(
                f"{name} must have the shape of one reward's advantages, "
                f"{values.shape[1:]}; got {np.shape(array)}."
            )
    values = jax.lax.stop_gradient(values)
    ratios = jnp.exp(widened(log_probs) - widened(old))[None].astype(values.dtype)
    gains = ratios * values
    if clip is not None:
        gains = jnp.minimum(gains, jnp.clip(ratios, 1 - clip, 1 + clip) * values)
    return -jnp.mean(gains, axis=tuple(range(1, gains.ndim)))
