"""Uncertainty weighting: each loss over a learned noise variance."""

from __future__ import annotations

from typing import Literal, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import (
    NONNEGATIVE,
    POSITIVE,
    check_num_objectives,
    check_number,
    check_vector,
)
from eagc_jax._trees import counted
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.typing import OptState, Params, PyTree

# Numbers, or the logarithms of the first losses.
Initial = jax.typing.ArrayLike | Literal["loss"]


class UncertaintyState(NamedTuple):
    """The learned log variances."""

    log_variances: jax.Array  # shape=(K,), float32: s.
    visits: jax.Array  # shape=(K,), int32: steps in which the objective took part.


@_direct.shows_options
def uncertainty_weighting(
    num_objectives: int,
    *,
    learning_rate: optax.ScalarOrSchedule = 0.025,
    initial: Initial = 0.0,
    coefficients: float | jax.typing.ArrayLike = 0.5,
    max_weight: float | None = None,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Weights each loss by a learned precision.

    Descends, jointly in the parameters and in the log variances s, on

    .. math:: \sum_k c_k e^{-s_k} L_k + \tfrac12 s_k ,

    with :math:`c=1/2` for regression (the Gaussian's likelihood) and 1 for
    classification. The weights are :math:`w_k=c_ke^{-s_k}`; s moves inside this
    transformation, by its gradient in closed form,
    :math:`s_k\leftarrow s_k-\eta\,(\tfrac12-c_ke^{-s_k}L_k)`.

    Stationary where :math:`e^{s_k}=2c_kL_k`: every weighted loss is then 1/2. With
    ``initial="loss"`` s starts there, and neither a loss's scale nor its unit matter;
    as published it starts at 0, and a loss of 1e4 throws s in one step. As a loss goes
    to 0 its weight grows without bound: ``max_weight``. Losses should be positive.
    Guarantee: none against conflict. Length: "unit" (that of neither sum nor mean).
    Cost: the weighted sum. Memory: 2K numbers.

    Args:
      num_objectives: K, a Python int.
      learning_rate: :math:`\eta`, of s, a number >= 0 or a schedule.
      initial: s at the start, a number or K of them; or "loss".
      coefficients: :math:`c` > 0, a number or K of them.
      max_weight: a bound on the weights, which s respects too; None for none.
      **options: ``preference``, ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``; ``update`` needs
      ``value``, the K losses. State: :class:`DirectState`, ``method`` an
      ``UncertaintyState``.

    Raises:
      ValueError: bad arguments (at once); no ``value`` (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import uncertainty_weighting
      >>> tx = uncertainty_weighting(2, initial="loss")
      >>> grads = {"w": jnp.eye(2)}
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(2)}),
      ...                       value=jnp.array([1.0, 4.0]))
      >>> update["w"].round(3)
      Array([0.5  , 0.125], dtype=float32)

    References:
      Kendall, Gal and Cipolla, `Multi-Task Learning Using Uncertainty to Weigh Losses
      <https://arxiv.org/abs/1705.07115>`_, 2018, equations 7 and 10.
    """
    number = check_num_objectives(num_objectives)
    c = check_vector("coefficients", coefficients, number, POSITIVE)
    check_number("learning_rate", learning_rate, NONNEGATIVE)
    start = check_initial(initial, number)
    lowest = None
    if max_weight is not None:
        check_number("max_weight", max_weight, POSITIVE)
        lowest = jnp.log(c / max_weight)

    def init(params: Params) -> UncertaintyState:
        del params
        return UncertaintyState(
            jnp.zeros((number,), jnp.float32) if start is None else start,
            jnp.zeros((number,), jnp.int32),
        )

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        s = state.log_variances
        if start is None:
            first = jnp.log(2 * c) + safe_log(step.values)
            s = jnp.where((state.visits == 0) & step.active, first, s)
        s = s if lowest is None else jnp.maximum(s, lowest)
        weights = uncertainty_weights(s, c)
        rate = _arithmetic.scheduled(learning_rate, jnp.max(state.visits))
        moved = s - rate * (0.5 - weights * step.values)
        moved = moved if lowest is None else jnp.maximum(moved, lowest)
        return weights, UncertaintyState(
            jnp.where(step.active, moved, state.log_variances),
            counted(state.visits, step.active),
        )

    method = _direct.Method(
        "uncertainty_weighting", "unit", init, apply, needs_values=True
    )
    return _direct.from_method(num_objectives, method, **options)


def uncertainty_weights(
    log_variances: jax.Array, coefficients: jax.typing.ArrayLike = 0.5
) -> jax.Array:
    """The weights ``c exp(-s)``.

    Args:
      log_variances: ``(K,)``, s.
      coefficients: c, a number or ``(K,)``.

    Returns:
      ``(K,)``.
    """
    return jnp.exp(-log_variances) * coefficients


def check_initial(initial: Initial, number: int) -> jax.Array | None:
    """Initial logs as ``(K,)``; None for "loss"."""
    if isinstance(initial, str):
        if initial != "loss":
            raise ValueError(f"initial must be numbers or 'loss', got {initial!r}.")
        return None
    return check_vector("initial", initial, number)


def safe_log(losses: jax.Array) -> jax.Array:
    """The logarithm of positive losses; 0 of others."""
    positive = losses > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, losses, 1.0)), 0.0)
