"""Priority-constrained descent: one objective leads, the others get a share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import (
    DECAY,
    SHARE,
    check_index,
    check_number,
    check_vector,
)
from eagc_jax._trees import counted
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._unit_rows import live_rows, or_nan, product, rounding
from eagc_jax.aggregators._weighting import (
    Problem,
    Weighting,
    problem_of,
    refuse_preference,
    unscale,
)
from eagc_jax.gram import Gram
from eagc_jax.solvers import SolveInfo, nnqp
from eagc_jax.typing import OptState

# Constraints that hold to less than this share of the largest have no solution.
_INFEASIBLE = 1e-3


class PcdState(NamedTuple):
    """The running mean of the squared norms of the gradients."""

    squares: jax.Array  # shape=(K,), float32: over scale^2, biased towards 0.
    scale: jax.Array  # shape=(), float32: the largest norm seen so far.
    visits: jax.Array  # shape=(K,), int32: steps in which the objective took part.


@shows_options
def pcd(
    num_objectives: int,
    *,
    tau: float | Sequence[float] = 0.02,
    primary: int = 0,
    decay: float = 0.999,
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Priority-constrained descent: closest to one gradient, with progress on all.

    With :math:`\tilde g_k = s_k g_k`, where :math:`1 / s_k^2` is the bias-corrected
    running mean of :math:`\|g_k\|^2`, and the primary objective p,

    .. math:: \tilde d = \arg\min_d \tfrac12 \|d - \tilde g_p\|^2 \quad \text{subject to}
        \quad \langle \tilde g_j, d \rangle \ge \tau_j \|\tilde g_j\|^2
        \quad \text{for all } j \ne p;

    the update is :math:`\tilde d` with the length of :math:`g_p`. Every secondary
    objective gets a share tau of the progress that a step along its own normalised
    gradient gives. By the KKT conditions
    :math:`\tilde d = \tilde g_p + \sum_j \mu_j \tilde g_j`, a non-negative quadratic
    program of size K.

    Where no direction satisfies the constraints (secondary gradients that oppose each
    other) they are dropped: the update is :math:`g_p`. Where :math:`g_p` is 0, so is the
    update.

    Guarantee: no conflict with a secondary objective where the constraints can be met.
    None for the primary one, which yields to them: with tau = 0
    :math:`\langle g_p, d \rangle \ge 0`. The direction doesn't change when one loss is
    rescaled for good. Length: "convex" (of the one gradient). Cost: one Gram pass, one
    problem of K variables, one weighted sum; the state holds K + 1 numbers for each
    block.

    Args:
      num_objectives: K, a Python int.
      tau: in [0, 1], for all; or K numbers, of which the primary's is ignored.
      primary: the index p.
      decay: of the running mean, in [0, 1); 0 takes the norms of the step itself.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`. Preferences are
        refused: priorities are the preference here.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``; ``method`` in
      its state is a :class:`PcdState` with a leading axis of blocks.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import pcd
      >>> tx = pcd(2, tau=0.6)
      >>> grads = {"w": jnp.array([[5.0, 0.0], [0.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4)
      Array([4.2875, 2.5725], dtype=float32)

    References:
      Varam and AlHajri, `Not All Objectives Are Born Equal
      <https://arxiv.org/abs/2606.29521>`_, 2026, algorithm 1.
    """
    _check(tau, primary, decay, num_objectives)
    refuse_preference("pcd", options)

    def apply(
        problem: Problem, state: OptState
    ) -> tuple[jax.Array, OptState, SolveInfo]:
        state, relative = _observe(problem, state, decay)
        weights, info = _solve(problem, relative, tau, primary)
        return weights, state, info

    return from_weighting(
        num_objectives, Weighting("pcd", "convex", apply, init=_init), **options
    )


