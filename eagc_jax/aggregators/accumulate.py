"""Accumulation of per-objective gradients in front of an aggregator."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import (
    check_count,
    check_mask,
    check_num_objectives,
    check_objective_axis,
    check_same_names,
    check_same_shapes,
)
from eagc_jax._states import check_state
from eagc_jax._trees import counted, named_leaves, wide_zeros, widened
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.objectives import expand_to
from eagc_jax.typing import Inputs, OptState, Params, Updates


class AccumulateState(NamedTuple):
    """Sums over the micro-batches so far, and the inner state."""

    sums: Updates  # leaves (K, *shape), float32: of the gradients.
    values: jax.Array  # shape=(K,), float32: of the losses, where there are any.
    visits: jax.Array  # shape=(K,), int32: micro-batches that had the objective.
    position: jax.Array  # shape=(), int32: micro-batches so far, below ``every``.
    inner: OptState  # the wrapped transformation's state.


def accumulate_objectives(
    inner: optax.GradientTransformation, num_objectives: int, *, every: int
) -> optax.GradientTransformationExtraArgs:
    r"""Averages each objective's gradient over micro-batches, then updates once.

    With :math:`A_k` the micro-batches among the last ``every`` in which objective k was
    active, ``inner`` sees :math:`\frac1{|A_k|}\sum_{a\in A_k}g_k^{(a)}` in every such
    step, and an update of 0 comes out of the others. Coordination isn't linear: micro-
    batches must be averaged before it, and ``optax.MultiSteps``, which knows no objective
    axis, averages behind it. An objective may be active in a few micro-batches only
    (``active_mask``): with one objective each, every micro-batch costs one backward pass,
    the "stochastic" accumulation of GCond. An objective that was in none is passed on as
    inactive.

    Length and guarantee: those of ``inner``. Cost: an elementwise pass a micro-batch.
    Memory: K copies of the parameters in float32.

    Args:
      inner: an aggregator, or a chain that begins with one and ends with an optimizer;
        the optimizer belongs inside, for its moments mustn't see the zeros.
      num_objectives: K, a Python int.
      every: micro-batches an update, an int >= 1.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``. Losses given as
      ``value=`` are averaged in the same way; other keyword arguments reach ``inner`` as
      the last micro-batch has them. A non-finite gradient makes its objective's mean
      non-finite, which is for the policy of ``inner``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax.aggregators import accumulate_objectives, gcond
      >>> tx = accumulate_objectives(optax.chain(gcond(2), optax.sgd(1.0)), 2, every=2)
      >>> params = {"w": jnp.zeros(2)}
      >>> state = tx.init(params)
      >>> one, two = jnp.array([True, False]), jnp.array([False, True])
      >>> grads = {"w": jnp.eye(2)}
      >>> first, state = tx.update(grads, state, params, active_mask=one)
      >>> second, state = tx.update(grads, state, params, active_mask=two)
      >>> first["w"], second["w"].round(3)
      (Array([0., 0.], dtype=float32), Array([-1., -1.], dtype=float32))

    References:
      The accumulation of Alves Limarenko et al., `GCond
      <https://arxiv.org/abs/2509.07252>`_, 2025.
    """
    number = check_num_objectives(num_objectives)
    check_count("every", every, 1)
    wrapped = optax.with_extra_args_support(inner)

    def init_fn(params: Params) -> AccumulateState:
        return AccumulateState(
            sums=wide_zeros(params, number),
            values=jnp.zeros((number,), jnp.float32),
            visits=jnp.zeros((number,), jnp.int32),
            position=jnp.zeros([], jnp.int32),
            inner=wrapped.init(params),
        )

    def update_fn(
        updates: Updates,
        state: OptState,
        params: Params = None,
        *,
        active_mask: jax.typing.ArrayLike | None = None,
        value: jax.typing.ArrayLike | None = None,
        **extra_args: Inputs,
    ) -> tuple[Updates, OptState]:
        check_objective_axis(updates, number, params)
        check_state(state, AccumulateState, number, "visits")
        _check_sums(state.sums, updates, number)
        mask = check_mask(active_mask, number)
        sums = jax.tree.map(lambda s, g: s + _kept(g, mask), state.sums, updates)
        values = state.values
        if value is not None:
            losses = _direct.required_values(value, number, "accumulate_objectives")
            values = values + jnp.where(mask, losses, 0.0)
        visits = counted(state.visits, mask)
        counts = jnp.maximum(visits, 1).astype(jnp.float32)

        def finish():
            means = jax.tree.map(
                lambda s, g: (s / _arithmetic.per_objective(counts, s)).astype(g.dtype),
                sums,
                updates,
            )
            extra = dict(extra_args)
            if value is not None:
                extra["value"] = values / counts
            out, new = wrapped.update(
                means, state.inner, params, active_mask=visits > 0, **extra
            )
            return out, _cleared(state, new)

        def go_on():
            out = jax.tree.map(lambda g: jnp.zeros(g.shape[1:], g.dtype), updates)
            return out, AccumulateState(
                sums, values, visits, state.position + 1, state.inner
            )

        return jax.lax.cond(state.position + 1 >= every, finish, go_on)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_sums(sums: Updates, updates: Updates, number: int) -> None:
    kept, found = named_leaves(sums), named_leaves(updates)
    check_same_names(found, kept, "updates", "the state's sums")
    check_same_shapes(
        {name: leaf.shape[1:] for name, leaf in found.items()},
        {name: leaf.shape[1:] for name, leaf in kept.items()},
        number,
    )


def _kept(leaf: jax.Array, mask: jax.Array) -> jax.Array:
    wide = widened(leaf)
    return jnp.where(expand_to(mask, wide.ndim), wide, 0.0)


def _cleared(state: AccumulateState, inner: OptState) -> AccumulateState:
    zeros = jax.tree.map(jnp.zeros_like, state)
    return zeros._replace(inner=inner)
