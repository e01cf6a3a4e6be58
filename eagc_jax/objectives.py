"""The objective axis: making, splitting and reducing ``(K, *shape)`` leaves.

Everything in this package agrees on one convention: the gradients of ``K`` objectives
are one pytree whose leaves have the objective axis first, ``(K, *param.shape)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax._checks import check_objective_axis, check_same_names, check_weights
from eagc_jax._trees import compute_dtype, named_leaves
from eagc_jax.typing import Inputs, OptState, Params, PyTree, Updates

# Above this many objectives a sum is one reduction; below it is unrolled, since XLA on
# CPU is several times slower when it reduces over the leading axis of a large array.
_UNROLL_LIMIT = 16
# Rows of vectors, up to so many entries, are reduced at once: the TPU's compiler lays a
# row of them out in another way than the vector that it becomes, and makes two programs.
_SMALL = 2**16


class AssessedUpdates(NamedTuple):
    """Per-objective updates on their way from ``assess_energy`` to ``soft_gate``.

    Energies cannot travel through ``optax.chain`` beside the updates, so they travel
    with them: this is what the first stage returns and the second one takes.
    ``sum_objectives`` takes it too. Any other transformation in between would treat the
    energies as gradients: put it before ``assess_energy`` or after ``soft_gate``.
    """

    updates: optax.Updates  # leaves (K, *param.shape), the leaf's own dtype.
    # The next two by group of blocks: the pool "*" (K, blocks) of all leaves, leaves by
    # themselves where every entry is a block, or "global" (K, 1).
    log_energies: dict[str, jax.Array]  # float32.
    active: dict[str, jax.Array]  # bool: which objectives take part.
    factor: jax.Array  # shape=(), float32: 1, or NaN where one is to be propagated.
    advance: jax.Array  # shape=(), bool: whether states may change in this step.


# ---------------------------------------------------------------------------
# Reductions over the objective axis
# ---------------------------------------------------------------------------


def reduce_objectives(
    operator: Callable[..., jax.Array], values: jax.Array
) -> jax.Array:
    """Folds the objective axis (axis 0) of one array with a binary operator."""
    if values.shape[0] > _UNROLL_LIMIT and operator in (jnp.add, jnp.maximum):
        return operator.reduce(values, axis=0)
    return functools.reduce(operator, [values[k] for k in range(values.shape[0])])


def expand_to(weights: jax.Array, ndim: int) -> jax.Array:
    """Appends axes to ``(K,)`` weights so that they broadcast over ``(K, ...)``."""
    return weights.reshape(weights.shape + (1,) * (ndim - weights.ndim))


def sum_by_row(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """``sum_k function(a[k], b[k], ...)`` of ``(K, ...)`` or ``(1, ...)`` of one rank."""
    if _at_once(arrays[0]):
        return jnp.add.reduce(function(*arrays), axis=0)
    return functools.reduce(jnp.add, _by_row(function, arrays))


def stack_by_row(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """The same without the sum: ``(K, ...)``."""
    if _at_once(arrays[0]):
        return function(*arrays)
    return jnp.stack(_by_row(function, arrays))


def _at_once(array: jax.Array) -> bool:
    small = array.ndim == 2 and array.size <= _SMALL
    return small or array.shape[0] > _UNROLL_LIMIT


def _by_row(
    function: Callable[..., jax.Array], arrays: tuple[jax.Array, ...]
) -> list[jax.Array]:
    number = arrays[0].shape[0]
    return [
        function(*[a[k if a.shape[0] > 1 else 0] for a in arrays])
        for k in range(number)
    ]


def weighted_sum(leaf: jax.Array, weights: jax.Array | None) -> jax.Array:
    """``sum_k weights[k] * leaf[k]`` in at least float32; the leaf's shape less K."""
    wide = compute_dtype(leaf.dtype)
    if weights is None:
        return sum_by_row(lambda row: row.astype(wide), leaf)
    spread = expand_to(weights, leaf.ndim).astype(wide)
    return sum_by_row(lambda row, weight: row.astype(wide) * weight, leaf, spread)


def largest_entries(leaf: jax.Array) -> jax.Array:
    """The largest magnitude in each row of ``(K, *shape)``, ``(K,)``; NaN if one is."""
    return jnp.max(jnp.abs(leaf), axis=tuple(range(1, leaf.ndim)), initial=0.0)


def finite_rows(leaf: jax.Array) -> jax.Array:
    """``(K,)`` bool: whose entries of ``(K, *shape)`` hold no NaN and no infinity."""
    # On CPU twice as quick as asking every entry; and methods need the largest, too.
    return jnp.isfinite(largest_entries(leaf))


# ---------------------------------------------------------------------------
# Stacking
# ---------------------------------------------------------------------------


