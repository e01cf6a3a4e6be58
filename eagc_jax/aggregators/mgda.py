"""MGDA: the point of least norm in the convex hull of the gradients."""

from __future__ import annotations

from typing import Literal, Unpack, get_args

import jax
import jax.numpy as jnp
import optax

from eagc_jax._checks import check_choice
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._weighting import Problem, problem_of, stateless
from eagc_jax.gram import Gram
from eagc_jax.solvers.nnqp import SolveInfo, nnqp
from eagc_jax.solvers.simplex import frank_wolfe

Normalizer = Literal["none", "l2", "loss", "loss+"]
NORMALIZERS: tuple[Normalizer, ...] = get_args(Normalizer)
Solver = Literal["qp", "frank_wolfe"]
SOLVERS: tuple[Solver, ...] = get_args(Solver)


@shows_options
def mgda(
    num_objectives: int,
    *,
    normalizer: Normalizer = "none",
    solver: Solver = "qp",
    **options: Unpack[GramOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""The update of least norm among the convex combinations of the gradients.

    .. math:: w = \arg\min_{w \ge 0, \sum_k w_k = 1} \Big\| \sum_k w_k g_k \Big\|^2.

    Guarantee: :math:`\langle g_k, d\rangle \ge \|d\|^2` for every k, so it conflicts
    with none, and it is 0 exactly where the gradients are Pareto stationary. It favours
    small gradients; one that is zero stops everything. Length: "convex". Cost: one Gram
    pass, one problem of K variables, one weighted sum.

    Args:
      num_objectives: K, a Python int.
      normalizer: what the gradients are divided by first: "none", "l2" (their norms),
        "loss" (``value=``, the losses, > 0), "loss+" (both). The update is of the
        normalised gradients.
      solver: "qp" (exact to rounding), or "frank_wolfe" (at most 100 steps, as other
        implementations do; up to several per cent off).
      **options: as in :func:`eagc_jax.aggregators.from_weighting`. The preference is the
        reciprocal of a normaliser: gradients are multiplied by ``K u_k`` first.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit, or no ``value`` where
        losses are needed (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import mgda
      >>> tx = mgda(2)
      >>> grads = {"w": jnp.array([[1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(4)}))
      >>> update["w"].round(4)
      Array([0.25, 0.25, 0.25, 0.75], dtype=float32)

    References:
      Desideri, "Multiple-gradient descent algorithm", C. R. Acad. Sci. 350, 2012; Sener
      and Koltun, `Multi-Task Learning as Multi-Objective Optimization
      <https://arxiv.org/abs/1810.04650>`_, 2018.
    """
    _check(normalizer, solver)
    method = stateless(
        "mgda",
        "convex" if normalizer == "none" else "unit",
        lambda problem: _solve(problem, normalizer, solver),
        needs_values=normalizer.startswith("loss"),
    )
    return from_weighting(num_objectives, method, **options)


def mgda_weights(
    gram: jax.typing.ArrayLike,
    *,
    normalizer: Normalizer = "none",
    solver: Solver = "qp",
    losses: jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """MGDA's weights from a ``(K, K)`` Gram matrix: see :func:`mgda`.

    Args:
      gram: ``(K, K)``.
      normalizer: "none", "l2", "loss" or "loss+".
      solver: "qp" or "frank_wolfe".
      losses: ``(K,)``, for the last two normalisers.

    Returns:
      ``(K,)``.
    """
    _check(normalizer, solver)
    if losses is None and normalizer.startswith("loss"):
        raise ValueError(f"normalizer {normalizer!r} needs losses, shape (K,).")
    return _solve(problem_of(gram, values=losses), normalizer, solver)[0]


def _solve(
    problem: Problem, normalizer: Normalizer, solver: Solver
) -> tuple[jax.Array, SolveInfo]:
    gram = problem.gram
    number = jnp.sum(problem.active, dtype=jnp.int32).astype(gram.norms.dtype)
    factor = problem.preference * number
    lengths = gram.norms * factor
    if normalizer in ("l2", "loss+"):
        norms = gram.norms * gram.scale
        factor = factor / jnp.where(norms > 0, norms, 1.0)
        lengths = jnp.where(gram.norms > 0, problem.preference * number, 0.0)
    if normalizer in ("loss", "loss+"):
        assert problem.values is not None
        losses = jnp.where(problem.active, problem.values, 1.0)
        factor, lengths = factor / losses, lengths / losses
    largest = jnp.max(lengths)
    lengths = lengths / jnp.where(largest > 0, largest, 1.0)
    weights, info = _least_norm(gram._replace(norms=lengths), problem.active, solver)
    return weights * factor, info


def _least_norm(
    gram: Gram, active: jax.Array, solver: Solver
) -> tuple[jax.Array, SolveInfo]:
    """Weights in the simplex. A zero gradient is a minimum by itself."""
    if solver == "frank_wolfe":
        inactive = jnp.where(active, 0.0, 2.0).astype(gram.norms.dtype)
        weights, info = frank_wolfe(gram.matrix + jnp.diag(inactive))
        return jnp.where(active, weights, 0.0), info
    positive = gram.norms > 0
    zero = active & ~positive
    # In z = norms * x: minimise z'Cz / 2 - z' (1 / norms), then w = x / sum(x). Relative
    # to the smallest norm the right side lies in [0, 1].
    smallest = jnp.min(jnp.where(positive, gram.norms, jnp.inf))
    inverse = jnp.where(positive, smallest / gram.norms, 0.0)
    z, info = nnqp(gram.cosines, inverse)
    x = z * inverse
    total = jnp.sum(x)
    number = jnp.maximum(jnp.sum(zero, dtype=jnp.int32), 1).astype(x.dtype)
    inner = x / jnp.where(total > 0, total, 1.0)
    return jnp.where(jnp.any(zero), zero.astype(x.dtype) / number, inner), info


def _check(normalizer: Normalizer, solver: Solver) -> None:
    check_choice("normalizer", normalizer, NORMALIZERS)
    check_choice("solver", solver, SOLVERS)
