"""FAMO: weights that make all losses fall at the same relative rate."""

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
    check_vector,
)
from eagc_jax._trees import counted
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.typing import Params


class FamoState(NamedTuple):
    """The logits, Adam's moments of them, and the losses before the last step."""

    logits: jax.Array  # shape=(K,), float32: xi.
    mu: jax.Array  # shape=(K,), float32: Adam's first moment of the logits' gradient.
    nu: jax.Array  # shape=(K,), float32: its second moment.
    visits: jax.Array  # shape=(K,), int32: steps of Adam.
    log_losses: jax.Array  # shape=(K,), float32: log(L - b) where last active.
    known: jax.Array  # shape=(K,), bool: whether log_losses holds anything yet.
    last_active: jax.Array  # shape=(K,), bool: who took part in the last step.


@_direct.shows_options
def famo(
    num_objectives: int,
    *,
    learning_rate: float = 0.025,
    decay: float = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    min_losses: float | jax.typing.ArrayLike = 0.0,
    eps: float = 1e-8,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Weights losses so that all of them fall at the same relative rate.

    With :math:`D_k=L_k-b_k+\epsilon`, :math:`z=\mathrm{softmax}(\xi)`,

    .. math:: w_k = c\,\frac{z_k}{D_k}, \qquad c = \Big(\sum_j z_j/D_j\Big)^{-1},

    the gradient of :math:`c\sum_k z_k\log D_k`; then, with the losses of the same batch
    after the optimizer's step, :math:`\delta=\log D-\log D^{\text{after}}` and

    .. math:: \xi \leftarrow \mathrm{Adam}\big(\xi,\;
              z\odot\delta - z\,(z^\top\delta) + \gamma\,\xi\big).

    Two protocols. Exact, two forward passes a step: hand the losses that the last batch
    has after the last step to the *next* ``update(..., value=losses,
    value_after=losses_after)``; :math:`\xi` is moved with them before it is used, as in
    the published order. In the first step, or behind
    :func:`~eagc_jax.aggregators.famo.famo_update`, there is no last step and they are
    ignored. Approximate, one forward pass: without ``value_after`` the new batch's
    losses stand for them, which adds the noise between batches to :math:`\delta`.

    Weights times gradients don't change where a loss is rescaled but by the common
    :math:`c`. Guarantee (paper): with many steps, balanced relative decrease; no
    guarantee against conflict. Length: "convex" (weights sum to 1). The authors clip the
    update's norm at 1: chain ``optax.clip_by_global_norm(1.0)``. Cost: the weighted sum,
    and one forward pass if exact. Memory: 7K numbers.

    Args:
      num_objectives: K, a Python int.
      learning_rate: of the logits, > 0.
      decay: :math:`\gamma` >= 0, in Adam's gradient: 1e-2 or 1e-5 in the authors' two
        codes, 1e-3 in others.
      b1: decay of Adam's first moment, in [0, 1).
      b2: decay of Adam's second moment, in [0, 1).
      min_losses: :math:`b`, the smallest losses thought possible, a number or K of them.
      eps: :math:`\epsilon` >= 0, absolute as published; D is at least this. With 0 the
        weights don't depend on the losses' scale at all.
      **options: ``preference``, ``rescale``, ``nonfinite``, ``axis_name``, as in
        ``_direct.from_method``: see :func:`eagc_jax.aggregators.dwa`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``; ``update`` needs
      ``value``, the K losses. State: :class:`DirectState`, ``method`` a ``FamoState``.

    Raises:
      ValueError: bad arguments (at once); no ``value`` (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import famo
      >>> tx = famo(2)
      >>> grads = {"w": jnp.eye(2)}
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(2)}),
      ...                       value=jnp.array([1.0, 4.0]))
      >>> update["w"].round(1)
      Array([0.8, 0.2], dtype=float32)

    References:
      Liu et al., `FAMO <https://arxiv.org/abs/2306.03792>`_, 2023, equations 8-10 and
      algorithm 1.
    """
    known = {"learning_rate": learning_rate, "decay": decay, "eps": eps}
    for name, value in known.items():
        check_number(name, value, NONNEGATIVE)
    check_number("b1", b1, DECAY)
    check_number("b2", b2, DECAY)
    number = check_num_objectives(num_objectives)
    low = check_vector("min_losses", min_losses, number)
    adam = {"learning_rate": learning_rate, "decay": decay, "b1": b1, "b2": b2}

    def init(params: Params) -> FamoState:
        del params
        zero = jnp.zeros((number,), jnp.float32)
        no = jnp.zeros((number,), bool)
        return FamoState(zero, zero, zero, no.astype(jnp.int32), zero, no, no)

    def apply(step: _direct.Step, state: FamoState):
        after, seen = step.values, state.known & step.active
        if step.extra.get("value_after") is not None:
            given = step.extra["value_after"]
            after = _direct.required_values(given, number, "famo")
            seen = state.last_active
        state = famo_update(state, after, seen=seen, min_losses=low, eps=eps, **adam)
        log_losses = _log_losses(step.values, low, eps)
        weights = famo_weights(state.logits, log_losses, step.active)
        state = state._replace(
            log_losses=jnp.where(step.active, log_losses, state.log_losses),
            known=state.known | step.active,
            last_active=step.active,
        )
        return weights, state

    method = _direct.Method("famo", "convex", init, apply, needs_values=True)
    return _direct.from_method(num_objectives, method, **options)


def famo_weights(
    logits: jax.Array, log_losses: jax.Array, active: jax.Array | None = None
) -> jax.Array:
    """FAMO's weights ``c z / D`` from the logits and ``log D``: they sum to 1.

    Args:
      logits: ``(K,)``, xi.
      log_losses: ``(K,)``, log D.
      active: ``(K,)`` bool, or None for all.

    Returns:
      ``(K,)``, 0 where not active.
    """
    if active is None:
        active = jnp.ones(logits.shape, bool)
    # softmax(xi) / D, normalised: one softmax, in which nothing overflows.
    return _arithmetic.masked_softmax(logits - log_losses, active)


def famo_update(
    state: FamoState,
    losses_after: jax.typing.ArrayLike,
    *,
    seen: jax.Array | None = None,
    learning_rate: float = 0.025,
    decay: float = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    min_losses: jax.typing.ArrayLike = 0.0,
    eps: float = 1e-8,
) -> FamoState:
    """Moves FAMO's logits, from the losses that the last batch has after the step.

    ``famo`` does this itself; by hand it needs the same options.

    Args:
      state: a ``FamoState``, the field ``method`` of the aggregator's state.
      losses_after: ``(K,)``; entries that aren't finite move nothing.
      seen: ``(K,)`` bool: which entries to use, or None for those of the last step.
      learning_rate: as in ``famo``.
      decay: as in ``famo``.
      b1: as in ``famo``.
      b2: as in ``famo``.
      min_losses: as in ``famo``.
      eps: as in ``famo``.

    Returns:
      The state with other logits, in which the last step is used up.
    """
    after = jnp.asarray(losses_after, jnp.float32)
    seen = (state.last_active if seen is None else seen) & jnp.isfinite(after)
    log_after = _log_losses(jnp.where(seen, after, 1.0), min_losses, eps)
    delta = jnp.where(seen, state.log_losses - log_after, 0.0)
    z = _arithmetic.masked_softmax(state.logits, seen)
    grad = z * delta - z * jnp.sum(z * delta) + decay * state.logits
    visits = counted(state.visits, seen)
    steps = jnp.maximum(visits, 1).astype(jnp.float32)
    mu = b1 * state.mu + (1 - b1) * grad
    nu = b2 * state.nu + (1 - b2) * grad**2
    root = jnp.sqrt(nu / (1 - b2**steps)) + 1e-8  # of log losses: they have no unit
    logits = state.logits - learning_rate * mu / (1 - b1**steps) / root
    return state._replace(
        logits=jnp.where(seen, logits, state.logits),
        mu=jnp.where(seen, mu, state.mu),
        nu=jnp.where(seen, nu, state.nu),
        visits=visits,
        last_active=jnp.zeros_like(seen),
        known=state.known & ~seen,
    )


def _log_losses(
    losses: jax.Array, low: jax.typing.ArrayLike, eps: jax.typing.ArrayLike
) -> jax.Array:
    tiny = jnp.finfo(jnp.float32).tiny
    above = jnp.maximum(losses - low + eps, jnp.maximum(eps, tiny))
    return jnp.log(above)
