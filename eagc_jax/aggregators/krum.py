"""Krum: the gradient that is closest to its neighbours."""

from __future__ import annotations

from typing import Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import check_num_objectives
from eagc_jax._shards import sum_leaves
from eagc_jax._trees import ratio, widened
from eagc_jax.aggregators import _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.gram import gram_of_tree, may_be_sharded, sum_over_blocks
from eagc_jax.typing import OptState, PyTree, Updates

# Pairs' entries in a block on CPU, where they are written and read in the cache.
_BLOCK_ENTRIES = 2**18
# Pairs whose squared distance is below this share of the longer's square are near: of
# the Gram matrix's digits, less than two are lost above it.
_NEAR = 1 / 64


@_direct.shows_options
def krum(
    num_objectives: int,
    *,
    byzantine: int | None = None,
    selected: int = 1,
    **options: Unpack[DirectOptions],
) -> optax.GradientTransformationExtraArgs:
    r"""Takes the gradients with the closest neighbours.

    With f the number of gradients that may be arbitrary, objective k's score is the sum
    of its :math:`K-f-2` smallest :math:`\|g_k-g_j\|^2`, :math:`j\ne k`; d is the mean of
    the m gradients with the smallest scores (m = 1 is Krum, more is Multi-Krum). Ties go
    to the first. Distances come from the Gram matrix, or, where two gradients are nearly
    equal, from differences: they are exact to a few 1e-5 everywhere.

    With fewer objectives active, K is their number, and one neighbour at least is used.
    Guarantee (paper): with :math:`K\ge2f+3`, an update within a bounded angle of the true
    gradient, if all honest gradients estimate the same one; made for workers rather than
    objectives, it ignores objectives that differ. Length: "convex". Cost: one
    Gram pass, one weighted sum (K + K read, 1 written, in copies of the parameters); one
    more pass where two gradients are nearly equal. Memory: none.

    Args:
      num_objectives: K, a Python int.
      byzantine: f >= 0 with K >= 2f + 3; None for the largest such, or 0.
      selected: m, from 1 to K.
      **options: ``preference`` (of the selected; it doesn't enter distances),
        ``rescale``, ``nonfinite``, as in :func:`eagc_jax.aggregators.dwa`.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``. State:
      :class:`DirectState`; ``weights`` says who was selected.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax.aggregators import krum
      >>> tx = krum(4)
      >>> grads = {"w": jnp.array([[1.0], [1.2], [1.3], [1e6]])}
      >>> tx.update(grads, tx.init({"w": jnp.zeros(1)}))[0]["w"]
      Array([1.2], dtype=float32)

    References:
      Blanchard et al., `Machine Learning with Adversaries
      <https://arxiv.org/abs/1703.02757>`_, 2017, section 4.
    """
    number = check_num_objectives(num_objectives)
    if byzantine is None:
        byzantine = max((number - 3) // 2, 0)
    elif not isinstance(byzantine, int) or byzantine < 0 or number < 2 * byzantine + 3:
        raise ValueError(
            f"byzantine must be an int f >= 0 with 2 f + 3 <= {number} objectives, got "
            f"{byzantine!r}."
        )
    if not isinstance(selected, int) or not 1 <= selected <= number:
        raise ValueError(f"selected must be an int in [1, {number}], got {selected!r}.")
    faulty, chosen = byzantine, selected

    def apply(step: _direct.Step, state: OptState) -> tuple[PyTree, OptState]:
        weights = krum_weights(step.seen, step.active, faulty, chosen)
        return weights, state

    method = _direct.Method("krum", "convex", lambda _: (), apply, look=_look)
    return _direct.from_method(num_objectives, method, **options)


def krum_weights(
    distances: jax.Array, active: jax.Array, byzantine: int, selected: int
) -> jax.Array:
    """Krum's weights from squared distances: 1/m for the selected.

    Args:
      distances: ``(K, K)``, squared, in any unit.
      active: ``(K,)`` bool.
      byzantine: f.
      selected: m.

    Returns:
      ``(K,)``.
    """
    number = distances.shape[0]
    others = active[:, None] & active[None, :] & ~jnp.eye(number, dtype=bool)
    ordered = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
    count = jnp.sum(active, dtype=jnp.int32)
    neighbours = jnp.clip(count - byzantine - 2, 1, jnp.maximum(count - 1, 0))
    near = jnp.arange(number, dtype=jnp.int32)[None, :] < neighbours
    scores = jnp.sum(jnp.where(near & jnp.isfinite(ordered), ordered, 0.0), axis=1)
    order = jnp.argsort(jnp.where(active, scores, jnp.inf))  # stable
    rank = jnp.argsort(order)
    taken = active & (rank < selected)
    share = 1 / jnp.maximum(jnp.sum(taken, dtype=jnp.int32), 1).astype(jnp.float32)
    return taken.astype(jnp.float32) * share


def _look(
    updates: Updates, mask: jax.Array, names: tuple[str, ...]
) -> tuple[jax.Array, jax.Array]:
    """Squared distances in a unit of their own, ``(K, K)``; who is finite, ``(K,)``."""
    gram, finite = gram_of_tree(updates, mask, names)
    norms = gram.norms
    low = jnp.minimum(norms[:, None], norms[None, :])
    high = jnp.maximum(norms[:, None], norms[None, :])
    lengths = ratio(low, high, 1.0)
    # Over the longer's square: near 0 what is left of the Gram matrix is rounding.
    relative = (1 - lengths) ** 2 + 2 * lengths * (1 - gram.cosines)
    pairs = np.triu(np.ones(norms.shape * 2, bool), 1)
    near = jnp.any(pairs & (high > 0) & (relative < _NEAR))
    distances = jax.lax.cond(
        near,
        lambda: squared_distances(updates, gram.scale, names),
        lambda: (relative * high**2).astype(jnp.float32),
    )
    return distances, finite


def squared_distances(
    updates: Updates, scale: jax.typing.ArrayLike = 1.0, names: tuple[str, ...] = ()
) -> jax.Array:
    """Squared distances of K gradients over ``scale`` squared: ``(K, K)`` float32.

    Of differences, not from a Gram matrix: they are exact where gradients nearly agree.
    Those of objectives with a NaN are NaN.
    """
    scale = jnp.asarray(scale)
    scale = jnp.where(scale > 0, scale, 1)
    leaves = jax.tree.leaves(updates)
    found = [_leaf_distances(leaf, scale).astype(jnp.float32) for leaf in leaves]
    return sum_leaves(found, leaves, names)


def _leaf_distances(leaf: jax.Array, scale: jax.Array) -> jax.Array:
    """One leaf's squared distances, over ``scale`` squared, ``(K, K)``."""
    number = leaf.shape[0]

    def of_pairs(part):
        wide = widened(part)
        wide = wide / scale.astype(wide.dtype)
        axes = tuple(range(2, part.ndim + 1))
        return jnp.sum(jnp.abs(wide[:, None] - wide[None]) ** 2, axis=axes)

    columns = max(_BLOCK_ENTRIES // number**2, 1)
    if may_be_sharded(leaf) or leaf.size <= number * columns:
        return of_pairs(leaf)
    flat = (number, leaf.size // number)
    return jax.lax.platform_dependent(
        leaf,
        cpu=lambda leaf: sum_over_blocks([leaf], [flat], columns, of_pairs),
        default=of_pairs,
    )
