"""All items through the model, a block at a time: for evaluation and for conceptors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from eagc_jax.gcd.training import parallel
from eagc_jax.gcd.training.epoch import features_of, tokens_of
from eagc_jax.gcd.training.inputs import Inputs
from eagc_jax.gcd.training.model import DiscoveryModel
from eagc_jax.typing import Params, PyTree

BLOCK = 2048  # items at once
KEPT = 2**28  # bytes of the frozen prefix's tokens that are kept, for all blocks


class WholeData:
    """The features of all items, for any values of the trained parameters.

    The frozen prefix never changes: its tokens are kept in the host's memory where they
    are few, else computed anew each time.

    Args:
      inputs: the items.
      graphdef: of the model.
      mesh: over which a block is divided, or None.
    """

    def __init__(
        self, inputs: Inputs, graphdef: nnx.GraphDef[DiscoveryModel], mesh: Mesh | None
    ):
        self._inputs, self._graphdef, self._mesh = inputs, graphdef, mesh
        self._size = min(BLOCK, len(inputs))
        if mesh is not None:
            self._size += -self._size % mesh.size
        self._kept: list[PyTree] | None = None

    def features(self, params: dict[str, Params], frozen: PyTree) -> np.ndarray:
        """(N, width) float32; parameters and frozen part as they lie on the mesh."""
        tokens = self._tokens(params, frozen)
        found = [
            features_of(self._graphdef, params, frozen, block, self._mesh)
            for block in tokens
        ]
        local = found if self._mesh is None else [parallel.local(x) for x in found]
        return np.concatenate([np.asarray(x) for x in local])[: len(self._inputs)]

    def _tokens(self, params: dict[str, Params], frozen: PyTree) -> Iterable[PyTree]:
        """The prefix's tokens by blocks; kept, if they are few."""
        if self._kept is not None:
            return self._kept
        blocks = self._computed(params, frozen)
        first = next(blocks)
        held = sum(leaf.nbytes for leaf in jax.tree.leaves(first))
        everything = held * -(-len(self._inputs) // self._size)
        if everything > KEPT:
            return self._chained(first, blocks)
        self._kept = [first, *blocks]
        return self._kept

    @staticmethod
    def _chained(first: PyTree, rest: Iterable[PyTree]) -> Iterator[PyTree]:
        yield first
        yield from rest

    def _computed(self, params: dict[str, Params], frozen: PyTree) -> Iterator[PyTree]:
        for block in self._inputs.blocks(self._size):
            own = jax.tree.map(self._own, block)
            arrays = parallel.divide(own, self._size, self._mesh)
            yield tokens_of(self._graphdef, params, frozen, arrays, self._mesh)

    def _own(self, block: np.ndarray) -> np.ndarray:
        """This process's rows; the last item fills up the last block."""
        rows = np.minimum(parallel.own_rows(self._size, self._mesh), len(block) - 1)
        return block[rows]
