"""DWA: more weight for the losses that fall slowly."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import POSITIVE, check_count, check_num_objectives, check_number
from eagc_jax._trees import counted
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.typing import OptState, Params, PyTree


class DwaState(NamedTuple):
    """Mean losses of the last two windows, and the sum in the running one."""

    total: jax.Array  # shape=(K,), float32: sum of the losses in the running window.
    visits: jax.Array  # shape=(K,), int32: how many they are.
    last: jax.Array  # shape=(K,), float32: mean of the last full window.
    before: jax.Array  # shape=(K,), float32: mean of the one before.
    windows: jax.Array  # shape=(K,), int32: full windows seen, at most 2.
    position: jax.Array  # shape=(), int32: steps in the running window.


@_direct.shows_options
def dwa(
    num_objectives: int,
    *,
    window: int = 25,
    temperature: float = 2.0,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Dynamic weight average: weights from the rate at which each loss falls.

    With :math:`\bar L_k(t)` the mean loss over window t of ``window`` steps (the paper's
    windows are epochs),

    .. math:: r_k = \bar L_k(t-1)/\bar L_k(t-2), \qquad
              w = K\,\mathrm{softmax}(r/T);

    ones in the first two windows. A mean of 0 gives the ratio 1.

    Weights sum to K (over the active objectives, to their number) and don't depend on
    any loss's scale. Guarantee: none against conflict. Length: "sum". Cost: the weighted
    sum. Memory: 5K numbers.

    Args:
      num_objectives: K, a Python int.
      window: steps a window, an int >= 1.
      temperature: T > 0; large ones give equal weights.
      **options: ``preference`` (K numbers >= 0 that the weights are multiplied by,
        relative to their mean), ``rescale`` ("native", "sum", "mean" or "norm_of_mean",
        the length of the update), ``nonfinite`` ("propagate", "skip_objective" or
        "skip_update", for an objective with a NaN or an infinity in gradient or loss)
        and ``axis_name`` (inside ``jax.shard_map``, the mesh axes over which parameters
        may be split; gradients and losses are averaged before they come here).

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``. ``update`` needs
      ``value``, the K losses (an array or K scalars), and takes ``active_mask``, ``(K,)``
      bool. State: :class:`DirectState`, ``method`` a ``DwaState``.

    Raises:
      ValueError: bad arguments (at once); no ``value`` (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import dwa
      >>> tx = dwa(2, window=1)
      >>> grads = {"w": jnp.eye(2)}
      >>> state = tx.init({"w": jnp.zeros(2)})
      >>> for losses in ([4.0, 4.0], [2.0, 4.0], [1.0, 4.0]):
      ...     update, state = tx.update(grads, state, value=jnp.array(losses))
      >>> update["w"].round(2)
      Array([0.88, 1.12], dtype=float32)

    References:
      Liu, Johns and Davison, `End-to-End Multi-Task Learning with Attention
      <https://arxiv.org/abs/1803.10704>`_, 2019, equation 7.
    """
    check_count("window", window, 1)
    check_number("temperature", temperature, POSITIVE)
    number = check_num_objectives(num_objectives)

    def init(params: Params) -> DwaState:
        del params
        zero = jnp.zeros((number,), jnp.float32)
        none = jnp.zeros((number,), jnp.int32)
        return DwaState(zero, none, zero, zero, none, jnp.zeros([], jnp.int32))

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        known = state.windows >= 2
        weights = dwa_weights(
            jnp.where(known, state.last, 1.0),
            jnp.where(known, state.before, 1.0),
            temperature,
            step.active,
        )
        return weights, _record(state, step.values, step.active, window)

    method = _direct.Method("dwa", "sum", init, apply, needs_values=True)
    return _direct.from_method(num_objectives, method, **options)


def dwa_weights(
    last: jax.Array,
    before: jax.Array,
    temperature: float = 2.0,
    active: jax.Array | None = None,
) -> jax.Array:
    """DWA's weights from the mean losses of the last window and of the one before.

    Args:
      last: ``(K,)``.
      before: ``(K,)``.
      temperature: T.
      active: ``(K,)`` bool, or None for all.

    Returns:
      ``(K,)``, summing to the number of active objectives.
    """
    if active is None:
        active = jnp.ones(last.shape, bool)
    usable = before != 0
    rates = jnp.where(usable, last / jnp.where(usable, before, 1.0), 1.0)
    rates = jnp.clip(rates, -1e30, 1e30)  # the softmax of an infinity is NaN
    number = jnp.sum(active, dtype=jnp.int32).astype(jnp.float32)
    return number * _arithmetic.masked_softmax(rates / temperature, active)


def _record(
    state: DwaState, losses: jax.Array, active: jax.Array, window: int
) -> DwaState:
    """Adds this step's losses; at a window's end its means become the last ones."""
    total = state.total + jnp.where(active, losses, 0.0)
    visits = counted(state.visits, active)
    position = state.position + 1
    full = position >= window
    moves = full & (visits > 0)  # an objective absent all along keeps its ratio
    mean = total / jnp.maximum(visits, 1).astype(jnp.float32)
    return DwaState(
        total=jnp.where(full, 0.0, total),
        visits=jnp.where(full, 0, visits),
        last=jnp.where(moves, mean, state.last),
        before=jnp.where(moves, state.last, state.before),
        windows=jnp.where(moves, jnp.minimum(state.windows + 1, 2), state.windows),
        position=jnp.where(full, 0, position),
    )
