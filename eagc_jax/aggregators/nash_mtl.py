"""Nash-MTL: the bargaining solution between the objectives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import optax

from eagc_jax.aggregators._base import GramOptions, from_weighting
from eagc_jax.aggregators._signature import shows_options_of
from eagc_jax.aggregators._weighting import problem_of
from eagc_jax.aggregators.fairgrad import alpha_fair, with_length_of_mean


@shows_options_of(from_weighting, rescale="norm_of_mean")
def nash_mtl(
    num_objectives: int, **options: Unpack[GramOptions]
) -> optax.GradientTransformationExtraArgs:
    r"""The Nash bargaining solution between the objectives.

    The direction in a ball that maximises :math:`\sum_k \log \langle g_k, d \rangle`:
    :math:`d = \sum_k w_k g_k`, :math:`w > 0`, with

    .. math:: G w = 1 / w, \qquad w_k \langle g_k, d \rangle = 1 \quad \text{for all } k.

    For two objectives :math:`w_i = 1 / (n_i \sqrt{1 + c})`: the direction of ConFIG and
    of IMTL-G.

    Guarantee: conflicts with no objective, :math:`\langle g_k, d \rangle = 1 / w_k > 0`,
    unless the gradients are Pareto stationary to rounding; then the weights are 0.
    Direction and native length don't change when one objective is rescaled. Length:
    "unit", :math:`\|d\|^2` is the number of gradients that aren't zero; so ``rescale``
    is "norm_of_mean" here unless it is given, which makes it shrink with the gradients.
    Cost: one Gram pass, some ten Cholesky factorisations of size K, one weighted sum.

    Args:
      num_objectives: K, a Python int.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; ``rescale="native"``
        is the solution above, ``recompute_every`` the paper's updates of the weights at
        every n-th step. The preference is bargaining power:
        :math:`w_k \langle g_k, d \rangle = K u_k`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``. ``residual``
      in its state is the largest :math:`|w_k \langle g_k, d \rangle - 1|`.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import nash_mtl
      >>> tx = nash_mtl(2, rescale="native")
      >>> grads = {"w": jnp.array([[4.0, 0.0], [0.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4), state.weights.round(4)
      (Array([1., 1.], dtype=float32), Array([0.25, 1.  ], dtype=float32))

    References:
      Navon et al., `Multi-Task Learning as a Bargaining Game
      <https://arxiv.org/abs/2202.01017>`_, 2022, claim 3.1.
    """
    return from_weighting(
        num_objectives, alpha_fair("nash_mtl", 1.0), **with_length_of_mean(options)
    )


def nash_mtl_weights(
    gram: jax.typing.ArrayLike,
    *,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """Nash-MTL's weights, :math:`G w = 1 / w`: see :func:`nash_mtl`."""
    return alpha_fair("nash_mtl", 1.0).apply(problem_of(gram, preference), ())[0]
