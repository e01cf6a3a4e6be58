"""GEM: learn from one objective without unlearning the others."""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import NONNEGATIVE, check_index, check_number
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._current import reads_current, split_roles
from eagc_jax.aggregators._unit_rows import or_nan, product
from eagc_jax.aggregators._weighting import (
    Problem,
    Weighting,
    problem_of,
    refuse_preference,
    unscale,
)
from eagc_jax.solvers import SolveInfo, nnqp
from eagc_jax.typing import OptState


@shows_options
def gem(
    num_objectives: int,
    *,
    current: int = 0,
    margin: float = 0.0,
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Gradient episodic memory: the current gradient, off the cone that undoes others.

    One objective c is learnt; the others, the memories m, are the losses on stored
    examples of what was learnt before. Where no memory conflicts with :math:`g_c` the
    update is :math:`g_c`. Else :math:`d = g_c + \sum_m v_m g_m` with

    .. math:: v = \arg\min_{v \ge \text{margin}} \tfrac12 \|g_c + \textstyle\sum_m v_m
        g_m\|^2,

    for margin 0 the projection of :math:`g_c` on
    :math:`\{d : \langle g_m, d \rangle \ge 0\}`.

    Guarantee: conflicts with no memory; :math:`\langle g_c, d \rangle \ge 0` for margin
    0. Length: "convex" (of the one gradient). Cost: one Gram pass, one problem of K
    variables, one weighted sum. A memory that is empty yet has a gradient of zero, or is
    left out by ``active_mask``.

    Args:
      num_objectives: K, a Python int: the current objective and its memories.
      current: the index c. ``update(..., current=index)`` overrides it, also with an
        index that is traced.
      margin: >= 0, how much of each memory's gradient is added at least where there is
        a conflict (``memory_strength`` in the authors' code, whose experiments use 0.5).
      **options: as in :func:`eagc_jax.aggregators.from_weighting`. Preferences are
        refused: memories are constraints.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import gem
      >>> tx = gem(2)
      >>> grads = {"w": jnp.array([[1.0, 1.0], [-2.0, 0.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4), state.weights.round(4)
      (Array([0., 1.], dtype=float32), Array([1. , 0.5], dtype=float32))

    References:
      Lopez-Paz and Ranzato, `Gradient Episodic Memory for Continual Learning
      <https://arxiv.org/abs/1706.08840>`_, 2017, equation 11.
    """
    check_number("margin", margin, NONNEGATIVE)
    check_index("current", current, num_objectives)
    refuse_preference("gem", options)

    def apply(
        problem: Problem, state: OptState
    ) -> tuple[jax.Array, OptState, SolveInfo]:
        assert problem.current is not None
        weights, info = _solve(problem, problem.current, margin)
        return weights, state, info

    reads = reads_current(num_objectives, current)
    method = Weighting("gem", "convex", apply, reads=reads)
    return from_weighting(num_objectives, method, **options)


def gem_weights(
    gram: jax.typing.ArrayLike,
    *,
    current: jax.typing.ArrayLike = 0,
    margin: float = 0.0,
) -> jax.Array:
    """GEM's weights from a ``(K, K)`` Gram matrix: see :func:`gem`.

    Args:
      gram: ``(K, K)``, of the current objective and its memories.
      current: the index of the current objective; may be traced.
      margin: >= 0.

    Returns:
      ``(K,)``: 1 for the current objective, v for the memories.
    """
    check_number("margin", margin, NONNEGATIVE)
    check_index("current", current, np.shape(gram)[0])
    return _solve(problem_of(gram), jnp.asarray(current), margin)[0]


def _solve(
    problem: Problem, current: jax.Array, margin: jax.typing.ArrayLike
) -> tuple[jax.Array, SolveInfo]:
    """In z = norms * v: z >= margin * norms, on the cosines of the memories."""
    cosines, norms = problem.gram.cosines, problem.gram.norms
    is_current, memory = split_roles(problem, current)
    slopes = product(cosines, jnp.where(is_current, norms, 0))
    conflict = jnp.any(memory & (slopes < 0))
    both = memory[:, None] & memory[None, :]
    among = jnp.where(both, cosines, jnp.eye(*both.shape, dtype=norms.dtype))
    least = jnp.where(memory, margin * norms, 0)
    target = jnp.where(memory & conflict, -(slopes + product(among, least)), -1)
    more, info = nnqp(among, target)
    added = jnp.where(memory & conflict, least + more, 0)
    one = is_current.astype(norms.dtype)
    weights = jnp.where(is_current, one, unscale(added, norms))
    return or_nan(weights, problem.gram), info
