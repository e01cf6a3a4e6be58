"""Where the blocks of each leaf are found, and their values from leaves and back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from eagc_jax import _shards
from eagc_jax._by_leaf import ByLeaf, Place, stand_in
from eagc_jax.blocks.granularity import GLOBAL, POOL, Granularity, block_axes
from eagc_jax.blocks.packs import Packs, packs_of
from eagc_jax.blocks.split import Split, axis_sizes
from eagc_jax.typing import PyTree


class Layout:
    """Where each leaf's blocks are found: static, from names and shapes alone.

    Values by *leaf* are dicts of ``(lead, *block)`` arrays, reduced axes kept with
    length 1 so that they broadcast over the leaf. Values by *group* are dicts of the
    groups, ``(lead, leaves, *block)`` less the axes that a block spans, and of the leaves
    that stay by themselves. The leading axis is the objectives', or 1.
    """

    def __init__(
        self,
        granularity: Granularity,
        shapes: dict[str, tuple[int, ...]],
        splits: dict[str, Split] | None = None,
    ):
        self.granularity: Granularity = granularity
        self.shapes = shapes  # of the parameters; inside shard_map, of their parts.
        # Of the parameters, that a block spans.
        self.axes: dict[str, tuple[int, ...]] = {
            n: block_axes(granularity, n, s) for n, s in shapes.items()
        }
        # Of the leaves that shard_map has split.
        self.splits: dict[str, Split] = splits or {}

    @functools.cached_property
    def alone(self) -> tuple[str, ...]:
        """Leaves of which every entry is a block by the user's wish.

        Not vectors: stacking these copies next to nothing, and most leaves are.
        """
        wished = callable(self.granularity) or self.granularity == "element"
        return tuple(
            name
            for name, axes in self.axes.items()
            if wished and axes == () and len(self.shapes[name]) > 1
        )

    @functools.cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The other leaves by group, in the order of their first leaf."""
        found: dict[str, list[str]] = {}
        for name in self.axes:
            if name not in self._alone:
                found.setdefault(self.group_of(name), []).append(name)
        return {group: tuple(names) for group, names in found.items()}

    @functools.cached_property
    def _alone(self) -> frozenset[str]:
        return frozenset(self.alone)

    def group_of(self, name: str) -> str:
        """Its group's name: leaves of one shape, or of any where a leaf is one block.

        Not all leaves whose blocks are as many: those of another shape may be sharded
        along another axis. Stacked beside one whose blocks are on several devices, the
        others' would be split as well, and gathered again for each leaf.
        """
        split = self.splits.get(name, Split())
        shape = self.block_shape(name) if self.own_shape(name) else ()
        parts = [
            "x".join(str(size) for size in shape),
            f"of{'x'.join(str(n) for n in self.shapes[name])}" if shape else "",
            *(f"@{'+'.join(names)}" if names else "" for names in split),
        ]
        return POOL + "".join(parts)

    def block_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a leaf's block array, less the leading axis."""
        axes, shape = self.axes[name], self.shapes[name]
        return tuple(1 if axis in axes else size for axis, size in enumerate(shape))

    def own_shape(self, name: str) -> tuple[int, ...]:
        """The shape of a leaf's values in its group: less the axes that a block spans.

        Axes of length 1 that it doesn't span stay: what is as large as another group but
        has another rank shares no broadcast with it, through which the compiler would
        shard both alike.
        """
        ones = self.ones(name)
        shape = self.block_shape(name)
        return tuple(size for axis, size in enumerate(shape) if axis not in ones)

    def ones(self, name: str) -> tuple[int, ...]:
        """Which axes of a leaf's block its group leaves out; all of a single one.

        Kept, they would cost the TPU's compiler: an operation on ``(4, 12, 1, 3072)``
        takes it up to four times as long as one on ``(4, 12, 3072)``.
        """
        shape = self.block_shape(name)
        one = all(size == 1 for size in shape)
        return tuple(range(len(shape))) if one else self.axes[name]

    def _ones(self, name: str) -> tuple[int, ...]:
        """The same of ``(lead, *block)``."""
        return tuple(axis + 1 for axis in self.ones(name))

    def group_shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each group, less the leading axis."""
        shapes = {name: self.block_shape(name) for name in self.alone}
        for group, names in self.groups.items():
            shapes[group] = (len(names), *self.own_shape(names[0]))
        return shapes or {POOL: (0,)}

    def number_of_blocks(self) -> int:
        """Blocks of all groups; one at granularity "global"."""
        if self.granularity == GLOBAL:
            return 1
        return sum(math.prod(shape) for shape in self.group_shapes().values())

    def sizes(self) -> np.ndarray:
        """Entries per leaf, on all devices that hold a part of it, ``(leaves,)``."""
        sizes = [
            math.prod(shape) * axis_sizes(sum(self.splits.get(name, Split()), ()))
            for name, shape in self.shapes.items()
        ]
        return np.array(sizes, np.float32)

    # -- from leaves to groups -------------------------------------------------

    @functools.cached_property
    def packs(self) -> Packs:
        """Vectors of one length that are one block each."""
        whole = [name for name in self.groups.get(POOL, ()) if name not in self.splits]
        return packs_of({name: self.shapes[name] for name in whole})

    def axes_of(self, name: str) -> tuple[int, ...]:
        """The axes of a leaf's values ``(lead, *shape)``; of a pack, of each leaf."""
        if name in self.packs:
            return (2,)
        return tuple(range(1, len(self.shapes[name]) + 1))

    def block_means(self, values: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The mean over each block of ``(lead, *shape)`` arrays, float32, by group.

        A sum over the block's axes in place: nothing is reshaped that may be sharded.
        Sums are put together and divided then: once a group, not once a leaf.

        Args:
          values: by leaf, or as ``packed`` returns them.
        """
        kept = self._alone
        return self.means_of_sums(
            {n: x if n in kept else self._sum(n, x) for n, x in values.items()}
        )

    def means_of_sums(self, sums: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The same from sums over blocks, ``(lead, *block)``, of this device."""
        groups = {name: sums[name].astype(jnp.float32) for name in self.alone}
        for group, names in self.groups.items():
            stacked = self._together(names, sums)
            within = self.splits.get(names[0], Split()).within
            stacked = jax.lax.psum(stacked, within) if within else stacked
            sizes = [self._block_size(name) for name in names]
            groups[group] = _divided(stacked, sizes)
        return groups

    def _together(
        self, names: tuple[str, ...], sums: dict[str, jax.Array]
    ) -> jax.Array:
        """``(lead, leaves, ...)`` of a group, in the order of its leaves."""
        packs = {key: self.packs[key] for key in self.packs if key in sums}
        members = [n for key in packs for n in packs[key] if n in names]
        loose = [name for name in names if name not in members]
        parts = [sums[key] for key in packs] if members else []
        if loose:
            found = [jnp.squeeze(sums[name], self._ones(name)) for name in loose]
            found = _shards.alike(found)
            # By leaf first, which is how the compilers for accelerators lay them out
            # without a copy of each.
            parts.append(jnp.moveaxis(jnp.stack(_alike(found)), 0, 1))
        if not members:
            return parts[0]
        joined = jnp.concatenate(_shards.alike(parts), axis=1)
        place = {name: index for index, name in enumerate(members + loose)}
        return joined[:, np.array([place[name] for name in names])]

    def _sum(self, name: str, values: jax.Array) -> jax.Array:
        """``(lead, *shape)`` to ``(lead, *block)``, of this part."""
        if name in self.packs:
            return jnp.sum(values, axis=2)
        axes = tuple(axis + 1 for axis in self.axes[name])
        return jnp.sum(values, axis=axes, keepdims=True)

    def _block_size(self, name: str) -> int:
        """Entries of one block on all devices, 1 where it has none."""
        size = math.prod(self.shapes[name][axis] for axis in self.axes[name])
        return max(size * axis_sizes(self.splits.get(name, Split()).within), 1)

    # -- and back ----------------------------------------------------------------

    def scatter(self, by_group: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Values by group to values by leaf, in the leaves' order."""
        by_leaf = {name: by_group[name] for name in self.alone}
        for group, names in self.groups.items():
            values = by_group[group]
            for position, name in enumerate(names):
                ones = self._ones(name)
                by_leaf[name] = jnp.expand_dims(values[:, position], ones)
        return {name: by_leaf[name] for name in self.axes}

    # -- one value a leaf ----------------------------------------------------------

    def leaf_means(self, by_group: dict[str, jax.Array]) -> jax.Array:
        """The mean over each leaf's blocks, all of one size: ``(lead, leaves)``."""

        def mean(values, first):
            axes = tuple(range(first, values.ndim))
            across = self._across(values, axes)
            size = max(math.prod(values.shape[first:]) * axis_sizes(across), 1)
            found = jnp.sum(values, axis=axes) / np.float32(size)
            return jax.lax.psum(found, across) if across else found

        return self._by_leaf(by_group, mean)

    def leaf_counts(self, by_group: dict[str, jax.Array]) -> jax.Array:
        """Per leaf the sum over its blocks of int32 ``(1, ...)`` by group: ``(leaves,)``.

        Of integers, since a sum of floats depends on the order, which isn't fixed on
        every device.
        """

        def count(values, first):
            axes = tuple(range(first, values.ndim))
            across = self._across(values, axes)
            found = jnp.sum(values, axis=axes, dtype=jnp.int32)
            return jax.lax.psum(found, across) if across else found

        return self._by_leaf(by_group, count)[0]

    def _across(self, values: jax.Array, axes: tuple[int, ...]) -> tuple[str, ...]:
        names = set().union(*(split.across for split in self.splits.values()))
        return _shards.split_over(values, tuple(sorted(names))) if axes else ()

    def _by_leaf(
        self,
        by_group: dict[str, jax.Array],
        reduce: Callable[[jax.Array, int], jax.Array],
    ) -> jax.Array:
        """``reduce(values, first block axis)`` of every group, in the leaves' order."""
        found = [reduce(by_group[group], 2) for group in self.groups]
        found += [reduce(by_group[name], 1)[:, None] for name in self.alone]
        if not found:
            return jnp.zeros((1, 0), jnp.float32)
        order = [n for names in self.groups.values() for n in names] + list(self.alone)
        joined = jnp.concatenate(_alike(found), axis=1)
        if order == list(self.axes):
            return joined
        place = {name: index for index, name in enumerate(order)}
        return joined[:, np.array([place[name] for name in self.axes])]

    # -- what a state shows ----------------------------------------------------------

    def places(self) -> tuple[Place, ...]:
        """What a state shows: every block, or a leaf's mean where each entry is one."""
        if self.granularity == GLOBAL:
            return (Place(GLOBAL, (), 0),)
        if self.granularity == "element":
            return tuple(Place(n, (), 0) for n in self.axes)
        number = {n: i for i, (_, ns) in enumerate(self.groups.items()) for n in ns}
        return tuple(
            Place(n, (), len(self.groups))
            if n in self._alone
            else Place(n, self.block_shape(n), number[n], self.ones(n))
            for n in self.axes
        )

    def shown_spec(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """((name, shape), ...) of what a state shows."""
        return tuple((place.name, place.shape) for place in self.places())

    def show(
        self, by_group: dict[str, jax.Array], of_nothing: jax.Array | None = None
    ) -> PyTree:
        """Values by group ``(K, ...)`` as a state shows them.

        A mean of no entries is ``of_nothing``, ``(K,)``, or 0.
        """
        if not self.axes:
            return stand_in()
        if self.granularity == GLOBAL:
            first = next(iter(self.groups))
            only = by_group[GLOBAL] if GLOBAL in by_group else by_group[first][:, :1]
            return ByLeaf((only,), self.places())
        if self.granularity == "element":
            means = self.leaf_means(by_group)
            if of_nothing is not None:
                empty = np.array([0 in shape for shape in self.shapes.values()])
                means = jnp.where(empty, of_nothing[:, None], means)
            return ByLeaf((means,), self.places())
        parts = [by_group[group] for group in self.groups]
        if self.alone:
            means = [self._shown_mean(by_group[n], of_nothing) for n in self.alone]
            parts.append(jnp.stack(means, 1))
        return ByLeaf(tuple(parts), self.places())

    def _shown_mean(self, values: jax.Array, of_nothing: jax.Array | None) -> jax.Array:
        if not values.size and of_nothing is not None:
            return of_nothing
        axes = tuple(range(1, values.ndim))
        across = self._across(values, axes)
        size = max(math.prod(values.shape[1:]) * axis_sizes(across), 1)
        found = jnp.sum(values, axis=axes) / np.asarray(size, values.dtype)
        return jax.lax.psum(found, across) if across else found

    def show_leaves(self, values: jax.Array) -> PyTree:
        """One value per leaf, ``(*lead, leaves)``, as a state shows them."""
        return ByLeaf.of_leaves(values, self.axes) if self.axes else stand_in()

    def zeros(self, params: dict[str, jax.Array], number: int) -> dict[str, jax.Array]:
        """Zeros by group, ``(number, ...)`` float32, placed as the step's will be.

        On a mesh with explicit axes that is told by the parameters: zeros are computed
        from them as the step computes its values.
        """
        if not any(_has_mesh(leaf) for leaf in params.values()):
            shapes = self.group_shapes()
            return {g: jnp.zeros((number, *s), jnp.float32) for g, s in shapes.items()}
        return self.block_means(
            {
                name: jnp.stack([jnp.zeros_like(leaf, dtype=jnp.float32)] * number)
                for name, leaf in params.items()
            }
        )


def _divided(sums: jax.Array, sizes: list[int]) -> jax.Array:
    """``(lead, leaves, ...)`` by each leaf's size, float32."""
    by = np.array(sizes, sums.dtype)
    by = by[0] if len(set(sizes)) == 1 else by.reshape(-1, *[1] * (sums.ndim - 2))[None]
    return (sums / by).astype(jnp.float32)


def _has_mesh(leaf: object) -> bool:
    return isinstance(leaf, jax.Array) and not jax.typeof(leaf).sharding.mesh.empty


def _alike(arrays: list[jax.Array]) -> list[jax.Array]:
    """Arrays that can be stacked: of one sharding, where axes are explicit.

    Where leaves of a group are sharded in different ways, their block values are brought
    to every device. They are small; gradients never are.
    """
    specs = [jax.typeof(x).sharding.spec for x in arrays]
    if all(spec == specs[0] for spec in specs):
        return arrays
    return [
        jax.sharding.reshard(x, PartitionSpec(*[None] * x.ndim))
        if any(axis is not None for axis in spec)
        else x
        for x, spec in zip(arrays, specs, strict=True)
    ]
