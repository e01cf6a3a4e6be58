"""AdamP: Adam without the part of the step that only makes scale-free weights grow."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax import blocks as blocks_lib
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
from eagc_jax._trees import (
    named_leaves,
    ratio,
    wide_zeros,
    widened,
)
from eagc_jax.blocks import ByLeaf, Granularity
from eagc_jax.scaling import _base
from eagc_jax.typing import Inputs, OptState, Params, PyTree, Updates


class ScaleByAdamPState(NamedTuple):
    """Adam's moments, and what was projected last."""

    count: jax.Array  # shape=(), int32: finite steps.
    mu: PyTree  # like params, float32: running mean of the gradient.
    nu: PyTree  # like params, float32: running mean of its square.
    projected: ByLeaf  # by leaf, shape=(), int32: 0 no, 1 per channel, 2 as a layer.
    nonfinite_count: jax.Array  # shape=(), int32: steps with a NaN or an infinity.


def scale_by_adamp(
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    delta: float = 0.1,
    weight_decay: float = 0.0,
    decay_ratio: float = 0.1,
    nesterov: bool = False,
    channels: Granularity = "channel",
    nonfinite: SingleNonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    r"""Adam's direction, tangent to the sphere where a weight is scale-invariant.

    With Adam's direction :math:`p` and the rows :math:`W_c` of a weight, one per output
    channel of :math:`n` entries: if

    .. math:: \max_c |\cos(g_c, W_c)| < \delta/\sqrt{n}

    then :math:`p_c \leftarrow p_c - \hat W_c\langle\hat W_c,p_c\rangle` with
    :math:`\hat W=W/\|W\|`; otherwise the same test and projection with the whole layer
    as one row; otherwise :math:`p` stays. Gradients of weights in front of a
    normalisation are orthogonal to them, which is what the test detects. Weight decay
    :math:`\lambda` is decoupled, and multiplied by ``decay_ratio`` where projected: the
    direction is :math:`p+\lambda\,r\,W`. Vectors and scalars are never projected.

    The output channel of JAX's kernels is the **last** axis; PyTorch's, and the authors'
    code, have it first. Cosines are taken without an epsilon, and are 0 for a zero row.

    Guarantee: a projected step is orthogonal to the weight, row by row. Cost: Adam's
    and about three passes over the leaves of rank 2 or more. Memory: Adam's.

    Args:
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: Adam's epsilon, absolute as published, >= 0; 0 is allowed.
      delta: threshold of the test, >= 0; 0 gives Adam.
      weight_decay: :math:`\lambda`, >= 0, to be multiplied by the learning rate.
      decay_ratio: factor on it for projected leaves, >= 0.
      nesterov: whether p uses :math:`\beta_1 m+(1-\beta_1)g` for :math:`m`.
      channels: "channel", or a function ``(path, shape)`` to the axes that one row
        spans, such as ``lambda path, shape: tuple(range(1, len(shape)))`` for kernels
        with the output first.
      nonfinite: for a gradient with a NaN or an infinity, "propagate" (the update is NaN
        everywhere) or "skip_update" (it is 0). The moments don't move in either.

    Returns:
      A transformation of leaves ``(*shape)`` whose ``update`` needs ``params``.

    Raises:
      ValueError: bad arguments (at once); no params, integer leaves (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import scaling
      >>> tx = scaling.scale_by_adamp()
      >>> params = jnp.array([[1.0], [2.0]])  # one output channel
      >>> step, state = tx.update(jnp.array([[-2.0], [1.0]]), tx.init(params), params)
      >>> abs(float(jnp.vdot(step, params))) < 1e-6, int(state.projected["params"])
      (True, 1)

    References:
      Heo et al., `AdamP <https://arxiv.org/abs/2006.08217>`_, 2021, equations 11-12 and
      its algorithm 2.
    """
    check_number("b1", b1, DECAY)
    check_number("b2", b2, DECAY)
    known = {"eps": eps, "delta": delta, "decay_ratio": decay_ratio}
    for name, value in {**known, "weight_decay": weight_decay}.items():
        check_number(name, value, NONNEGATIVE)
    if not callable(channels) and channels != "channel":
        raise ValueError(
            "channels must be 'channel' or a function (path, shape) -> axes that one "
            f"row spans; got {channels!r}."
        )
    check_choice("nonfinite", nonfinite, SINGLE_NONFINITE_POLICIES)

    def init_fn(params: Params) -> ScaleByAdamPState:
        zeros = wide_zeros(params)
        number = jnp.zeros([], jnp.int32)
        layout = blocks_lib.layout_of_params("tensor", named_leaves(params))
        kinds = jnp.zeros((len(layout.axes),), jnp.int32)
        return ScaleByAdamPState(
            number, zeros, zeros, layout.show_leaves(kinds), number
        )

    def update_fn(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Inputs
    ) -> tuple[Updates, OptState]:
        del extra_args
        if params is None:
            raise ValueError(
                "scale_by_adamp compares gradients with the parameters: call "
                "update(updates, state, params)."
            )
        check_gradient(updates, params)
        check_like(state, init_fn, updates)
        finite = all_finite(updates)
        grads, count, mu, nu = _base.moved(state, updates, b1, b2)
        layout = blocks_lib.layout_of_params("tensor", named_leaves(params))
        names, kinds = iter(layout.axes), []

        def direction(m, v, g, weight):
            name, weight = next(names), widened(weight)
            m = b1 * m + (1 - b1) * g if nesterov else m
            scale = jnp.sqrt(_base.debiased(v, b2, count)) + eps
            step = ratio(_base.debiased(m, b1, count), scale)
            axes = blocks_lib.block_axes(channels, name, weight.shape)
            step, kind = _tangent(step, g, weight, axes, delta)
            kinds.append(kind)
            decay = weight_decay * jnp.where(kind > 0, decay_ratio, 1.0)
            return step + decay.astype(step.dtype) * weight

        step = jax.tree.map(direction, mu, nu, grads, params)
        projected = layout.show_leaves(jnp.stack(kinds)) if kinds else state.projected
        new = ScaleByAdamPState(count, mu, nu, projected, state.nonfinite_count)
        return _base.finished(step, updates, new, state, finite, nonfinite)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def adamp(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    *,
    delta: float = 0.1,
    weight_decay: float = 0.0,
    decay_ratio: float = 0.1,
    nesterov: bool = False,
    channels: Granularity = "channel",
    nonfinite: SingleNonfinite = "propagate",
) -> optax.GradientTransformationExtraArgs:
    r"""The AdamP optimizer: :func:`scale_by_adamp` and a learning rate.

    .. math:: \theta_t = \theta_{t-1} - \eta\,(p_t + \lambda\,r\,\theta_{t-1})

    with :math:`p_t` Adam's direction, tangent where the weight is scale-invariant.

    Args:
      learning_rate: :math:`\eta`, a number or a schedule.
      b1: decay of the first moment, in [0, 1).
      b2: decay of the second moment, in [0, 1).
      eps: Adam's epsilon, >= 0.
      delta: threshold of the test, >= 0.
      weight_decay: decoupled weight decay, >= 0.
      decay_ratio: factor on it for projected leaves, >= 0.
      nesterov: whether to use Nesterov's momentum.
      channels: "channel", or a function to the axes that one row spans.
      nonfinite: "propagate" or "skip_update".

    Returns:
      An optimizer for leaves ``(*shape)`` whose ``update`` needs ``params``.

    Raises:
      ValueError: bad arguments (at once); no params, integer leaves (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import scaling
      >>> tx = scaling.adamp(0.1)
      >>> params = jnp.array([[1.0], [2.0]])
      >>> tx.update(jnp.array([[1.0], [2.0]]), tx.init(params), params)[0].round(3)
      Array([[-0.1],
             [-0.1]], dtype=float32)

    References:
      Heo et al., `AdamP <https://arxiv.org/abs/2006.08217>`_, 2021.
    """
    direction = scale_by_adamp(
        b1,
        b2,
        eps,
        delta=delta,
        weight_decay=weight_decay,
        decay_ratio=decay_ratio,
        nesterov=nesterov,
        channels=channels,
        nonfinite=nonfinite,
    )
    return optax.chain(direction, optax.scale_by_learning_rate(learning_rate))


def _tangent(
    step: jax.Array,
    grad: jax.Array,
    weight: jax.Array,
    axes: tuple[int, ...],
    delta: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """The step less its radial part, per channel or as a layer; and which it was."""
    none = jnp.zeros([], jnp.int32)
    if weight.ndim < 2 or weight.size == 0:
        return step, none
    every = tuple(range(weight.ndim))
    by_channel, channel = _project(step, grad, weight, axes, delta)
    by_layer, layer = _project(step, grad, weight, every, delta)
    kind = jnp.where(channel, 1, jnp.where(layer, 2, none))
    step = jnp.where(channel, by_channel, jnp.where(layer, by_layer, step))
    return step, kind.astype(jnp.int32)


def _project(
    step: jax.Array,
    grad: jax.Array,
    weight: jax.Array,
    axes: tuple[int, ...],
    delta: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """The projected step, and whether every row passes the test."""
    size = math.prod(np.shape(weight)[axis] for axis in axes)
    unit = ratio(weight, _norm(weight, axes))
    radial = jnp.sum(ratio(grad, _norm(grad, axes)) * unit, axes, keepdims=True)
    applies = jnp.max(jnp.abs(radial)) < delta / math.sqrt(size)
    along = jnp.sum(unit * step, axis=axes, keepdims=True)
    return step - unit * along, applies


def _norm(values: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Norm of each row, of rows as small or as large as the dtype holds."""
    top = jnp.max(jnp.abs(values), axis=axes, keepdims=True)
    squares = jnp.sum(ratio(values, top) ** 2, axis=axes, keepdims=True)
    return top * jnp.sqrt(squares)
