"""Statistics of leaves that ``jax.shard_map`` has split over devices.

Under ``jit`` the compiler sums over devices where a leaf is sharded, and nothing here has
to be called. Inside ``shard_map`` a leaf is one device's part: sums and maxima over its
entries must be reduced over the mesh axes that split it. A leaf's type tells which these
are, the axes over which it is *varying* (``shard_map(check_vma=True)``, the default,
keeps track of it): a leaf that is the same on all devices is counted once.

What is reduced are numerators and denominators, never a result of a division.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax.typing import Params, PyTree, Updates

# None, the name of a mesh axis, or several.
AxisName = str | Sequence[str] | None


def check_axis_name(axis_name: AxisName) -> tuple[str, ...]:
    """``axis_name`` as a tuple of names; raises ValueError for anything else."""
    if axis_name is None:
        return ()
    names = (axis_name,) if isinstance(axis_name, str) else axis_name
    if not isinstance(names, Sequence) or not all(isinstance(n, str) for n in names):
        raise ValueError(
            "axis_name must be the name of a mesh axis of the surrounding jax.shard_map, "
            f"a sequence of names, or None; got {axis_name!r}."
        )
    if len(set(names)) != len(names):
        raise ValueError(f"axis_name names an axis twice: {axis_name!r}.")
    return tuple(names)


def split_over(leaf: jax.Array, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those of the axes over which this leaf is split.

    Raises:
      ValueError: an axis that no surrounding ``shard_map`` has, or one that doesn't keep
        track of what is split.
    """
    for name in names:
        try:
            index = jax.lax.axis_index(name)
        except NameError as error:
            raise ValueError(
                f"axis_name names the axis {name!r}, but no jax.shard_map around this "
                "call has it. Leave axis_name out under jit, where the compiler reduces."
            ) from error
        if name not in varying_over(index):
            raise ValueError(
                f"axis_name={name!r} needs jax.shard_map(check_vma=True), the default: "
                "without it a leaf doesn't tell over which axes it is split."
            )
    return tuple(name for name in names if name in varying_over(leaf))


def varying_over(leaf: jax.Array) -> frozenset[str]:
    """The manual mesh axes over whose devices the leaf differs."""
    kind = jax.typeof(leaf)
    if hasattr(kind, "manual_axis_type"):
        return frozenset(kind.manual_axis_type.varying)
    return frozenset(getattr(kind, "vma", ()))  # what other versions of JAX call it


def sum_leaves(
    parts: Sequence[jax.Array], leaves: Sequence[jax.Array], names: tuple[str, ...]
) -> jax.Array:
    """The sum of one statistic a leaf, over the devices that hold parts of it too.

    Args:
      parts: one array a leaf, all of one shape.
      leaves: the leaves they were computed from.
      names: as :func:`check_axis_name` returns them.

    Returns:
      An array of that shape, the same on all devices; one ``psum`` for all leaves split
      alike.
    """
    return _by_split(alike(parts), leaves, names, jnp.add, jax.lax.psum)


def max_leaves(
    parts: Sequence[jax.Array], leaves: Sequence[jax.Array], names: tuple[str, ...]
) -> jax.Array:
    """The largest of one statistic a leaf, as :func:`sum_leaves`."""
    return _by_split(parts, leaves, names, jnp.maximum, jax.lax.pmax)


def all_finite(tree: PyTree, names: tuple[str, ...] = ()) -> jax.Array:
    """Whether no entry is NaN or infinite: a bool scalar.

    Args:
      tree: of arrays.
      names: inside ``shard_map``, the mesh axes over which leaves may be split.
    """
    leaves = jax.tree.leaves(tree)
    if not leaves:
        return jnp.ones([], bool)
    bad = [jnp.any(~jnp.isfinite(leaf)).astype(jnp.int32) for leaf in leaves]
    return max_leaves(bad, leaves, names) == 0


def max_each(
    parts: dict[str, jax.Array], leaves: dict[str, jax.Array], names: tuple[str, ...]
) -> dict[str, jax.Array]:
    """The largest over devices of one statistic for each leaf, all of one shape.

    Returns:
      As ``parts``, the same on all devices; one ``pmax`` for all leaves split alike.
    """
    alike: dict[tuple[str, ...], list[str]] = {}
    for name in parts if names else ():
        alike.setdefault(split_over(leaves[name], names), []).append(name)
    alike.pop((), None)
    found = dict(parts)
    for split, members in alike.items():
        together = jnp.stack([parts[name] for name in members])
        reduced = jax.lax.pmax(together, split)
        found |= {name: reduced[index] for index, name in enumerate(members)}
    return found


def check_averaged(updates: Updates, params: Params, names: tuple[str, ...]) -> None:
    """Raises ValueError where gradients differ over devices that share a parameter."""
    if not names or params is None:
        return
    pairs = zip(jax.tree.leaves(updates), jax.tree.leaves(params), strict=True)
    for update, param in pairs:
        alone = varying_over(update) - varying_over(param)
        missing = tuple(name for name in names if name in alone)
        if missing:
            raise ValueError(
                f"per-objective gradients differ over the mesh axes {missing}, over "
                "which their parameters are the same: average them first, "
                f"jax.lax.pmean(gradients, {missing}). Coordination is not linear: "
                "averaging its results is something else."
            )


def alike(parts: Sequence[jax.Array]) -> list[jax.Array]:
    """The same in the widest of their dtypes: leaves may be of several."""
    dtype = functools.reduce(np.promote_types, [part.dtype for part in parts])
    return [part.astype(dtype) for part in parts]


def _by_split(
    parts: Sequence[jax.Array],
    leaves: Sequence[jax.Array],
    names: tuple[str, ...],
    combine: Callable[[jax.Array, jax.Array], jax.Array],
    collective: Callable[[jax.Array, tuple[str, ...]], jax.Array],
) -> jax.Array:
    if not names:
        total = parts[0]
        for part in parts[1:]:
            total = combine(total, part)
        return total
    groups: dict[tuple[str, ...], jax.Array] = {}
    for part, leaf in zip(parts, leaves, strict=True):
        split = split_over(leaf, names)
        groups[split] = combine(groups[split], part) if split in groups else part
    reduced = [collective(v, s) if s else v for s, v in groups.items()]
    return _by_split(reduced, (), (), combine, collective)


def vary_like(value: jax.Array, *others: jax.Array) -> jax.Array:
    """The value, typed as split over the axes that the others are split over.

    A loop's carry must have one type: zeros to which parts of a split leaf are added.
    """
    wanted = frozenset().union(*(varying_over(other) for other in others))
    missing = tuple(sorted(wanted - varying_over(value)))
    return jax.lax.pcast(value, missing, to="varying") if missing else value
