"""A-GEM: as GEM, with the mean of the memories as the only constraint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import check_index
from eagc_jax.aggregators._base import GramOptions, from_weighting, shows_options
from eagc_jax.aggregators._current import reads_current, split_roles
from eagc_jax.aggregators._unit_rows import or_nan, product, rounding
from eagc_jax.aggregators._weighting import Problem, Weighting, problem_of, share
from eagc_jax.solvers.nnqp import SolveInfo, no_solve
from eagc_jax.typing import OptState


@shows_options
def a_gem(
    num_objectives: int, *, current: int = 0, **options: Unpack[GramOptions]
) -> optax.GradientTransformationExtraArgs:
    r"""Averaged GEM: the current gradient, projected off the memories' mean.

    One objective c is learnt; the others are losses on stored examples of what was
    learnt before, with mean gradient :math:`r = \sum_m u_m g_m` (the preference u of
    the memories, normalised to sum 1). In the paper there is one, on a batch of all
    memories.

    .. math:: d = g_c - \frac{\min(\langle g_c, r \rangle, 0)}{\|r\|^2} \, r.

    Guarantee: no conflict with r, :math:`\langle g_c, d \rangle \ge 0`; single memories
    may conflict. One-sided PCGrad for K = 2. Length: "convex" (of the one gradient).
    Cost: one Gram pass, one weighted sum.

    Args:
      num_objectives: K, a Python int: the current objective and its memories.
      current: the index c. ``update(..., current=index)`` overrides it, also with an
        index that is traced.
      **options: as in :func:`eagc_jax.aggregators.from_weighting`; the preference's
        entry for the current objective is ignored.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import a_gem
      >>> tx = a_gem(2)
      >>> grads = {"w": jnp.array([[1.0, 1.0], [-2.0, 0.0]])}
      >>> update, state = tx.update(grads, tx.init({"w": jnp.zeros(2)}))
      >>> update["w"].round(4)
      Array([0., 1.], dtype=float32)

    References:
      Chaudhry et al., `Efficient Lifelong Learning with A-GEM
      <https://arxiv.org/abs/1812.00420>`_, 2019, equation 11.
    """
    check_index("current", current, num_objectives)

    def apply(
        problem: Problem, state: OptState
    ) -> tuple[jax.Array, OptState, SolveInfo]:
        assert problem.current is not None
        return _solve(problem, problem.current), state, no_solve()

    reads = reads_current(num_objectives, current)
    method = Weighting("a_gem", "convex", apply, reads=reads)
    return from_weighting(num_objectives, method, **options)


def a_gem_weights(
    gram: jax.typing.ArrayLike,
    *,
    current: jax.typing.ArrayLike = 0,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> jax.Array:
    """A-GEM's weights from a ``(K, K)`` Gram matrix: see :func:`a_gem`."""
    check_index("current", current, np.shape(gram)[0])
    return _solve(problem_of(gram, preference), jnp.asarray(current))


def _solve(problem: Problem, current: jax.Array) -> jax.Array:
    gram = problem.gram
    is_current, memory = split_roles(problem, current)
    mean = share(problem.preference, memory)
    reference = mean * gram.norms  # r on the unit gradients
    slopes = product(gram.cosines, reference)
    squared = jnp.sum(reference * slopes)
    along = jnp.sum(jnp.where(is_current, gram.norms * slopes, 0))
    # A mean of memories that cancel has no direction.
    usable = squared > rounding(mean.dtype) * jnp.sum(reference) ** 2
    factor = jnp.where(usable, jnp.minimum(along, 0) / jnp.where(usable, squared, 1), 0)
    return or_nan(jnp.where(is_current, 1, -factor * mean), gram)
