"""DB-MTL: logarithms of losses, and gradients brought to the largest norm."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import (
    DECAY,
    NONNEGATIVE,
    check_num_objectives,
    check_number,
)
from eagc_jax._trees import increment, ratio, wide_zeros
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.gram import row_norms
from eagc_jax.typing import OptState, Params, PyTree, Updates


class DbMtlState(NamedTuple):
    """Moving averages of the gradients of logarithms."""

    averages: Updates  # leaves (K, *shape), float32.
    count: jax.Array  # shape=(), int32: steps.


@_direct.shows_options
def db_mtl(
    num_objectives: int,
    *,
    decay: float = 0.9,
    decay_power: float = 0.0,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Dual balancing: of losses by their logarithms, of gradients by their norms.

    In step t = 1, 2, ... with :math:`\beta_t=\beta/t^{\sigma}` and averages
    :math:`\hat g_k` that start at 0,

    .. math::
      \hat g_k &\leftarrow \beta_t\,\hat g_k + (1-\beta_t)\,
               \nabla\log L_k, \qquad \nabla\log L_k = g_k / L_k, \\
      d &= \Big(\max_j\|\hat g_j\|\Big)\sum_k \frac{\hat g_k}{\|\hat g_k\|} .

    Every objective moves the parameters by the same length, that of the longest. No
    loss's scale matters. The half that treats losses alone is
    ``loss_weighting("imtl_l", K, closed_form=True)``, with one backward pass.

    Losses must be positive; one that isn't counts as absent. The power
    :math:`\sigma`, the start at 0 (the first step is :math:`1-\beta` times as long) and
    both defaults are as in LibMTL, which adds 1e-8 to losses and norms besides.
    Guarantee: none against conflict. Length: "unit". Cost: a pass for who is finite, an
    averaging pass, a pass of norms, a weighted sum. Memory: K copies of the parameters
    in float32.

    Args:
      num_objectives: K, a Python int.
      decay: :math:`\beta` in [0, 1).
      decay_power: :math:`\sigma` >= 0.
      **options: ``preference``, ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`; the normalised gradients are multiplied by the
        preference.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``; ``update`` needs
      ``value``, the K losses. State: :class:`DirectState`, ``method`` a ``DbMtlState``.
      The average of an absent objective waits, and isn't in the sum.

    Raises:
      ValueError: bad arguments (at once); no ``value`` (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import db_mtl
      >>> tx = db_mtl(2, decay=0.0)
      >>> grads = {"w": jnp.array([[3.0, 0.0], [0.0, 1.0]])}
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(2)}),
      ...                       value=jnp.array([1.0, 4.0]))
      >>> update["w"]  # 3/1 is the longer of the two
      Array([3., 3.], dtype=float32)

    References:
      Lin et al., `Dual-Balancing for Multi-Task Learning
      <https://arxiv.org/abs/2308.12029>`_, 2023.
    """
    number = check_num_objectives(num_objectives)
    check_number("decay", decay, DECAY)
    check_number("decay_power", decay_power, NONNEGATIVE)
    preference = options.pop("preference", None)
    ratios = _direct.check_preference(preference, number)

    def init(params: Params) -> DbMtlState:
        return DbMtlState(wide_zeros(params, number), jnp.zeros([], jnp.int32))

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        active = step.active & (step.values > 0)
        count = increment(state.count)
        t = count.astype(jnp.float32)
        moves = jnp.where(active & step.advance, 1 - decay / t**decay_power, 0.0)
        inverse = jnp.where(active, ratio(jnp.ones_like(step.values), step.values), 0.0)

        def average(old, leaf):
            one = _arithmetic.per_objective(inverse, old)
            of_log = step.masked(leaf).astype(old.dtype) * one
            return old + _arithmetic.per_objective(moves, old) * (of_log - old)

        averages = jax.tree.map(average, state.averages, step.updates)
        norms, _ = row_norms(jax.tree.leaves(averages), active, step.names)
        weights = db_mtl_weights(norms.astype(jnp.float32), ratios, active)
        d = _arithmetic.reduced(averages, weights)
        count = jnp.where(step.advance, count, state.count)
        return d, DbMtlState(averages, count)

    method = _direct.Method(
        "db_mtl", "unit", init, apply, weighs=False, needs_values=True, keeps=True
    )
    return _direct.from_method(num_objectives, method, **options)


def db_mtl_weights(
    norms: jax.Array,
    preference: jax.Array | None = None,
    active: jax.Array | None = None,
) -> jax.Array:
    """What brings every gradient to the length of the longest.

    Args:
      norms: ``(K,)``.
      preference: ``(K,)`` factors, divided by their mean; None for ones.
      active: ``(K,)`` bool, or None for all.

    Returns:
      ``(K,)``, 0 where not active and for a gradient of zero.
    """
    if active is None:
        active = jnp.ones(norms.shape, bool)
    largest = jnp.max(jnp.where(active, norms, 0.0))
    weights = jnp.where(active, ratio(largest, norms), 0.0)
    if preference is None:
        return weights
    return weights * ratio(preference, _arithmetic.masked_mean(preference, active))
