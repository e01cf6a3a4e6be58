"""diffGrad: Adam with a friction where the gradient has stopped changing."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import (
    DECAY,
    NONNEGATIVE,
    SINGLE_NONFINITE_POLICIES,
    SingleNonfinite,
    check_choice,
    check_gradient,
    check_number,
)
from eagc_jax._shards import all_finite
from eagc_jax._states import check_like
from eagc_jax._trees import ratio, wide_zeros
from eagc_jax.scaling import _base
from eagc_jax.typing import Inputs, OptState, Params, PyTree, Updates


class ScaleByDiffGradState(NamedTuple):
    """Adam's moments and the previous gradient: 3 copies of the parameters."""

    count: jax.Array  # shape=(), int32: finite steps.
    mu: PyTree  # like params, float32: running mean of the gradient.
    nu: PyTree  # like params, float32: running mean of its square.
    previous: (
        Updates  # like params, float32: the last finite gradient, a copy of its own.
    )
    nonfinite_count: jax.Array  # shape=(), int32: steps with a NaN or an infinity.


def scale_by_diffgrad(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    scale_aware: bool = False,
    nonfinite: SingleNonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    r"""Adam's direction times a friction that grows with the change of the gradient.

    With Adam's bias-corrected moments :math:`\hat m_t, \hat v_t` and :math:`g_0=0`,
    elementwise,

    .. math:: \xi_t = \sigma(|g_{t-1}-g_t|), \qquad
              d_t = \xi_t\,\frac{\hat m_t}{\sqrt{\hat v_t}+\epsilon}.

    :math:`\xi\in[1/2,1)`: a coordinate whose gradient hardly changes moves at half of
    Adam's speed. As published, :math:`\xi` depends on the gradient's units: below 0.01
    it is 1/2 everywhere. ``scale_aware=True`` compares the change with the gradient's
    own size, :math:`\xi_t=\sigma(|g_{t-1}-g_t|/(\sqrt{\hat v_t}+\epsilon))`; with
    ``eps=0`` the direction is then exactly the same for every scale of the loss.

    The authors' first code kept a reference to the gradient's buffer, not a copy: the
    difference was always 0 and :math:`\xi` always 1/2. Arrays of JAX don't alias.

    Guarantee: none beyond Adam's. Cost: one elementwise pass. Memory: 3 copies of the
    parameters in float32, Adam has 2.

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: Adam's epsilon, absolute as published, >= 0. With 0, coordinates that never
        had a gradient get 0.
      scale_aware: whether the change is taken relative to the gradient's size.
      nonfinite: for a gradient with a NaN or an infinity, "propagate" (the update is NaN
        everywhere) or "skip_update" (it is 0). The moments don't move in either.

    Returns:
      A transformation of leaves ``(*shape)``. Moments are float32.

    Raises:
      ValueError: bad arguments (at once); integer leaves (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import scaling
      >>> tx = scaling.scale_by_diffgrad()
      >>> state = tx.init(jnp.zeros(2))
      >>> _, state = tx.update(jnp.array([1.0, 1.0]), state)
      >>> tx.update(jnp.array([1.0, -3.0]), state)[0].round(1)  # steady, and turned
      Array([ 0.5, -0.5], dtype=float32)

    References:
      Dubey et al., `diffGrad <https://arxiv.org/abs/1909.11015>`_, 2020, equations 6-8
      and its algorithm.
    """
    check_number("b1", b1, DECAY)
    check_number("b2", b2, DECAY)
    check_number("eps", eps, NONNEGATIVE)
    check_choice("nonfinite", nonfinite, SINGLE_NONFINITE_POLICIES)

    def init_fn(params: Params) -> ScaleByDiffGradState:
        zeros = wide_zeros(params)
        number = jnp.zeros([], jnp.int32)
        return ScaleByDiffGradState(number, zeros, zeros, zeros, number)

    def update_fn(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Inputs
    ) -> tuple[Updates, OptState]:
        del extra_args
        check_gradient(updates, params)
        check_like(state, init_fn, updates)
        finite = all_finite(updates)
        grads, count, mu, nu = _base.moved(state, updates, b1, b2)

        def direction(m, v, g, last):
            scale = jnp.sqrt(_base.debiased(v, b2, count)) + eps
            change = jnp.abs(last - g)
            change = ratio(change, scale) if scale_aware else change
            step = ratio(_base.debiased(m, b1, count), scale)
            return jax.nn.sigmoid(change) * step

        step = jax.tree.map(direction, mu, nu, grads, state.previous)
        new = ScaleByDiffGradState(count, mu, nu, grads, state.nonfinite_count)
        return _base.finished(step, updates, new, state, finite, nonfinite)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def diffgrad(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    scale_aware: bool = False,
    nonfinite: SingleNonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    r"""The diffGrad optimizer: :func:`scale_by_diffgrad` and a learning rate.

    .. math:: \theta_t = \theta_{t-1} - \eta\,\xi_t\,
              \hat m_t/(\sqrt{\hat v_t}+\epsilon)

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: Adam's epsilon, >= 0.
      scale_aware: whether the change is taken relative to the gradient's size.
      nonfinite: "propagate" or "skip_update".

    Returns:
      An optimizer for leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); integer leaves (when traced).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax import scaling, sum_objectives
      >>> tx = optax.chain(sum_objectives(), scaling.diffgrad(0.1))
      >>> params = jnp.zeros(2)
      >>> tx.update(jnp.eye(2), tx.init(params), params)[0].round(2)
      Array([-0.07, -0.07], dtype=float32)

    References:
      Dubey et al., `diffGrad <https://arxiv.org/abs/1909.11015>`_, 2020.
    """
    direction = scale_by_diffgrad(
        b1, b2, eps, scale_aware=scale_aware, nonfinite=nonfinite
    )
    return optax.chain(direction, optax.scale_by_learning_rate(learning_rate))
