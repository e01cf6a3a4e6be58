"""Krum: the gradient that is closest to its neighbours."""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._shards import sum_leaves
from eagc_jax.aggregators import _arithmetic, _direct
from eagc_jax.aggregators._direct import DirectOptions
from eagc_jax.gram import may_be_sharded, sum_over_blocks

# Columns of a block on CPU: its pairs of rows are reduced one by one, out of the cache.
_BLOCK_COLUMNS = 2**15
_UNROLLED = 16  # beyond so many objectives, K^2 reductions take long to compile


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
    to the first. Distances are of differences, not from the Gram matrix: they are exact
    also where gradients are nearly equal.

    With fewer objectives active, K is their number, and one neighbour at least is used.
    Guarantee (paper): with :math:`K\ge2f+3`, an update within a bounded angle of the true
    gradient, if all honest gradients estimate the same one; made for workers rather than
    objectives, it ignores objectives that differ. Length: "convex". Cost: one pass for
    the distances, one weighted sum. Memory: none.

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
      >>> from eagc_jax._shards import sum_leaves
    from eagc_jax.aggregators import krum
      >>> tx = krum(4)
      >>> grads = {"w": jnp.array([[1.0], [1.2], [1.3], [1e6]])}
      >>> tx.update(grads, tx.init({"w": jnp.zeros(1)}))[0]["w"]
      Array([1.2], dtype=float32)

    References:
      Blanchard et al., `Machine Learning with Adversaries
      <https://arxiv.org/abs/1703.02757>`_, 2017, section 4.
    """
    number = _direct.check_num_objectives(num_objectives)
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

    def apply(step, state):
        distances = squared_distances(step.unmasked, step.largest, step.names)
        weights = krum_weights(distances, step.active, faulty, chosen)
        return weights, state

    method = _direct.Method("krum", "convex", lambda params: (), apply)
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
    near = jnp.arange(number)[None, :] < neighbours
    scores = jnp.sum(jnp.where(near & jnp.isfinite(ordered), ordered, 0.0), axis=1)
    order = jnp.argsort(jnp.where(active, scores, jnp.inf))  # stable
    rank = jnp.argsort(order)
    taken = active & (rank < selected)
    return taken / jnp.maximum(jnp.sum(taken, dtype=jnp.int32), 1).astype(jnp.float32)


def squared_distances(
    updates: Any, largest: jax.Array | None = None, names: tuple[str, ...] = ()
) -> jax.Array:
    """Squared distances of K gradients, over the largest entry squared: ``(K, K)``.

    Of differences, not from a Gram matrix: they are exact where gradients nearly agree.
    Those of objectives that aren't active may be NaN.

    Args:
      updates: leaves ``(K, *shape)``.
      largest: ``(K,)``, the largest entry of each, 0 of one that isn't active; or None.
      names: inside ``shard_map``, the mesh axes over which leaves may be split.
    """
    leaves = jax.tree.leaves(updates)
    number = leaves[0].shape[0]
    if largest is None:
        largest = _arithmetic.largest_of_tree(updates, names)
    top = jnp.max(largest)
    top = jnp.where(top > 0, top, 1.0)
    found = [_leaf_distances(leaf, top).astype(jnp.float32) for leaf in leaves]
    rows, columns = np.triu_indices(number, 1)
    upper = jnp.zeros((number, number), jnp.float32)
    upper = upper.at[rows, columns].set(sum_leaves(found, leaves, names))
    return upper + upper.T


def _leaf_distances(leaf: jax.Array, top: jax.Array) -> jax.Array:
    """One leaf's squared distances, over ``top`` squared, of all pairs k < l in order."""
    number = leaf.shape[0]

    def of_pairs(part):
        wide = _arithmetic.widened(part)
        wide = wide / top.astype(wide.dtype)
        if number > _UNROLLED:
            axes = tuple(range(1, part.ndim))
            found = jax.lax.map(
                lambda row: jnp.sum(jnp.abs(wide - row) ** 2, axis=axes), wide
            )
            return found[np.triu_indices(number, 1)]
        found = [
            jnp.sum(jnp.abs(wide[k] - wide[m]) ** 2)
            for k in range(number)
            for m in range(k + 1, number)
        ]
        return jnp.stack(found) if found else jnp.zeros((0,), jnp.float32)

    if may_be_sharded(leaf) or not leaf.size:
        return of_pairs(leaf)
    flat = (number, leaf.size // number)
    return jax.lax.platform_dependent(
        leaf,
        cpu=lambda leaf: sum_over_blocks(leaf, flat, _BLOCK_COLUMNS, of_pairs),
        default=of_pairs,
    )