def stack_objectives(trees: Sequence[PyTree] | Mapping[Hashable, PyTree]) -> PyTree:
    """Stacks one tree per objective into one tree with leaves ``(K, *shape)``.

    Args:
      trees: a sequence of K trees, or a mapping from objective names to trees. A
        mapping is stacked in the order in which JAX flattens it: a dict by name.

    Returns:
      A tree like each of them, leaves stacked along a new axis 0.

    Raises:
      ValueError: no tree, or trees whose structure or shapes differ.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import stack_objectives
      >>> stack_objectives([{"w": jnp.zeros(3)}, {"w": jnp.ones(3)}])["w"].shape
      (2, 3)
    """
    if isinstance(trees, Mapping):
        # One level down, as JAX flattens it: a dict by name, an OrderedDict as it is.
        trees = jax.tree.leaves(trees, is_leaf=lambda node: node is not trees)
    trees = list(trees)
    if not trees:
        raise ValueError("stack_objectives needs at least one tree, got none.")
    first = named_leaves(trees[0])
    structure = jax.tree.structure(trees[0])
    for index, tree in enumerate(trees[1:], start=1):
        leaves = named_leaves(tree)
        check_same_names(leaves, first, f"trees[{index}]", "trees[0]")
        for name, leaf in leaves.items():
            if np.shape(leaf) != np.shape(first[name]):
                raise ValueError(
                    f"leaf '{name}' has shape {np.shape(leaf)} in trees[{index}] and "
                    f"{np.shape(first[name])} in trees[0]; they must be equal."
                )
        if jax.tree.structure(tree) != structure:
            raise ValueError(
                f"trees[{index}] has another structure than trees[0]: "
                f"{jax.tree.structure(tree)} against {structure}."
            )
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def unstack_objectives(
    updates: Updates, names: Sequence[Hashable] | None = None
) -> PyTree:
    """Splits leaves ``(K, *shape)`` into K trees: the inverse of stacking.

    Args:
      updates: per-objective updates, leaves ``(K, *shape)``.
      names: K objective names, for a dict of trees. A dict given to
        ``stack_objectives`` comes back from ``names=sorted(that_dict)``.

    Returns:
      A tuple of K trees, or a dict from name to tree.

    Raises:
      ValueError: leaves that disagree on K, or a number of names other than K.

    Examples:
      >>> import jax.numpy as jnp
      >>> from eagc_jax import unstack_objectives
      >>> first, second = unstack_objectives({"w": jnp.ones((2, 3))})
      >>> first["w"].shape
      (3,)
      >>> sorted(unstack_objectives({"w": jnp.ones((2, 3))}, names=("a", "b")))
      ['a', 'b']
    """
    if not jax.tree.leaves(updates):
        raise ValueError("unstack_objectives needs a tree with at least one leaf.")
    number = check_objective_axis(updates, None)
    trees = tuple(
        jax.tree.map(lambda leaf, k=k: leaf[k], updates) for k in range(number)
    )
    if names is None:
        return trees
    if len(names) != number:
        raise ValueError(f"names has {len(names)} entries for {number} objectives.")
    return dict(zip(names, trees, strict=True))


def sum_objectives(
    weights: Sequence[float] | jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Reduces per-objective updates to one: :math:`\sum_k w_k g_k`.

    The plain baseline, and the last stage of :func:`eagc_jax.eagc`. After it everything
    is ordinary Optax. Sums are made in float32 or wider; leaves keep their dtype.

    Args:
      weights: K loss weights, finite and >= 0, or None for ones. Behind
        :func:`eagc_jax.soft_gate`, which applies the loss weights itself, leave it None.

    Returns:
      A transformation from leaves ``(K, *shape)`` to leaves ``(*shape)``.

    Raises:
      ValueError: weights that are negative, not finite or all zero (at once); of another
        length than K, or leaves without a common objective axis (when traced).

    Examples:
      >>> import jax.numpy as jnp, optax
      >>> from eagc_jax import sum_objectives
      >>> tx = optax.chain(sum_objectives(weights=(1.0, 2.0)), optax.sgd(0.1))
      >>> params = {"w": jnp.zeros(2)}
      >>> grads = {"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}
      >>> tx.update(grads, tx.init(params), params)[0]["w"]
      Array([-0.1, -0.2], dtype=float32)
    """
    if weights is not None:
        weights = check_weights(weights, int(np.size(weights)))

    def update_fn(
        updates: Updates, state: OptState, params: Params = None, **extra_args: Inputs
    ) -> tuple[Updates, OptState]:
        del extra_args
        factor = None
        if isinstance(updates, AssessedUpdates):  # without a gate, which applies it
            updates, factor = updates.updates, updates.factor
        number = check_objective_axis(updates, None, params)
        if weights is not None and jax.tree.leaves(updates):
            check_weights(weights, number)

        def reduce(leaf):
            total = weighted_sum(leaf, weights)
            total = total if factor is None else total * factor.astype(total.dtype)
            return total.astype(leaf.dtype)

        return jax.tree.map(reduce, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update_fn)
