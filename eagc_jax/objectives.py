"""The objective axis: making, checking, splitting and reducing ``(K, *shape)`` leaves.

Everything in this package agrees on one convention: the gradients of ``K`` objectives
are one pytree whose leaves have the objective axis first, ``(K, *param.shape)``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer
from jax.sharding import PartitionSpec

from eagc_jax.blocks import GLOBAL

# Above this many objectives a sum is one reduction; below it is unrolled, since XLA on
# CPU is several times slower when it reduces over the leading axis of a large array.
_UNROLL_LIMIT = 16


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


def reduce_objectives(operator: Callable, values: jax.Array) -> jax.Array:
    """Folds the objective axis (axis 0) of one array with a binary operator."""
    if values.shape[0] > _UNROLL_LIMIT and operator in (jnp.add, jnp.maximum):
        return operator.reduce(values, axis=0)
    return functools.reduce(operator, [values[k] for k in range(values.shape[0])])


def compute_dtype(dtype: Any) -> jnp.dtype:
    """The dtype sums are made in: at least float32, wider where the leaf is wider."""
    # NumPy's rule: JAX's own refuses under jax.numpy_dtype_promotion("strict").
    return np.promote_types(dtype, np.float32)


def expand_to(weights: jax.Array, ndim: int) -> jax.Array:
    """Appends axes to ``(K,)`` weights so that they broadcast over ``(K, ...)``."""
    return weights.reshape(weights.shape + (1,) * (ndim - weights.ndim))


def sum_by_row(function: Callable, *arrays: jax.Array) -> jax.Array:
    """``sum_k function(a[k], b[k], ...)`` of ``(K, ...)`` or ``(1, ...)`` of one rank."""
    if arrays[0].shape[0] > _UNROLL_LIMIT:
        return jnp.add.reduce(function(*arrays), axis=0)
    return functools.reduce(jnp.add, _by_row(function, arrays))


def stack_by_row(function: Callable, *arrays: jax.Array) -> jax.Array:
    """The same without the sum: ``(K, ...)``."""
    if arrays[0].shape[0] > _UNROLL_LIMIT:
        return function(*arrays)
    return jnp.stack(_by_row(function, arrays))


def _by_row(function: Callable, arrays: tuple[jax.Array, ...]) -> list[jax.Array]:
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
# Names and checks
# ---------------------------------------------------------------------------


def leaf_name(path: tuple[Any, ...]) -> str:
    """A leaf's path as text, ``"blocks/11/kernel"``; the same for arrays and Variables.

    ``nnx.Optimizer`` calls ``init`` with Variables, whose arrays sit one step deeper
    under ``.value``, and ``update`` with bare arrays. That last step is dropped.
    """
    if path and getattr(path[-1], "name", None) == "value":
        path = path[:-1]
    return jax.tree_util.keystr(path, simple=True, separator="/") or "params"


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their path, in tree order."""
    named: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = leaf_name(path)
        # {"a": {"b": ...}, "a/b": ...}: rare, but legal; nor may a leaf be called what
        # the one block at granularity "global" is.
        while name in named or name == GLOBAL:
            name += "'"
        named[name] = leaf
    return named


def named_specs(param_specs: Any) -> dict[str, PartitionSpec] | None:
    """A tree of ``PartitionSpec`` by leaf name; raises ValueError for another."""
    if param_specs is None:
        return None
    found = jax.tree_util.tree_leaves_with_path(
        param_specs, is_leaf=lambda node: isinstance(node, PartitionSpec)
    )
    for path, spec in found:
        if not isinstance(spec, PartitionSpec):
            raise ValueError(
                "param_specs must be a tree of jax.sharding.PartitionSpec like params; "
                f"leaf '{leaf_name(path)}' is {spec!r}."
            )
    return {leaf_name(path): spec for path, spec in found}


def concrete(value: Any) -> np.ndarray | None:
    """The value as NumPy, or None for a tracer (``inject_hyperparams``) or a schedule.

    Arguments are checked where they are numbers; a traced one can't be checked, and
    must not stop the program from being traced.
    """
    if value is None or callable(value) or isinstance(value, Tracer):
        return None
    return np.asarray(value)


def check_num_objectives(num_objectives: Any) -> int:
    """Returns ``num_objectives`` as an int of at least 1, or raises ValueError."""
    try:
        number = int(num_objectives)
    except (TypeError, ValueError, jax.errors.JAXTypeError) as error:
        raise ValueError(
            "num_objectives must be a Python int, since it fixes shapes; got "
            f"{num_objectives!r}. Under optax.inject_hyperparams, name it in "
            "static_args."
        ) from error
    if number != num_objectives or number < 1:
        raise ValueError(f"num_objectives must be an int >= 1, got {num_objectives!r}.")
    return number


