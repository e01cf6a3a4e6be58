"""PMTL: a Pareto point in the part of the front that a preference vector names."""

from __future__ import annotations

from typing import NamedTuple, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import (
    NONNEGATIVE,
    check_count,
    check_index,
    check_num_objectives,
    check_number,
    concrete,
)
from eagc_jax._trees import counted, ratio
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._unit_rows import or_nan, product
from eagc_jax.aggregators._weighting import (
    Problem,
    Weighting,
    problem_of,
    refuse_preference,
)
from eagc_jax.aggregators.mgda import _least_norm
from eagc_jax.gram import split_gram
from eagc_jax.solvers.nnqp import SolveInfo
from eagc_jax.typing import OptState


class PmtlState(NamedTuple):
    """Whether the first phase is over."""

    arrived: jax.Array  # shape=(), bool: it has been in its part of the front's space.
    count: jax.Array  # shape=(), int32: steps of the first phase.


@shows_options
def pmtl(
    num_objectives: int,
    *,
    preferences: jax.typing.ArrayLike | None = None,
    index: int | jax.typing.ArrayLike = 0,
    initial_steps: int = 100,
    slack: float = 0.0,
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Pareto MTL: MGDA in one of the parts that preference vectors cut the losses into.

    M unit vectors :math:`u_j` cut the space of losses into parts; part i is where
    :math:`u_j \cdot L \le u_i \cdot L` for all j. With :math:`G_j = (u_j - u_i)\cdot L`
    and the active constraints :math:`A=\{j\ne i: G_j > -s\,\|L\|\}`,

    .. math:: d = \arg\min \big\{\|d\| : d \in \mathrm{conv}\big(
        \{g_k\}_k \cup \{\textstyle\sum_k (u_{jk}-u_{ik})\,g_k\}_{j\in A}\big)\big\} .

    All of it is in the Gram matrix of the K gradients: with
    :math:`(\lambda, \beta)` the coefficients of that point, :math:`w_k = \lambda_k +
    \sum_{j\in A}\beta_j(u_{jk}-u_{ik})`. Before that comes a first phase, in which the
    convex hull is of the active constraints alone: until none is active, or for
    ``initial_steps``.

    Guarantee: :math:`\langle g_k, d\rangle\ge\|d\|^2`, and the same for the constraints:
    no loss and no violation rises, to first order (in the second phase), and it is 0
    where it can't go on. It finds one point in the part, not a given one: for that
    :func:`eagc_jax.aggregators.epo`. The losses' scales matter. Run it for each
    ``index`` to cover the front; ``index`` may be traced (``jax.vmap``). Weights may be
    negative. Length: "unit". Cost: one Gram pass, one problem of K + M variables, one
    weighted sum.

    Args:
      num_objectives: K, a Python int.
      preferences: ``(M, K)`` >= 0, brought to length 1; None for the K axes behind
        their mean direction, M = K + 1.
      index: i, which part.
      initial_steps: how long the first phase may take, an int >= 0.
      slack: s >= 0: constraints count from this relative distance on. The paper has a
        small one; the authors' code, and the default here, none.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`, but no
        ``preference``. ``granularity`` other than "global" mixes losses of the whole
        model with gradients of a part.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``; ``update`` needs
      ``value``, the K losses.

    Raises:
      ValueError: bad arguments (at once); no ``value`` (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import pmtl
      >>> tx = pmtl(2, preferences=[[1.0, 0.0], [0.0, 1.0]])
      >>> grads = {"w": jnp.eye(2)}
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(2)}),
      ...                       value=jnp.array([1.0, 4.0]))
      >>> update["w"]  # the second loss should be the smaller one: it goes first
      Array([-1.,  1.], dtype=float32)

    References:
      Lin et al., `Pareto Multi-Task Learning <https://arxiv.org/abs/1912.12854>`_, 2019.
    """
    number = check_num_objectives(num_objectives)
    vectors = check_preferences("preferences", preferences, number)
    check_index("index", index, vectors.shape[0])
    check_count("initial_steps", initial_steps, 0)
    check_number("slack", slack, NONNEGATIVE)
    refuse_preference("pmtl", options)

    def init(number):
        del number
        return PmtlState(jnp.zeros([], bool), jnp.zeros([], jnp.int32))

    def apply(
        problem: Problem, state: OptState
    ) -> tuple[jax.Array, OptState, SolveInfo]:
        assert problem.values is not None
        values = jnp.where(problem.active, problem.values, 0.0)
        violated = jnp.any(_active(values, vectors, index, 0.0))
        arrived = state.arrived | ~violated | (state.count >= initial_steps)
        weights, info = _solve(problem, vectors, index, slack, ~arrived)
        count = counted(state.count, ~arrived)
        return weights, PmtlState(arrived, count), info

    method = Weighting("pmtl", "unit", apply, init=init, needs_values=True)
    return from_weighting(num_objectives, method, **options)


def pmtl_weights(
    gram: jax.typing.ArrayLike,
    losses: jax.typing.ArrayLike | None = None,
    *,
    preferences: jax.typing.ArrayLike | None = None,
    index: int | jax.typing.ArrayLike = 0,
    slack: float = 0.0,
    constraints_alone: bool = False,
) -> jax.Array:
    """Pareto MTL's weights from a ``(K, K)`` Gram matrix: see :func:`pmtl`.

    Args:
      gram: ``(K, K)``.
      losses: ``(K,)``; None for equal ones.
      preferences: as in :func:`pmtl`.
      index: as in :func:`pmtl`.
      slack: as in :func:`pmtl`.
      constraints_alone: whether it is the first phase.

    Returns:
      ``(K,)``.
    """
    number = np.shape(gram)[0]
    vectors = check_preferences("preferences", preferences, number)
    problem = problem_of(gram, values=jnp.ones(number) if losses is None else losses)
    return _solve(problem, vectors, index, slack, jnp.asarray(constraints_alone))[0]


def check_preferences(
    name: str, preferences: jax.typing.ArrayLike | None, number: int
) -> jax.Array:
    """M vectors >= 0 as ``(M, K)`` float32 of length 1; raises ValueError for others."""
    if preferences is None:
        axes = np.eye(number, dtype=np.float32)
        preferences = np.concatenate([axes.sum(0, keepdims=True), axes])
    shape, known = np.shape(preferences), concrete(preferences)
    fits = len(shape) == 2 and shape[0] >= 1 and shape[1] == number
    if not fits or (
        known is not None
        and not (NONNEGATIVE.holds(known) and np.all(np.any(known > 0, axis=1)))
    ):
        raise ValueError(
            f"{name} must be M vectors of {number} numbers >= 0, one a row and none of "
            f"them zero, shape (M, {number}); got {preferences!r}."
        )
    vectors = jnp.asarray(preferences, jnp.float32)
    return vectors / jnp.sqrt(jnp.sum(vectors**2, axis=1, keepdims=True))


def _active(
    values: jax.Array,
    vectors: jax.Array,
    index: jax.typing.ArrayLike,
    slack: jax.typing.ArrayLike,
) -> jax.Array:
    """``(M,)`` bool: the constraints that count."""
    top = jnp.max(jnp.abs(values))
    relative = ratio(values, top)
    length = jnp.sqrt(jnp.sum(relative**2))
    found = product((vectors - vectors[index][None]).astype(values.dtype), relative)
    # Rounding of equal products must not make a constraint count.
    near = 10 * float(jnp.finfo(values.dtype).eps)
    others = jnp.arange(vectors.shape[0]) != index
    return others & (found > (near - slack) * length)


def _solve(
    problem: Problem,
    vectors: jax.Array,
    index: jax.typing.ArrayLike,
    slack: jax.typing.ArrayLike,
    alone: jax.Array,
) -> tuple[jax.Array, SolveInfo]:
    """The point of least norm of gradients and active constraints."""
    assert problem.values is not None
    gram, active = problem.gram, problem.active
    dtype, number = gram.norms.dtype, gram.norms.shape[0]
    values = jnp.where(active, problem.values, 0.0).astype(dtype)
    counts = _active(values, vectors, index, slack)
    alone = alone & jnp.any(counts)
    taken = jnp.concatenate([active & ~alone, counts])
    turns = (vectors - vectors[index][None]).astype(dtype)
    rows = jnp.concatenate([jnp.eye(number, dtype=dtype), turns])
    rows = jnp.where(taken[:, None] & active[None, :], rows, 0)
    finite = jnp.where(jnp.isfinite(gram.matrix), gram.matrix, 0)
    high = jax.lax.Precision.HIGHEST
    among = jnp.matmul(jnp.matmul(rows, finite, precision=high), rows.T, precision=high)
    shares, info = _least_norm(split_gram(among), taken, "qp")
    return or_nan(product(rows.T, shares), gram), info
