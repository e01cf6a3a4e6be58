"""Weights that are recomputed every n steps, and one backward pass in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax._checks import check_num_objectives, check_weights
from eagc_jax._states import check_kind
from eagc_jax.gradients._common import (
    Weighting,
    as_vector,
    check_differentiable,
)
from eagc_jax.gradients.two_phase import GramWay, two_phase
from eagc_jax.typing import Inputs, Params, PyTree, Updates


class StaleWeightsState(NamedTuple):
    """State of :func:`stale_weights`."""

    count: jax.Array  # shape=(), int32: steps since the weights were last due.
    weights: jax.Array  # shape=(K,), float32: in use; of the last Gram matrix.


def init_stale_weights(num_objectives: int) -> StaleWeightsState:
    """The state before the first step, which computes the weights.

    Args:
      num_objectives: K.

    Returns:
      A :class:`StaleWeightsState` with a count of 0 and weights of one.

    Raises:
      ValueError: a number that isn't an int of at least 1.

    Examples:
      >>> from eagc_jax.gradients import init_stale_weights
      >>> init_stale_weights(3).weights.shape
      (3,)
    """
    number = check_num_objectives(num_objectives)
    return StaleWeightsState(jnp.zeros((), jnp.int32), check_weights(None, number))


def stale_weights(
    losses_fn: Callable[..., PyTree],
    weighting: Weighting,
    *,
    recompute_every: int,
    gram: GramWay = "columns",
    has_aux: bool = False,
) -> Callable[..., tuple[PyTree, Updates, StaleWeightsState]]:
    r"""The weighted gradient with weights of the last n steps' Gram matrix.

    At steps 0, n, 2n, ... :math:`w = w(G)` and :math:`d = \nabla_\theta \sum_k w_k L_k`
    as in :func:`two_phase`; in between d alone, with the weights as they are. So the cost
    is that of the summed loss but for one step in n: over it, (n - 1 + c) / n, with c
    that of :func:`two_phase`. A method's guarantee holds at the steps that compute
    weights, and in between as far as the Gram matrix changes slowly. Weights that aren't
    finite are due again at the next step.

    Both programs are compiled (``jax.lax.cond``). Under ``jax.vmap`` both would run at
    every step: map something else.

    Args:
      losses_fn: as in :func:`two_phase`.
      weighting: a pure function from a ``(K, K)`` Gram matrix to ``(K,)`` weights.
      recompute_every: n, in steps; 1 is :func:`two_phase`.
      gram: how :func:`two_phase` gets the Gram matrix: "columns" or "batched".
      has_aux: whether ``losses_fn`` returns auxiliary data besides.

    Returns:
      A function ``(params, state, *args)`` that returns (losses, gradient, new state), or
      ((losses, aux), gradient, new state); the first state is from
      :func:`init_stale_weights`, and ``new_state.weights`` are the weights used.

    Raises:
      ValueError: ``recompute_every`` that isn't an int of at least 1, an unknown ``gram``
        (at once); losses that don't match the state, or what :func:`two_phase` refuses.

    Examples:
      >>> import jax, jax.numpy as jnp
      >>> from eagc_jax.gradients import init_stale_weights, stale_weights
      >>> step = jax.jit(stale_weights(
      ...   lambda w: (w**2, 2 * w), lambda gram: 1 / jnp.sqrt(jnp.diagonal(gram)),
      ...   recompute_every=2))
      >>> state = init_stale_weights(2)
      >>> for w in (1.0, 5.0, 5.0):
      ...   losses, gradient, state = step(w, state)
      ...   print(float(gradient), state.weights.tolist())
      2.0 [0.5, 0.5]
      6.0 [0.5, 0.5]
      2.0 [0.10000000149011612, 0.5]
    """
    whole = isinstance(recompute_every, int) and not isinstance(recompute_every, bool)
    if not whole or recompute_every < 1:
        raise ValueError(
            f"recompute_every must be an int >= 1, in steps; got {recompute_every!r}."
        )
    fresh_step = two_phase(losses_fn, weighting, gram=gram, has_aux=has_aux)

    def wrapped(
        params: Params, state: StaleWeightsState, *args: Inputs
    ) -> tuple[PyTree, Updates, StaleWeightsState]:
        check_differentiable(params, "params")
        check_kind(state, StaleWeightsState)

        def fresh(params: Params, weights: jax.Array):
            out, gradient, new = fresh_step(params, *args)
            return out, gradient, new.astype(weights.dtype)

        def stale(params: Params, weights: jax.Array):
            def total(params: Params) -> tuple[jax.Array, PyTree]:
                out = losses_fn(params, *args)
                vector = as_vector(out[0] if has_aux else out)
                _check_number(vector, weights)
                return jnp.sum(weights.astype(vector.dtype) * vector), out

            gradient, out = jax.grad(total, has_aux=True)(params)
            return out, gradient, weights

        due = (state.count == 0) | ~jnp.all(jnp.isfinite(state.weights))
        out, gradient, weights = jax.lax.cond(due, fresh, stale, params, state.weights)
        count = jnp.where(due, 1, state.count + 1) % recompute_every
        return out, gradient, StaleWeightsState(count.astype(jnp.int32), weights)

    return wrapped


def _check_number(vector: jax.Array, weights: jax.Array) -> None:
    if vector.shape != weights.shape:
        raise ValueError(
            f"losses_fn returned {vector.size} losses, but the state holds weights for "
            f"{weights.size}: make it with init_stale_weights({vector.size})."
        )