def check_mask(active_mask: Any, number: int) -> jax.Array:
    """``active_mask`` as ``(K,)`` bool, all True for None."""
    if active_mask is None:
        return jnp.ones((number,), bool)
    mask = jnp.asarray(active_mask)
    if mask.shape != (number,):
        raise ValueError(
            f"active_mask must have one entry for each of the {number} objectives, got "
            f"shape {mask.shape}."
        )
    return mask.astype(bool)


def check_weights(weights: Any, num_objectives: int) -> jax.Array:
    """Loss weights as a ``(K,)`` float32 array; ones for None.

    Raises:
      ValueError: wrong length, or negative, or not finite, or all zero.
    """
    if weights is None:
        return jnp.ones((num_objectives,), jnp.float32)
    shape = np.shape(weights)
    if shape != (num_objectives,):
        raise ValueError(
            f"weights must have one entry for each of the {num_objectives} objectives, "
            f"shape ({num_objectives},); got shape {shape}."
        )
    known = concrete(weights)
    if known is not None and not (np.all(np.isfinite(known)) and np.all(known >= 0)):
        raise ValueError(f"weights must be finite and >= 0, got {known.tolist()}.")
    if known is not None and not np.any(known > 0):
        raise ValueError("weights must not all be zero: nothing would be trained.")
    return jnp.asarray(weights, jnp.float32)


def check_objective_axis(
    updates: Any, num_objectives: int | None, params: Any = None
) -> int:
    """Checks that every leaf is ``(K, *param.shape)``; returns K.

    Args:
      updates: per-objective updates.
      num_objectives: K, or None to take it from the first leaf.
      params: the parameters, or None where the caller has none.

    Returns:
      K; 1 for a tree without leaves where ``num_objectives`` is None.

    Raises:
      ValueError: names the leaf, what was found and what to do.
    """
    leaves = named_leaves(updates)
    for name, leaf in leaves.items():
        shape = np.shape(leaf)
        if num_objectives is None and shape:
            num_objectives = shape[0]
        if not shape or shape[0] != num_objectives:
            raise ValueError(
                f"leaf '{name}' has shape {shape}, but per-objective updates have the "
                f"objective axis first: ({num_objectives}, *param.shape). Get them from "
                "eagc_jax.value_and_grads or eagc_jax.stack_objectives, and put this "
                "transformation first in the chain, before anything that reduces."
            )
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise ValueError(
                f"leaf '{name}' has dtype {jnp.result_type(leaf)}; gradients are "
                "floating point. Partition integer parameters out before init."
            )
    if params is not None:
        _check_against_params(leaves, named_leaves(params))
    return 1 if num_objectives is None else num_objectives


def _check_against_params(leaves: dict[str, Any], params: dict[str, Any]) -> None:
    check_same_names(leaves, params, "updates", "params")
    for name, leaf in leaves.items():
        if np.shape(leaf)[1:] != np.shape(params[name]):
            raise ValueError(
                f"leaf '{name}' has shape {np.shape(leaf)}, expected "
                f"(K, *param.shape) = {(np.shape(leaf)[0], *np.shape(params[name]))}."
            )


def check_same_names(
    left: Mapping[str, Any], right: Mapping[str, Any], left_name: str, right_name: str
) -> None:
    """Raises ValueError where two trees don't have the same leaves."""
    missing = [name for name in right if name not in left]
    extra = [name for name in left if name not in right]
    if missing or extra:
        raise ValueError(
            f"{left_name} and {right_name} are different trees: {left_name} lacks "
            f"{missing[:5]} and has {extra[:5]} besides. Call init again with the tree "
            "that is trained."
        )


def check_same_shapes(
    found: Mapping[str, tuple[int, ...]],
    kept: Mapping[str, tuple[int, ...]],
    number: int,
) -> None:
    """Raises ValueError where blocks have other shapes than those in the state."""
    for name, shape in found.items():
        if shape != kept[name]:
            raise ValueError(
                f"leaf '{name}' gives blocks of shape {(number, *shape)}, but the state "
                f"holds {(number, *kept[name])}: init saw a parameter of another "
                "shape, or the leaf lacks its objective axis, (K, *param.shape)."
            )


# ---------------------------------------------------------------------------
# Stacking
# ---------------------------------------------------------------------------


def stack_objectives(trees: Sequence[Any] | Mapping[Hashable, Any]) -> Any:
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


def unstack_objectives(updates: Any, names: Sequence[Hashable] | None = None) -> Any:
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

    def update_fn(updates, state, params=None, **extra_args):
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
