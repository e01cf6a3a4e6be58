"""ExcessMTL: more weight for the objectives that are far from their optimum."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import NONNEGATIVE, check_num_objectives, check_number
from eagc_jax._trees import ratio, select, wide_zeros
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions, check_real
from eagc_jax.gram import row_norms
from eagc_jax.typing import OptState, Params, PyTree, Updates


class ExcessMtlState(NamedTuple):
    """Sums of squared gradients, the first risks, and the weights."""

    squares: Updates  # leaves (K, *shape), float32: sums over the steps of g^2.
    initial: jax.Array  # shape=(K,), float32: the first excess risk; 0 before it.
    log_weights: jax.Array  # shape=(K,), float32: the mean of the weights is 1.


@_direct.shows_options
def excess_mtl(
    num_objectives: int,
    *,
    step_size: float = 0.01,
    eps: float = 1e-7,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Weighs objectives by their excess risk, estimated from their own gradients.

    How far loss k is above the smallest it could have, by a Taylor expansion with the
    diagonal of an Adagrad-like Hessian, in step t

    .. math::
      H_k^{(t)} = \Big(\sum_{s\le t} g_k^{(s)} \odot g_k^{(s)} + \epsilon\Big)^{1/2},
      \qquad
      E_k^{(t)} = \sum_i \frac{g_{k,i}^2}{H_{k,i}^{(t)}} ,

    and with :math:`E_k^{(1)}`, so that scales don't matter,

    .. math:: w_k \leftarrow K\,\frac{w_k e^{\eta E_k/E_k^{(1)}}}
                                    {\sum_j w_j e^{\eta E_j/E_j^{(1)}}} ,
              \qquad d = \sum_k w_k g_k ,

    from the second step on; ones in the first. Unlike weights from losses it doesn't
    work on an objective that is noisy and can't get better: the risk is of what can.

    That weights start at 1 and sum to K, that the first step only records, the step size
    and :math:`\epsilon` are as in LibMTL, which took them from the authors' code.
    Guarantee: none against conflict. Length: "sum". Cost: a pass for who is
    finite, one that updates the squares and estimates, the weighted sum. Memory: K copies
    of the parameters in float32: it has no losses-only form.

    Args:
      num_objectives: K, a Python int.
      step_size: :math:`\eta` >= 0.
      eps: :math:`\epsilon` >= 0, in squared gradients; with 0 the weights don't depend
        on any loss's scale.
      **options: ``preference``, ``rescale``, ``nonfinite``, ``axis_name``, as in
        :func:`eagc_jax.aggregators.dwa`; the weights are multiplied by the preference.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``. State:
      :class:`DirectState`, ``method`` an ``ExcessMtlState``. What is kept of an absent
      objective waits; the weights of the others keep their sum.

    Raises:
      ValueError: bad arguments (at once); complex leaves (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import excess_mtl
      >>> tx = excess_mtl(2, step_size=1.0)
      >>> state = tx.init({"w": jnp.zeros(2)})
      >>> for second in (1.0, 0.1):  # the second objective is nearly done
      ...   _, state = tx.update({"w": jnp.diag(jnp.array([1.0, second]))}, state)
      >>> [round(float(w), 1) for w in state.weights]
      [1.3, 0.7]

    References:
      He et al., `Robust Multi-Task Learning with Excess Risks
      <https://arxiv.org/abs/2402.02009>`_, 2024.
    """
    number = check_num_objectives(num_objectives)
    check_number("step_size", step_size, NONNEGATIVE)
    check_number("eps", eps, NONNEGATIVE)

    def init(params: Params) -> ExcessMtlState:
        zeros = jnp.zeros((number,), jnp.float32)
        return ExcessMtlState(wide_zeros(params, number), zeros, zeros)

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        check_real(step.updates, "excess_mtl")
        moves = step.active & step.advance
        squares = jax.tree.map(
            lambda s, leaf: _added(s, step.masked(leaf), moves),
            state.squares,
            step.updates,
        )
        risks = _risks(step, squares, eps)
        first = state.initial <= 0
        initial = jnp.where(first & step.active, risks, state.initial)
        relative = jnp.where(first, 0.0, ratio(risks, initial))
        moved = excess_mtl_step(
            state.log_weights, relative, step.active, step_size=step_size
        )
        small = select(
            step.advance, (initial, moved), (state.initial, state.log_weights)
        )
        return jnp.exp(moved), ExcessMtlState(squares, *small)

    method = _direct.Method("excess_mtl", "sum", init, apply, keeps=True)
    return _direct.from_method(num_objectives, method, **options)


def excess_mtl_step(
    log_weights: jax.Array,
    relative_risks: jax.Array,
    active: jax.Array | None = None,
    *,
    step_size: jax.typing.ArrayLike = 0.01,
) -> jax.Array:
    """One multiplicative step of the weights, as logarithms.

    Args:
      log_weights: ``(K,)``.
      relative_risks: ``(K,)``, E over its first value.
      active: ``(K,)`` bool, or None for all; the others' weights stay.
      step_size: eta.

    Returns:
      ``(K,)``: the weights of the active ones have the sum that they had.
    """
    if active is None:
        active = jnp.ones(log_weights.shape, bool)
    budget = jnp.sum(jnp.where(active, jnp.exp(log_weights), 0.0))
    risen = log_weights + step_size * relative_risks
    top = jnp.max(jnp.where(active, risen, -jnp.inf))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    total = jnp.sum(jnp.where(active, jnp.exp(risen - top), 0.0))
    some = total > 0
    shift = jnp.log(jnp.where(some, budget, 1.0)) - jnp.log(jnp.where(some, total, 1.0))
    # Far below the others: still a weight that can come back.
    moved = jnp.maximum(risen - top + shift, -60.0)
    return jnp.where(active & some, moved, log_weights)


def _added(squares: jax.Array, gradient: jax.Array, moves: jax.Array) -> jax.Array:
    kept = jnp.where(_arithmetic.expand_to(moves, gradient.ndim), gradient, 0)
    return (squares + kept * kept).astype(squares.dtype)


def _risks(
    step: _direct.Step, squares: Updates, eps: jax.typing.ArrayLike
) -> jax.Array:
    """``sum g^2 / sqrt(S + eps)``, ``(K,)``: of each device's part, added up."""

    def rooted(total, leaf):
        curvature = jnp.sqrt(jnp.sqrt(total + eps))  # below the square root of g^2
        return ratio(step.masked(leaf), curvature.astype(total.dtype))

    leaves = jax.tree.leaves(jax.tree.map(rooted, squares, step.updates))
    norms, _ = row_norms(leaves, step.active, step.names)
    return (norms**2).astype(jnp.float32)
