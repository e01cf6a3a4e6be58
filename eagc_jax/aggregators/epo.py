"""EPO: the Pareto point on the ray of a preference vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import NONNEGATIVE, check_num_objectives, check_number
from eagc_jax._trees import ratio
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._unit_rows import or_nan, product, rounding
from eagc_jax.aggregators._weighting import Problem, problem_of, stateless
from eagc_jax.aggregators.mgda import _least_norm
from eagc_jax.solvers.nnqp import SolveInfo
from eagc_jax.solvers.vertices import LARGEST, best_vertex


@shows_options
def epo(
    num_objectives: int,
    *,
    tolerance: float = 1e-4,
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Exact Pareto optimal search: to the front where all :math:`r_k L_k` are equal.

    With the preference r, the losses' shares :math:`\hat l_k = r_kL_k/\sum_j r_jL_j`,
    how uneven they are, and how each should move,

    .. math:: \mu = \sum_k \hat l_k \log(K\hat l_k), \qquad
              a_k = r_k\,(\log(K\hat l_k) - \mu), \qquad c = G\,a,

    G being the Gram matrix of the gradients, the update is :math:`d=\sum_kw_kg_k` with w
    from a linear program over the simplex. Where :math:`\mu` is above the tolerance it
    *balances*:

    .. math:: \max_w\; w^\top c \quad\text{s.t.}\quad (Gw)_j \ge \begin{cases}
        0 & j \in \arg\max_k r_kL_k \\ -\infty & c_j > 0 \\ c_j & \text{else,}
        \end{cases}

    (or :math:`Gw\ge0` where no :math:`c_j>0`): some losses may rise, in a controlled way,
    but not the worst. Else it *descends*:

    .. math:: \max_w\; \mathbf 1^\top Gw \quad\text{s.t.}\quad Gw\ge0,\;
              w^\top c \ge \min(0, \max_j c_j) ,

    and where rounding leaves no feasible point, the weights are those of MGDA.

    Guarantee (paper): with exact gradients :math:`\mu` falls until the ray is reached,
    and then no loss rises, up to the step size. r_k is the *reciprocal* of how large loss
    k may be, the other way round than in a weighted sum's picture, and the same as in
    ``chebyshev``. Losses must be >= 0; their scales matter. Length: "convex" (the
    authors multiply by K: ``rescale="sum"``). Cost: one Gram pass, all vertices of the
    program (K at most 6), one weighted sum.

    Args:
      num_objectives: K, a Python int, 1 to 6.
      tolerance: :math:`\mu` above which it balances, >= 0.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; ``preference`` is r,
        None for ones.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``; ``update`` needs
      ``value``, the K losses.

    Raises:
      ValueError: bad arguments (at once); no ``value`` (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import epo
      >>> tx = epo(2)
      >>> grads = {"w": jnp.eye(2)}
      >>> update, _ = tx.update(grads, tx.init({"w": jnp.zeros(2)}),
      ...                       value=jnp.array([1.0, 4.0]))
      >>> update["w"]  # the larger loss first
      Array([0., 1.], dtype=float32)

    References:
      Mahapatra and Rajan, "Multi-Task Learning with User Preferences: Gradient Descent
      with Controlled Ascent in Pareto Optimization", ICML 2020; the bound on w'c while
      it descends as in the authors' code.
    """
    number = check_num_objectives(num_objectives)
    check_number("tolerance", tolerance, NONNEGATIVE)
    _check_number(number)
    method = stateless(
        "epo", "convex", lambda problem: _solve(problem, tolerance), needs_values=True
    )
    return from_weighting(num_objectives, method, **options)


def epo_weights(
    gram: jax.typing.ArrayLike,
    losses: jax.typing.ArrayLike | None = None,
    *,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
    tolerance: float = 1e-4,
) -> jax.Array:
    """EPO's weights from a ``(K, K)`` Gram matrix: see :func:`epo`.

    Args:
      gram: ``(K, K)``.
      losses: ``(K,)``, >= 0; None for equal ones.
      preference: r, K numbers >= 0, or None for equal ones.
      tolerance: as in :func:`epo`.

    Returns:
      ``(K,)``, in the simplex.
    """
    number = np.shape(gram)[0]
    _check_number(number)
    losses = jnp.ones(number) if losses is None else losses
    return _solve(problem_of(gram, preference, values=losses), tolerance)[0]


def _check_number(number: int) -> None:
    if number > LARGEST:
        raise ValueError(
            f"epo takes 1 to {LARGEST} objectives, got num_objectives={number}: it looks "
            "at every vertex of its linear program. For more use smooth_chebyshev with "
            "the same preference."
        )


def adjustments(
    losses: jax.Array, preference: jax.Array, active: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """``r L`` relative to its sum, how uneven it is, and how each loss should move.

    Args:
      losses: ``(K,)``, >= 0.
      preference: ``(K,)``.
      active: ``(K,)`` bool: the others count for nothing.

    Returns:
      The shares ``(K,)``, mu ``()``, and a ``(K,)``.
    """
    weighted = jnp.where(active, preference * jnp.maximum(losses, 0), 0)
    number = jnp.maximum(jnp.sum(active, dtype=jnp.int32), 1).astype(losses.dtype)
    shares = ratio(weighted, jnp.sum(weighted))
    logs = jnp.log(jnp.maximum(shares * number, jnp.finfo(losses.dtype).eps))
    uneven = jnp.sum(jnp.where(active, shares * logs, 0))
    turn = logs - uneven
    # Of shares that are equal but for rounding the direction is rounding too.
    turn = jnp.where(jnp.abs(turn) > 5 * rounding(losses.dtype), turn, 0)
    return shares, uneven, jnp.where(active, preference * turn, 0)


def _solve(problem: Problem, tolerance: float) -> tuple[jax.Array, SolveInfo]:
    assert problem.values is not None
    gram, active = problem.gram, problem.active
    dtype = gram.norms.dtype
    matrix = jnp.where(jnp.isfinite(gram.matrix), gram.matrix, 0)
    losses = jnp.where(active, problem.values, 0).astype(dtype)
    shares, uneven, a = adjustments(losses, problem.preference.astype(dtype), active)
    c = product(matrix, a)
    balances = uneven > tolerance
    rising, worst = c > 0, shares == jnp.max(shares)
    controlled = jnp.where(rising, -jnp.inf, c)
    controlled = jnp.where(worst, 0, controlled)
    controlled = jnp.where(jnp.any(rising), controlled, 0)
    bounds = jnp.where(balances & active, controlled, 0)
    # One more row, which counts while it descends.
    last = jnp.where(balances, -jnp.inf, jnp.minimum(jnp.max(c), 0))
    cost = jnp.where(balances, c, jnp.sum(matrix, axis=0))
    # Weight that an absent objective takes must not pay.
    cost = jnp.where(active, cost, -1e3 * (1 + jnp.max(jnp.abs(cost))))
    rows = jnp.concatenate([matrix, c[None]])
    found, feasible = best_vertex(cost, rows, jnp.concatenate([bounds, last[None]]))
    safe, info = _least_norm(gram._replace(cosines=_finite(gram.cosines)), active, "qp")
    weights = jnp.where(active, jnp.where(feasible, found, safe), 0)
    return or_nan(weights, gram), info


def _finite(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(x), x, 0)
