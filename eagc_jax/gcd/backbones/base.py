"""The interface of backbones: items in, one feature vector for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import jax

from eagc_jax.gcd.sources.records import Item, Kind
from eagc_jax.typing import PyTree

ComputeDtype = Literal["float32", "bfloat16"]


class Backbone(Protocol):
    """A network that gives an item its feature, in two halves.

    `readout(prefix(arrays, n), n)` is the forward pass for any n in [0, depth]: when all
    but the last blocks are frozen, what the prefix returns can be kept. An `nnx.Module`
    whose last blocks may train has them in `blocks`, an `nnx.List` of `depth`; they are
    all that trains. A callable or given embeddings have depth 0.
    """

    kind: Kind  # of the items that it takes

    @property
    def width(self) -> int:
        """Of the feature."""
        ...

    @property
    def depth(self) -> int:
        """How many blocks there are that can train; 0 for none."""
        ...

    @property
    def preparation(self) -> str:
        """What `prepare` does, with its settings, as text; part of the cache's key."""
        ...

    def fingerprint(self) -> str:
        """Of architecture, weights and compute dtype: the same feature, the same text."""
        ...

    def prepare(self, item: Item) -> PyTree:
        """A source's item to a NumPy array; runs in threads, on the host."""
        ...

    def collate(self, prepared: Sequence[PyTree]) -> PyTree:
        """Prepared items to a tree of NumPy arrays whose axis 0 is the items.

        Padded, where lengths differ; to few different shapes, as each is compiled.
        """
        ...

    def prefix(self, arrays: PyTree, num_blocks: int) -> PyTree:
        """Collated arrays to what the first blocks make of them: a tree, axis 0 items."""
        ...

    def readout(self, cached: PyTree, num_blocks: int) -> jax.Array:
        """That to (N, width) float32 features."""
        ...
