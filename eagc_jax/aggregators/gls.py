"""GLS: descend on the geometric mean of the losses."""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import check_num_objectives, check_preference
from eagc_jax._trees import ratio
from eagc_jax.aggregators import _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.aggregators.uncertainty_weighting import safe_log
from eagc_jax.typing import OptState, PyTree


@_direct.shows_options
def gls(
    num_objectives: int, **options: Unpack[DirectOptions]
) -> optax.GradientTransformationExtraArgs:
    r"""Geometric loss strategy: descends on the geometric mean of the losses.

    With the preference p, which sums to 1 (:math:`p_k=1/K` as published),

    .. math:: M = \prod_k L_k^{p_k}, \qquad w_k = \frac{\partial M}{\partial L_k}
              = p_k\,\frac{M}{L_k} .

    Multiplying one loss by a constant multiplies M alone: the update's direction depends
    on no loss's scale. It is the direction of ``imtl_l(closed_form=True)``, of the sum of
    logarithms, with a length that falls as the losses do. Losses must be positive; one
    that isn't gets the weight 0, and the mean is of the others. As one loss goes to 0 it
    takes the whole update. Guarantee: none against conflict. Length: "unit" (that of the
    mean gradient where losses are equal). Cost: the weighted sum. Memory: no state.

    Args:
      num_objectives: K, a Python int.
      **options: ``preference``, p, K numbers >= 0, divided by their sum, None for equal
        ones (the paper's focused strategy gives some losses a larger exponent);
        ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``; ``update`` needs
      ``value``, the K losses, > 0. State: :class:`DirectState`.

    Raises:
      ValueError: bad arguments (at once); no ``value`` (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import gls
      >>> tx = gls(2)
      >>> grads = {"w": jnp.eye(2)}
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(2)}),
      ...                       value=jnp.array([1.0, 4.0]))
      >>> update["w"].round(3)  # half of 2/1 and of 2/4
      Array([1.  , 0.25], dtype=float32)

    References:
      Chennupati et al., `MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss
      Strategy for Multi-Task Learning <https://arxiv.org/abs/1904.08492>`_, 2019.
    """
    number = check_num_objectives(num_objectives)
    # It enters the exponents here, in place of multiplying the gradients.
    shares = check_preference(options.pop("preference", None), number)

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        return gls_weights(step.values, shares, step.active), state

    method = _direct.Method("gls", "unit", lambda params: (), apply, needs_values=True)
    return _direct.from_method(num_objectives, method, **options)


def gls_weights(
    losses: jax.Array,
    preference: jax.Array | None = None,
    active: jax.Array | None = None,
) -> jax.Array:
    """The gradient of the geometric mean of the losses.

    Args:
      losses: ``(K,)``.
      preference: ``(K,)``, >= 0; None for ones.
      active: ``(K,)`` bool, or None for all.

    Returns:
      ``(K,)``, 0 where not active, or where the loss isn't positive.
    """
    counts = losses > 0
    counts = counts if active is None else counts & active
    powers = jnp.where(counts, 1.0 if preference is None else preference, 0.0)
    powers = ratio(powers, jnp.sum(powers))
    logs = safe_log(losses)  # the product itself may leave the range of floats
    weights = powers * jnp.exp(jnp.sum(powers * logs) - logs)
    return jnp.where(counts, weights, 0.0)
