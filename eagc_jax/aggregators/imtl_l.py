"""IMTL-L: a learned scale that brings every loss to the same size."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import NONNEGATIVE, POSITIVE, check_num_objectives, check_number
from eagc_jax._trees import counted
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.aggregators.uncertainty_weighting import Initial, check_initial, safe_log
from eagc_jax.typing import OptState, Params, PyTree


class ImtlLState(NamedTuple):
    """The learned log scales."""

    log_scales: jax.Array  # shape=(K,), float32: s.
    visits: jax.Array  # shape=(K,), int32: steps in which the objective took part.


@_direct.shows_options
def imtl_l(
    num_objectives: int,
    *,
    learning_rate: optax.ScalarOrSchedule = 0.025,
    initial: Initial = 0.0,
    closed_form: bool = False,
    max_weight: float | None = None,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Impartial learning of the losses: brings all of them to the size 1.

    Descends, jointly in the parameters and in the log scales s, on

    .. math:: \sum_k e^{s_k} L_k - s_k ,

    so the weights are :math:`w_k=e^{s_k}` and, by the gradient in closed form,
    :math:`s_k\leftarrow s_k-\eta\,(e^{s_k}L_k-1)`. Stationary where
    :math:`e^{s_k}=1/L_k`. ``closed_form=True`` takes that point in every step,
    :math:`w_k=1/L_k`: descent on :math:`\sum_k\log L_k`, with nothing to learn.

    It is uncertainty weighting with the sign of s turned and twice the weight. The paper
    combines it with IMTL-G on the shared parameters. Losses must be positive; in the
    closed form one that isn't gets the weight 0. With ``initial="loss"`` (start at the
    stationary point) or in closed form, no loss's scale matters. As a loss goes to 0 its
    weight grows without bound: ``max_weight``. Guarantee: none against conflict. Length:
    "unit". Cost: the weighted sum. Memory: 2K numbers.

    Args:
      num_objectives: K, a Python int.
      learning_rate: :math:`\eta`, of s, a number >= 0 or a schedule.
      initial: s at the start, a number or K of them; or "loss".
      closed_form: whether to take the stationary point instead of learning it.
      max_weight: a bound on the weights, which s respects too; None for none.
      **options: ``preference``, ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``; ``update`` needs
      ``value``, the K losses. State: :class:`DirectState`, ``method`` an ``ImtlLState``.

    Raises:
      ValueError: bad arguments (at once); no ``value`` (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import imtl_l
      >>> tx = imtl_l(2, closed_form=True)
      >>> grads = {"w": jnp.eye(2)}
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(2)}),
      ...                       value={"a": 1.0, "b": 4.0})
      >>> update["w"]
      Array([1.  , 0.25], dtype=float32)

    References:
      Liu et al., `Towards Impartial Multi-task Learning
      <https://openreview.net/forum?id=IMPnRXEWpvr>`_, 2021, section 3.2.
    """
    number = check_num_objectives(num_objectives)
    check_number("learning_rate", learning_rate, NONNEGATIVE)
    start = check_initial(initial, number)
    if max_weight is not None:
        check_number("max_weight", max_weight, POSITIVE)

    def init(params: Params) -> ImtlLState:
        del params
        return ImtlLState(
            jnp.zeros((number,), jnp.float32) if start is None else start,
            jnp.zeros((number,), jnp.int32),
        )

    def bounded(s):
        return s if max_weight is None else jnp.minimum(s, jnp.log(max_weight))

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        visits = counted(state.visits, step.active)
        s = state.log_scales
        at_rest = bounded(-safe_log(step.values))
        if closed_form:
            weights = jnp.where(step.values > 0, jnp.exp(at_rest), 0.0)
            return weights, ImtlLState(jnp.where(step.active, at_rest, s), visits)
        if start is None:
            s = jnp.where((state.visits == 0) & step.active, at_rest, s)
        weights = imtl_l_weights(bounded(s))
        rate = _arithmetic.scheduled(learning_rate, jnp.max(state.visits))
        moved = bounded(s - rate * (weights * step.values - 1.0))
        return weights, ImtlLState(
            jnp.where(step.active, moved, state.log_scales), visits
        )

    method = _direct.Method("imtl_l", "unit", init, apply, needs_values=True)
    return _direct.from_method(num_objectives, method, **options)


def imtl_l_weights(log_scales: jax.Array) -> jax.Array:
    """The weights ``exp(s)``, ``(K,)``."""
    return jnp.exp(log_scales)
