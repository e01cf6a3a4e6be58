"""UPGrad: the mean of the gradients, each projected on the cone of no conflict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import optax

from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._weighting import Problem, problem_of, stateless, unscale
from eagc_jax.solvers.nnqp import SolveInfo
from eagc_jax.solvers.nnqp_many import nnqp_many


@shows_options
def upgrad(
    num_objectives: int, **options: Unpack[GramOptions]
) -> optax.GradientTransformationExtraArgs:
    r"""Projects each gradient on the dual cone, then averages.

    With :math:`\mathcal C = \{d : \langle g_k, d\rangle \ge 0 \text{ for all } k\}` and
    the preference u (normalised to sum 1),

    .. math:: d = \sum_i u_i \, \Pi_{\mathcal C}(g_i).

    Guarantee: conflicts with no objective. Weights are >= 0; without conflict the update
    is the u-weighted mean; it is linear under rescaling of the objectives. Length:
    "mean". Cost: one Gram pass, K problems of K variables, one weighted sum.

    Args:
      num_objectives: K, a Python int.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; ``preference`` is u.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import upgrad
      >>> tx = upgrad(2)
      >>> grads = {"w": jnp.array([[1.0, 0.0], [-1.0, 1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4)
      Array([0.25, 0.75], dtype=float32)

    References:
      Quinton and Rey, `Jacobian Descent for Multi-Objective Optimization
      <https://arxiv.org/abs/2406.16232>`_, 2024.
    """
    return from_weighting(
        num_objectives, stateless("upgrad", "mean", _solve), **options
    )


def upgrad_weights(
    gram: jax.typing.ArrayLike,
    *,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """UPGrad's weights from a ``(K, K)`` Gram matrix: see :func:`upgrad`."""
    return _solve(problem_of(gram, preference))[0]


def _solve(problem: Problem) -> tuple[jax.Array, SolveInfo]:
    """The cone doesn't know the norms: K projections of unit gradients, all alike."""
    cosines, norms = problem.gram.cosines, problem.gram.norms
    added, info = nnqp_many(cosines, -cosines)
    projections = jnp.eye(norms.shape[0], dtype=norms.dtype) + added
    lengths = jnp.sum((problem.preference * norms)[:, None] * projections, axis=0)
    weights = unscale(lengths, norms, problem.preference)
    return weights, info
