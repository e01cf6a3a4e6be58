"""Granularity: which entries of a leaf are assessed and gated together.

A *block* is what shares one energy and one gate. What is computed per block is small,
but there are many leaves: it is computed for all of them at once, in one *pool*, a flat
array ``(K, blocks)``. A ViT-B/16 has 152 leaves; leaf by leaf, its program compiled for
minutes. Only leaves of which every entry is a block stay by themselves: pooling them
would concatenate the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

# "global", "tensor", "channel", "element", or (path, param shape) -> axes of the param
# that one block spans.
Granularity = str | Callable[[str, tuple[int, ...]], tuple[int, ...]]

GRANULARITIES = ("global", "tensor", "channel", "element")
GLOBAL = "global"  # the name of the only block at that granularity
POOL = "*"  # the name of the pool; no path is spelt so


def check_granularity(granularity: Any) -> None:
    """Raises ValueError unless it is one of the four names or a function."""
    if not callable(granularity) and granularity not in GRANULARITIES:
        raise ValueError(
            f"granularity must be one of {GRANULARITIES}, or a function (path, shape) "
            f"-> axes that one block spans; got {granularity!r}."
        )


def block_axes(
    granularity: Granularity, name: str, shape: tuple[int, ...]
) -> tuple[int, ...]:
    """The axes of a parameter that one block spans.

    "channel" follows ``optax.adaptive_grad_clip``: a vector is one block; of a matrix
    (in, out) or a kernel (in, heads, dim) axis 0 is reduced, one block per output unit;
    of a convolution kernel all but the last axis, one block per filter.
    """
    rank = len(shape)
    if callable(granularity):
        axes = tuple(int(axis) for axis in granularity(name, shape))
        if not all(-rank <= axis < rank for axis in axes):
            raise ValueError(
                f"granularity gave the axes {axes} for leaf '{name}' of shape {shape}."
            )
        return tuple(sorted({axis % rank for axis in axes}))
    if granularity == "element":
        return ()
    if granularity != "channel" or rank <= 1:
        return tuple(range(rank))
    return (0,) if rank <= 3 else tuple(range(rank - 1))


@jax.tree_util.register_pytree_with_keys_class
class ByLeaf(Mapping[str, jax.Array]):
    """A read-only mapping from leaf names to arrays, stored as one array.

    ``values["blocks/0/kernel"]`` has the shape ``(*lead, *block)``. As a pytree it has
    one child, ``pool``: ``(*lead, total)``. A state with hundreds of small arrays is
    slow to compile and to dispatch; with one it is not.
    """

    def __init__(self, pool: jax.Array, spec: tuple[tuple[str, tuple[int, ...]], ...]):
        self.pool = pool  # (*lead, total), every leaf's values flat, one after another.
        self.spec = spec  # ((name, shape of this leaf's values less lead), ...).

    def __getitem__(self, name: str) -> jax.Array:
        start = 0
        for known, shape in self.spec:
            stop = start + math.prod(shape)
            if known == name:
                part = self.pool[..., start:stop]
                return part.reshape(*part.shape[:-1], *shape)
            start = stop
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.spec)

    def __len__(self) -> int:
        return len(self.spec)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ByLeaf):
            return NotImplemented
        same = self.pool is other.pool or bool(np.all(self.pool == other.pool))
        return self.spec == other.spec and same

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ByLeaf({', '.join(f'{n}: {s}' for n, s in self.spec)})"

    def tree_flatten_with_keys(self):
        """One child, named; the names and shapes are static."""
        return ((jax.tree_util.GetAttrKey("pool"), self.pool),), self.spec

    @classmethod
    def tree_unflatten(cls, spec, children):
        """The inverse."""
        return cls(children[0], spec)


class Layout(NamedTuple):
    """Where each leaf's blocks are found: static, from names and shapes alone.

    Values by *leaf* are dicts of ``(lead, *block)`` arrays, reduced axes kept with
    length 1 so that they broadcast over the leaf. Values by *group* are dicts of the
    pool, ``(lead, blocks)``, and of the leaves that stay by themselves. The leading axis
    is the objectives', or 1.
    """

    granularity: Granularity
    shapes: dict[str, tuple[int, ...]]  # of the parameters.
    axes: dict[str, tuple[int, ...]]  # of the parameters, that a block spans.

    @property
    def alone(self) -> tuple[str, ...]:
        """Leaves of which every entry is a block by the user's wish; not vectors then."""
        if self.granularity == "element":
            return tuple(self.axes)
        wished = callable(self.granularity)
        return tuple(
            name
            for name, axes in self.axes.items()
            if wished and axes == () and len(self.shapes[name]) > 1
        )

    @property
    def pooled(self) -> tuple[str, ...]:
        """The other leaves, in the order in which the pool holds them."""
        alone = set(self.alone)
        return tuple(name for name in self.axes if name not in alone)

    def block_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a leaf's block array, less the leading axis."""
        axes, shape = self.axes[name], self.shapes[name]
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))

    def group_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each group, less the leading axis."""
        shapes = {name: self.block_shape(name) for name in self.alone}
        if self.pooled or not shapes:
            shapes[POOL] = (sum(self._counts()),)
        return shapes

    def sizes(self) -> np.ndarray:
        """Entries per leaf, ``(leaves,)``."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        return np.array(sizes, np.float32)

    def means(self, name: str, values: jax.Array) -> jax.Array:
        """The mean over each block of a ``(lead, *shape)`` array; 0 where empty."""
        axes = tuple(axis + 1 for axis in self.axes[name])
        if not axes:
            return values
        size = math.prod(values.shape[axis] for axis in axes)
        return jnp.sum(values, axis=axes, keepdims=True) / max(size, 1)

    def gather(self, by_leaf: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Values by leaf to values by group."""
        groups = {name: by_leaf[name] for name in self.alone}
        rows = [_flat(by_leaf[name]) for name in self.pooled]
        if rows:
            groups[POOL] = jnp.concatenate(rows, axis=1)
        return groups

    def scatter(self, by_group: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Values by group to values by leaf, in the leaves' order."""
        by_leaf = {name: by_group[name] for name in self.alone}
        for name, start, stop in self._spans():
            part = by_group[POOL][:, start:stop]
            by_leaf[name] = part.reshape(part.shape[0], *self.block_shape(name))
        return {name: by_leaf[name] for name in self.axes}

    def leaf_means(self, by_leaf: dict[str, jax.Array]) -> jax.Array:
        """The mean over each leaf's blocks, all of one size: ``(lead, leaves)``."""
        return jnp.stack([_mean(by_leaf[name]) for name in self.axes], axis=1)

    def leaf_counts(self, by_group: dict[str, jax.Array]) -> jax.Array:
        """Per leaf the sum over its blocks of int32 ``(1, ...)`` by group: ``(leaves,)``.

        One segmented sum, not a slice and a sum a leaf; of integers, since that of
        floats depends on the order, which isn't fixed on every device.
        """
        counts = jnp.zeros((len(self.axes),), jnp.int32)
        position = {name: index for index, name in enumerate(self.axes)}
        if self.pooled:
            owners = np.repeat([position[n] for n in self.pooled], self._counts())
            counts = counts.at[owners].add(
                by_group[POOL][0], indices_are_sorted=True, mode="promise_in_bounds"
            )
        for name in self.alone:
            total = jnp.sum(by_group[name], dtype=jnp.int32)
            counts = counts.at[position[name]].set(total)
        return counts

    def shown_spec(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """What a state shows: every block, or a leaf's mean where each entry is one."""
        if self.granularity == GLOBAL:
            return ((GLOBAL, ()),)
        alone = set(self.alone)
        order = (*self.pooled, *self.alone)
        return tuple((n, () if n in alone else self.block_shape(n)) for n in order)

    def show(self, by_group: dict[str, jax.Array]) -> ByLeaf:
        """Values by group ``(K, ...)`` as a state shows them."""
        if not self.axes:
            return stand_in()
        if self.granularity == GLOBAL:
            only = by_group[GLOBAL] if GLOBAL in by_group else by_group[POOL][:, :1]
            return ByLeaf(only, self.shown_spec())
        parts = [by_group[POOL]] if self.pooled else []
        parts += [_mean(by_group[name])[:, None] for name in self.alone]
        return ByLeaf(jnp.concatenate(parts, axis=1), self.shown_spec())

    def show_leaves(self, values: jax.Array) -> ByLeaf:
        """One value per leaf, ``(*lead, leaves)``, as a state shows them."""
        if not self.axes:
            return stand_in()
        return ByLeaf(values, tuple((name, ()) for name in self.axes))

    def zeros(self, params: dict[str, Any], number: int) -> dict[str, jax.Array]:
        """Zeros by group, ``(number, ...)`` float32, placed as the step's will be.

        On a mesh with explicit axes that is told by the parameters: zeros are computed
        from them as the step computes its values.
        """
        if not any(_has_mesh(leaf) for leaf in params.values()):
            shapes = self.group_shapes()
            return {g: jnp.zeros((number, *s), jnp.float32) for g, s in shapes.items()}
        stacked = {
            name: jnp.stack([jnp.zeros_like(leaf, dtype=jnp.float32)] * number)
            for name, leaf in params.items()
        }
        return self.gather({n: self.means(n, value) for n, value in stacked.items()})

    def _counts(self) -> list[int]:
        return [math.prod(self.block_shape(name)) for name in self.pooled]

    def _spans(self) -> list[tuple[str, int, int]]:
        stops = np.cumsum(self._counts()).tolist()
        starts = [0, *stops][:-1]
        return list(zip(self.pooled, starts, stops, strict=True))


def make_layout(granularity: Granularity, shapes: dict[str, tuple[int, ...]]) -> Layout:
    """The layout of parameters of these names and shapes."""
    axes = {
        name: block_axes(granularity, name, shape) for name, shape in shapes.items()
    }
    return Layout(granularity, shapes, axes)


def layout_of_params(granularity: Granularity, params: dict[str, Any]) -> Layout:
    """The layout from named parameters."""
    return make_layout(granularity, {n: np.shape(leaf) for n, leaf in params.items()})


def layout_of_updates(granularity: Granularity, updates: dict[str, Any]) -> Layout:
    """The layout from named updates ``(K, *shape)``."""
    return make_layout(granularity, {n: np.shape(u)[1:] for n, u in updates.items()})


def spec_of(shown: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a state shows; none for a stand-in."""
    return dict(shown.spec) if isinstance(shown, ByLeaf) else {}


def stand_in() -> Any:
    """What a state of a tree without leaves has in place of a mapping.

    ``optax.tree.map_params`` learns which parts of a state are like params by calling
    ``init`` with a placeholder that has no leaves. An array can stand for any structure
    there; an empty mapping could not.
    """
    return jnp.zeros((0,), jnp.float32)


def _mean(blocks: jax.Array) -> jax.Array:
    """``(lead, *block)`` to ``(lead,)``; 0 where there is no block."""
    size = max(math.prod(blocks.shape[1:]), 1)
    return jnp.sum(blocks, axis=tuple(range(1, blocks.ndim))) / size


def _has_mesh(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not jax.typeof(leaf).sharding.mesh.empty


def _flat(values: jax.Array) -> jax.Array:
    """``(lead, *block)`` to ``(lead, blocks)``, on every device.

    Under explicit sharding, arrays sharded in different ways can't be concatenated. A
    leaf's block values are small: they are gathered, its gradients never are.
    """
    if any(axis is not None for axis in jax.typeof(values).sharding.spec):
        values = jax.sharding.reshard(values, PartitionSpec(*[None] * values.ndim))
    return values.reshape(values.shape[0], -1)
