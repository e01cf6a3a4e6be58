"""M-ConFIG: ConFIG of momenta, with one objective's gradient a step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import (
    DECAY,
    NONNEGATIVE,
    SINGLE_NONFINITE_POLICIES,
    SingleNonfinite,
    check_choice,
    check_gradient,
    check_num_objectives,
    check_number,
    concrete,
)
from eagc_jax._shards import AxisName, all_finite, check_averaged, check_axis_name
from eagc_jax._states import check_like, check_state
from eagc_jax._trees import (
    counted,
    increment,
    named_leaves,
    ratio,
    select,
    wide_zeros,
    widened,
)
from eagc_jax.aggregators import _arithmetic
from eagc_jax.aggregators._weighting import Problem
from eagc_jax.aggregators.conflict_free import solve
from eagc_jax.blocks import GLOBAL
from eagc_jax.gram import gram_blocks
from eagc_jax.objectives import expand_to
from eagc_jax.typing import Inputs, OptState, Params, PyTree, Updates


class MomentumConflictFreeState(NamedTuple):
    """K momenta and two vectors: (K + 2) copies of the parameters."""

    momenta: Updates  # leaves (K, *shape), float32: running means of the gradients.
    visits: jax.Array  # shape=(K,), int32: gradients in each.
    last: PyTree  # like params, float32: the last direction times its bias factor.
    nu: PyTree  # like params, float32: running mean of the pseudo gradient's square.
    weights: jax.Array  # shape=(K,), float32: of the momenta, in the last direction.
    count: jax.Array  # shape=(), int32: updates made, after the warm-up.
    step: jax.Array  # shape=(), int32: calls; says whose turn it is.
    nonfinite_count: jax.Array  # shape=(), int32: steps with a NaN or an infinity.


def momentum_conflict_free(
    num_objectives: int,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    nonfinite: SingleNonfinite = "propagate",
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""M-ConFIG: the conflict-free direction of momenta, one gradient a step.

    Each step brings the gradient g of one objective k. With :math:`n_k` the number of
    those and t that of updates,

    .. math::
      m_k &\leftarrow \beta_1m_k+(1-\beta_1)g, \qquad
      d = \mathrm{ConFIG}\big(m_j/(1-\beta_1^{n_j})\big)_j \\
      f_t &= (1-\beta_1^t)\,d, \qquad q = (f_t-\beta_1f_{t-1})/(1-\beta_1) \\
      v &\leftarrow \beta_2v+(1-\beta_2)q^2, \qquad
      u = \frac{d}{\sqrt{v/(1-\beta_2^t)}+\epsilon}.

    q is the gradient whose momentum would be d: v is Adam's second moment of it. Until
    every objective has had a gradient, the update is 0.

    The update is already Adam's kind: chain ``optax.sgd``, not ``optax.adam``. Guarantee:
    before the division by the root, where the momenta are linearly independent, the same
    positive cosine with each of them. Length: "unit" (about 1 an entry). Cost: one
    gradient a step instead of K; a Gram pass over the momenta, a weighted sum. Memory:
    K + 2 copies of the parameters in float32.

    Args:
      num_objectives: K, a Python int.
      b1: :math:`\beta_1` in [0, 1).
      b2: :math:`\beta_2` in [0, 1).
      eps: :math:`\epsilon` >= 0, absolute as published; with 0 the update is the same at
        every scale, and 0 where an entry has had no gradient.
      nonfinite: for a gradient with a NaN or an infinity, "propagate" (the update is NaN
        everywhere) or "skip_update" (it is 0). Momenta don't move in either.
      axis_name: inside ``jax.shard_map``, the mesh axes over which parameters are split.

    Returns:
      A transformation of leaves ``(*shape)``, without an objective axis. ``update`` takes
      the keyword argument ``objective``, k, an int in [0, K) that may be traced; without
      it objectives take turns, 0 first: one that is skipped has had its turn.

    Raises:
      ValueError: bad arguments (at once); updates with an objective axis, an objective
        that there isn't (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import momentum_conflict_free
      >>> tx = momentum_conflict_free(2)
      >>> params = {"w": jnp.zeros(2)}
      >>> state = tx.init(params)
      >>> _, state = tx.update({"w": jnp.array([3.0, 0.0])}, state, params, objective=0)
      >>> update, state = tx.update({"w": jnp.array([0.0, 1.0])}, state, params)
      >>> update["w"].round(2)
      Array([1., 1.], dtype=float32)

    References:
      Liu, Chu and Thuerey, `ConFIG <https://arxiv.org/abs/2408.11104>`_, 2025,
      algorithm 1.
    """
    number = check_num_objectives(num_objectives)
    check_number("b1", b1, DECAY)
    check_number("b2", b2, DECAY)
    check_number("eps", eps, NONNEGATIVE)
    check_choice("nonfinite", nonfinite, SINGLE_NONFINITE_POLICIES)
    names = check_axis_name(axis_name)

    def init_fn(params: Params) -> MomentumConflictFreeState:
        zero = jnp.zeros([], jnp.int32)
        return MomentumConflictFreeState(
            momenta=wide_zeros(params, number),
            visits=jnp.zeros((number,), jnp.int32),
            last=wide_zeros(params),
            nu=wide_zeros(params),
            weights=jnp.zeros((number,), jnp.float32),
            count=zero,
            step=zero,
            nonfinite_count=zero,
        )

    def update_fn(
        updates: Updates,
        state: OptState,
        params: Params = None,
        *,
        objective: jax.typing.ArrayLike | None = None,
        **extra_args: Inputs,
    ) -> tuple[Updates, OptState]:
        del extra_args
        check_gradient(updates, params)
        if not jax.tree.leaves(updates):  # an empty group of optax.partition
            return updates, state
        check_state(state, MomentumConflictFreeState, number, "visits")
        _check_no_axis(updates, state)
        check_like(state, init_fn, updates)
        check_averaged(updates, params, names)
        turn = state.step % number if objective is None else objective
        turn = jnp.asarray(_check_objective(turn, number)).astype(jnp.int32)
        finite = all_finite(updates, names)
        # What isn't finite moves nothing: momenta need not be chosen a second time.
        chosen = (jnp.arange(number, dtype=jnp.int32) == turn) & finite
        momenta = jax.tree.map(
            lambda m, g: _moved(m, g, chosen, b1), state.momenta, updates
        )
        visits = counted(state.visits, chosen)
        ready = jnp.all(visits > 0)
        moves = ready & finite
        weights = _weights(momenta, visits, b1, names)
        d = _arithmetic.reduced(momenta, weights)
        count = increment(state.count)
        steps = count.astype(jnp.float32)
        risen, settled = 1 - b1**steps, 1 - b2**steps
        last = jax.tree.map(lambda x: x * _as(risen, x), d)
        pseudo = jax.tree.map(lambda f, p: (f - b1 * p) / (1 - b1), last, state.last)
        nu = jax.tree.map(lambda v, q: b2 * v + (1 - b2) * q**2, state.nu, pseudo)

        def emit(x, v, g):
            root = jnp.sqrt(v / _as(settled, v)) + eps
            fill = jnp.nan if nonfinite == "propagate" else 0.0
            step = jnp.where(ready, ratio(x, root), 0.0)
            return jnp.where(finite, step, fill).astype(g.dtype)

        out = jax.tree.map(emit, d, nu, updates)
        made = select(
            moves,
            (last, nu, weights, count),
            (state.last, state.nu, state.weights, state.count),
        )
        return out, MomentumConflictFreeState(
            momenta,
            visits,
            *made,
            step=increment(state.step),
            nonfinite_count=counted(state.nonfinite_count, ~finite),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _moved(
    momentum: jax.Array, grad: jax.Array, chosen: jax.Array, b1: jax.typing.ArrayLike
) -> jax.Array:
    """Momenta ``(K, *shape)`` with the chosen one moved towards the gradient."""
    moved = b1 * momentum + (1 - b1) * widened(grad)[None]
    return jnp.where(expand_to(chosen, momentum.ndim), moved, momentum)


def _weights(
    momenta: Updates,
    visits: jax.Array,
    b1: jax.typing.ArrayLike,
    names: tuple[str, ...],
) -> jax.Array:
    """ConFIG's weights of the momenta, their bias corrected."""
    leaves = named_leaves(momenta)
    layout = blocks_lib.layout_of_updates(GLOBAL, leaves, names)
    parts, _ = gram_blocks(leaves, layout, visits > 0, names)
    steps = jnp.maximum(visits, 1).astype(jnp.float32)
    unbiased = 1 / (1 - b1**steps)
    gram = jax.tree.map(lambda x: x[0], parts)
    norms = gram.norms * unbiased.astype(gram.norms.dtype)
    problem = Problem(
        gram._replace(norms=norms),
        preference=jnp.full((len(steps),), 1 / len(steps), norms.dtype),
        active=jnp.ones((len(steps),), bool),
    )
    return solve(problem, "projection").astype(jnp.float32) * unbiased


def _as(value: jax.Array, like: jax.Array) -> jax.Array:
    return value.astype(like.dtype)


def _check_objective(
    objective: jax.typing.ArrayLike, number: int
) -> jax.typing.ArrayLike:
    known = concrete(objective)
    if known is not None and (
        known.shape != () or known != int(known) or not 0 <= known < number
    ):
        raise ValueError(
            f"objective must be an int in [0, {number}), the one whose gradient this "
            f"is; got {objective!r}."
        )
    return objective


def _check_no_axis(updates: Updates, state: MomentumConflictFreeState) -> None:
    known = named_leaves(state.last)
    for name, leaf in named_leaves(updates).items():
        if name in known and jnp.ndim(leaf) == jnp.ndim(known[name]) + 1:
            raise ValueError(
                f"leaf '{name}' has shape {jnp.shape(leaf)}, but momentum_conflict_free "
                f"takes the gradient of one objective, {jnp.shape(known[name])}, without "
                "an objective axis."
            )
