"""Advantages relative to a group, of one reward or of each of several."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax._checks import NONNEGATIVE, check_number, check_preference
from eagc_jax._trees import ratio, widened
from eagc_jax.objectives import expand_to


def group_advantages(
    rewards: jax.typing.ArrayLike, *, eps: float = 0.0, normalize: bool = True
) -> jax.Array:
    r"""Advantages relative to the group: GRPO's.

    .. math:: A_i = \frac{r_i - \mathrm{mean}(r)}{\mathrm{std}(r) + \epsilon}

    over each group of answers to one prompt; ``std`` is the population's. A group whose
    rewards are equal, up to rounding, has nothing to say: its advantages are exactly 0.
    With :math:`\epsilon=0` neither the scale nor the shift of the rewards matters.

    Args:
      rewards: ``(..., group)``, of any float dtype.
      eps: :math:`\epsilon` >= 0, in the rewards' unit.
      normalize: whether to divide by the standard deviation; without ("Dr. GRPO") groups
        that are hard or easy don't count for more.

    Returns:
      The same shape, float32 or wider.

    Raises:
      ValueError: no group axis, integers, or a bad eps.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.rewards import group_advantages
      >>> group_advantages(jnp.array([[0.0, 2.0], [5.0, 5.0]]))
      Array([[-1.,  1.],
             [ 0.,  0.]], dtype=float32)

    References:
      Shao et al., `DeepSeekMath <https://arxiv.org/abs/2402.03300>`_, 2024; without the
      division Liu et al., `Understanding R1-Zero-Like Training
      <https://arxiv.org/abs/2503.20783>`_, 2025.
    """
    check_number("eps", eps, NONNEGATIVE)
    values = checked(rewards, 1)
    return _relative(values, (-1,), eps, normalize)


def decoupled_advantages(
    rewards: jax.typing.ArrayLike,
    *,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
    eps: float = 0.0,
    normalize_batch: bool = True,
) -> jax.Array:
    r"""Each of K rewards normalised in its group, summed, normalised in the batch: GDPO.

    .. math:: A^{(k)} = \frac{r^{(k)} - \mathrm{mean}_{\text{group}}(r^{(k)})}
                             {\mathrm{std}_{\text{group}}(r^{(k)}) + \epsilon}, \qquad
              S = \sum_k u_k A^{(k)}, \qquad
              A = \frac{S - \mathrm{mean}_{\text{batch}}(S)}
                       {\mathrm{std}_{\text{batch}}(S) + \epsilon} .

    Normalising the *sum* of rewards instead, as GRPO would, lets the reward of the widest
    spread decide, and gives answers with different rewards the same advantage wherever
    their sums are equal. Here no reward's scale or shift matters; the preference does.

    With one reward it is :func:`group_advantages`, exactly so with
    ``normalize_batch=False``; else divided by the share of groups that differ at all,
    square-rooted.

    Args:
      rewards: ``(K, ..., group)``, K >= 1.
      preference: u, K numbers >= 0; None for ones.
      eps: :math:`\epsilon` >= 0.
      normalize_batch: the last step, over all prompts and groups. In several processes it
        is over what each one has; leave it out and normalise the gathered S there.

    Returns:
      ``(..., group)``, float32 or wider.

    Raises:
      ValueError: rewards that aren't ``(K, ..., group)``, or a bad preference or eps.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.rewards import decoupled_advantages
      >>> right, short = jnp.array([[0.0, 1.0]]), jnp.array([[-300.0, -100.0]])
      >>> decoupled_advantages(jnp.stack([right, short]))
      Array([[-1.,  1.]], dtype=float32)

    References:
      Liu et al., `GDPO: Group reward-Decoupled Normalization Policy Optimization
      <https://arxiv.org/abs/2601.05242>`_, 2026.
    """
    check_number("eps", eps, NONNEGATIVE)
    values = checked(rewards, 2)
    weights = check_preference(preference, values.shape[0])
    each = _relative(values, (-1,), eps, True)
    total = jnp.sum(each * expand_to(weights.astype(each.dtype), each.ndim), axis=0)
    if not normalize_batch:
        return total
    return _relative(total, tuple(range(total.ndim)), eps, True)


def checked(rewards: jax.typing.ArrayLike, least: int) -> jax.Array:
    """Rewards in float32 or wider; ValueError for other shapes or dtypes."""
    shape, dtype = np.shape(rewards), jnp.result_type(rewards)
    form = "(..., group)" if least == 1 else "(K, ..., group)"
    if len(shape) < least or not all(shape):
        raise ValueError(f"rewards must be {form}, the group last; got shape {shape}.")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(f"rewards must be floating point, got {dtype}: cast them.")
    return widened(jnp.asarray(rewards))


def _relative(
    values: jax.Array, axes: tuple[int, ...], eps: float, normalize: bool
) -> jax.Array:
    mean = jnp.mean(values, axis=axes, keepdims=True)
    centred = values - mean
    size = jnp.max(jnp.abs(values), axis=axes, keepdims=True)
    spread = jnp.max(jnp.abs(centred), axis=axes, keepdims=True)
    # The mean of equal numbers is rounded: dividing by that would make noise of it.
    differs = spread > 8 * float(jnp.finfo(values.dtype).eps) * size
    centred = jnp.where(differs, centred, 0)
    if not normalize:
        return centred
    scaled = ratio(centred, spread)  # whose squares stay in range
    deviation = spread * jnp.sqrt(jnp.mean(scaled**2, axis=axes, keepdims=True))
    return ratio(centred, jnp.where(differs, deviation + eps, 0))
