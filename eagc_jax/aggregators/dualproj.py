"""DualProj: the mean gradient projected on the cone of no conflict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import optax

from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._weighting import Problem, problem_of, stateless, unscale
from eagc_jax.solvers import two_float
from eagc_jax.solvers.nnqp import SolveInfo, nnqp


@shows_options
def dualproj(
    num_objectives: int, **options: Unpack[GramOptions]
) -> optax.GradientTransformationExtraArgs:
    r"""Projects the preference-weighted mean on the dual cone of the gradients.

    With :math:`\mathcal C = \{d : \langle g_k, d\rangle \ge 0 \text{ for all } k\}` and
    the preference u (normalised to sum 1), :math:`d = \Pi_{\mathcal C}(\sum_i u_i g_i)`:
    the nearest update to the mean that conflicts with no objective. Weights are at least
    u. Length: "mean". Cost: one Gram pass, one problem of K variables, one weighted sum.

    Args:
      num_objectives: K, a Python int.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; ``preference`` is u.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import dualproj
      >>> tx = dualproj(2)
      >>> grads = {"w": jnp.array([[1.0, 1.0], [-3.0, -1.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4)
      Array([-0.5,  0.5], dtype=float32)

    References:
      Lopez-Paz and Ranzato, `Gradient Episodic Memory
      <https://arxiv.org/abs/1706.08840>`_, 2017, eq. 11; Quinton and Rey,
      `Jacobian Descent <https://arxiv.org/abs/2406.16232>`_, 2024.
    """
    method = stateless("dualproj", "mean", _solve)
    return from_weighting(num_objectives, method, **options)


def dualproj_weights(
    gram: jax.typing.ArrayLike,
    *,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """DualProj's weights from a ``(K, K)`` Gram matrix: see :func:`dualproj`."""
    return _solve(problem_of(gram, preference))[0]


def _solve(problem: Problem) -> tuple[jax.Array, SolveInfo]:
    cosines, norms = problem.gram.cosines, problem.gram.norms
    lengths = problem.preference * norms
    # Rounded, they would not fit a singular matrix, and the solution would magnify that.
    slopes = two_float.product(cosines, lengths)
    added, info = nnqp(cosines, two_float.negative(slopes))
    weights = problem.preference + unscale(added, norms)
    return weights, info