def pcd_weights(
    gram: jax.typing.ArrayLike,
    *,
    tau: float | Sequence[float] | jax.typing.ArrayLike = 0.02,
    primary: int = 0,
    scales: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    r"""The weights of priority-constrained descent: see :func:`pcd`.

    Args:
      gram: ``(K, K)``.
      tau: in [0, 1], or K of them.
      primary: the index of the primary objective.
      scales: ``(K,)``, :math:`s_k`, what gradients are multiplied by; None for their
        inverse norms.

    Returns:
      ``(K,)``.
    """
    _check(tau, primary, 0.0, np.shape(gram)[0])
    problem = problem_of(gram)
    norms = problem.gram.norms
    relative = live_rows(problem.gram).astype(norms.dtype)
    if scales is not None:
        relative = jnp.asarray(scales, norms.dtype) * norms * problem.gram.scale
    return _solve(problem, relative, tau, primary)[0]


def _check(
    tau: Sequence[float] | jax.typing.ArrayLike,
    primary: int,
    decay: jax.typing.ArrayLike,
    number: int,
) -> None:
    check_index("primary", primary, number)
    check_vector("tau", tau, number, SHARE)
    check_number("decay", decay, DECAY)


def _init(number: int) -> PcdState:
    return PcdState(
        jnp.zeros((number,), jnp.float32),
        jnp.zeros([], jnp.float32),
        jnp.zeros((number,), jnp.int32),
    )


def _observe(
    problem: Problem, state: PcdState, decay: jax.typing.ArrayLike
) -> tuple[PcdState, jax.Array]:
    """The running mean after this step, and the norms over its square root."""
    gram, active = problem.gram, problem.active
    # Over the largest norm so far: squares of norms would leave float32's range.
    scale = jnp.maximum(gram.scale.astype(jnp.float32), state.scale)
    safe = jnp.where(scale > 0, scale, 1)
    old = state.squares * (state.scale / safe) ** 2
    norms = gram.norms * (gram.scale / safe.astype(gram.scale.dtype))
    decay = jnp.asarray(decay, jnp.float32)
    moved = decay * old + (1 - decay) * norms.astype(jnp.float32) ** 2
    squares = jnp.where(active, moved, old)
    visits = counted(state.visits, active)
    correction = 1 - decay ** visits.astype(jnp.float32)
    root = jnp.sqrt(squares / jnp.where(visits > 0, correction, 1))
    relative = norms / jnp.where(root > 0, root, 1).astype(norms.dtype)
    return PcdState(squares, scale, visits), relative


def _solve(
    problem: Problem,
    relative: jax.Array,
    tau: Sequence[float] | jax.typing.ArrayLike,
    primary: int,
) -> tuple[jax.Array, SolveInfo]:
    """On unit gradients; ``relative`` are the norms of the normalised ones."""
    gram: Gram = problem.gram
    dtype, number = gram.norms.dtype, gram.norms.shape[0]
    first = jnp.arange(number) == primary
    secondary = live_rows(gram) & ~first
    lead = jnp.where(first, relative, 0)
    asked = jnp.broadcast_to(jnp.asarray(tau, dtype), (number,)) * relative
    missing = asked - product(gram.cosines, lead)
    both = secondary[:, None] & secondary[None, :]
    among = jnp.where(both, gram.cosines, jnp.eye(number, dtype=dtype))
    added, info = nnqp(among, jnp.where(secondary, missing, -1))
    added = jnp.where(secondary, added, 0)
    short = jnp.where(secondary, missing - product(gram.cosines, added), 0)
    largest = jnp.max(jnp.where(secondary, jnp.abs(missing), 0))
    feasible = jnp.max(short) <= _INFEASIBLE * largest
    mixed = lead + jnp.where(feasible, added, 0)
    squared = jnp.sum(mixed * product(gram.cosines, mixed))
    size = jnp.sum(jnp.abs(mixed))
    none = squared <= rounding(dtype) * size**2
    length = jnp.sum(jnp.where(first, gram.norms, 0))
    mixed = jnp.where(none, 0, mixed * (length / jnp.sqrt(jnp.where(none, 1, squared))))
    return or_nan(unscale(mixed, gram.norms), gram), info
