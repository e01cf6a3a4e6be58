"""Values of every leaf of a tree, by name, kept in a few arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey

from eagc_jax.typing import PyTree


class Place(NamedTuple):
    """Where a mapping by leaf keeps one leaf's values."""

    name: str
    shape: tuple[int, ...]  # of the values, less the leading axes.
    group: int  # which array.
    ones: tuple[int, ...] = ()  # axes of ``shape`` that the array leaves out.


@jax.tree_util.register_pytree_with_keys_class
class ByLeaf(Mapping[str, jax.Array]):
    """A read-only mapping from leaf names to arrays, stored as a few arrays.

    ``values["blocks/0/kernel"]`` has the shape ``(*lead, *block)``. As a pytree its
    children are ``groups``, each the values of all leaves whose blocks look alike. A
    state with hundreds of small arrays is slow to compile and to dispatch; with a few it
    is not.
    """

    def __init__(self, groups: tuple[jax.Array, ...], places: tuple[Place, ...]):
        # Each (*lead, leaves, *block) less the axes that a block spans.
        self.groups: tuple[jax.Array, ...] = tuple(groups)
        self.places = places  # in the leaves' order; static.

    @classmethod
    def of_leaves(cls, values: jax.Array, names: Iterable[str]) -> ByLeaf:
        """From one value a leaf: ``(*lead, leaves)`` and the leaves' names."""
        return cls((values,), tuple(Place(name, (), 0) for name in names))

    @property
    def spec(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """((name, shape of this leaf's values less lead), ...)."""
        return tuple((place.name, place.shape) for place in self.places)

    @property
    def flat(self) -> jax.Array:
        """``(*lead, blocks)``: every leaf's values, one leaf after the other."""
        if all(place.shape == () and place.group == 0 for place in self.places):
            return self.groups[0]
        found = [self[place.name] for place in self.places]
        parts = [
            value.reshape(*value.shape[: value.ndim - len(place.shape)], -1)
            for value, place in zip(found, self.places, strict=True)
        ]
        return jnp.concatenate(parts, axis=-1)

    def __getitem__(self, name: str) -> jax.Array:
        position = [0] * len(self.groups)
        for place in self.places:
            if place.name == name:
                return self._take(place, position[place.group])
            position[place.group] += 1
        raise KeyError(name)

    @property
    def lead(self) -> int:
        """How many axes each value has in front of those of its blocks."""
        place = self.places[0]
        own = len(place.shape) - len(place.ones)
        return self.groups[place.group].ndim - 1 - own

    def _take(self, place: Place, position: int) -> jax.Array:
        group, shape = self.groups[place.group], place.shape
        lead = group.ndim - 1 - (len(shape) - len(place.ones))
        block = [
            None if axis in place.ones else slice(None) for axis in range(len(shape))
        ]
        return group[(slice(None),) * lead + (position, *block)]

    def __iter__(self) -> Iterator[str]:
        return (place.name for place in self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ByLeaf):
            return NotImplemented
        same = all(
            a is b or bool(np.all(a == b))
            for a, b in zip(self.groups, other.groups, strict=False)
        )
        return self.places == other.places and same

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"ByLeaf({', '.join(f'{n}: {s}' for n, s in self.spec)})"

    def tree_flatten_with_keys(
        self,
    ) -> tuple[tuple[tuple[object, jax.Array], ...], tuple[Place, ...]]:
        """The groups, by number; names and shapes are static."""
        return (
            tuple(
                (GetAttrKey(f"group{i}"), group) for i, group in enumerate(self.groups)
            ),
            self.places,
        )

    @classmethod
    def tree_unflatten(
        cls, places: tuple[Place, ...], groups: tuple[jax.Array, ...]
    ) -> ByLeaf:
        """The inverse."""
        return cls(groups, places)


def spec_of(shown: PyTree) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a state shows; none for a stand-in."""
    return dict(shown.spec) if isinstance(shown, ByLeaf) else {}


def check_places(kept: PyTree, places: tuple[Place, ...]) -> None:
    """Raises ValueError for values of the same leaves that are grouped in another way."""
    if isinstance(kept, ByLeaf) and kept.places != places:
        raise ValueError(
            "the state groups the leaves' values in another way: it is an older "
            "version's. Restore it into jax.eval_shape(tx.init, params), or call init "
            "again."
        )


def stand_in() -> PyTree:
    """What a state of a tree without leaves has in place of a mapping.

    ``optax.tree.map_params`` learns which parts of a state are like params by calling
    ``init`` with a placeholder that has no leaves. An array can stand for any structure
    there; an empty mapping could not.
    """
    return jnp.zeros((0,), jnp.float32)
