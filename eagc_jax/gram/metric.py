"""In what metric inner products are taken: diagonal, by leaf."""

from __future__ import annotations

from typing import NamedTuple

import jax


class LeafMetric(NamedTuple):
    """In what metric one leaf's inner products are, and with what else."""

    # (*shape), >= 0: g_k . g_l is the sum of ``diagonal * g_k * g_l``; None for ones.
    diagonal: jax.Array | None = None
    # (*shape): one more column, the products of every row with it; None for none.
    rest: jax.Array | None = None


class Metric(NamedTuple):
    """In what metric a tree's inner products are."""

    leaves: dict[str, LeafMetric]  # of every leaf, all with or all without a ``rest``.
    # (K, *shape), of leaves whose metric isn't diagonal: their gradients, and ``rest``,
    # in coordinates in which it is.
    coordinates: dict[str, jax.Array]

    @property
    def has_rest(self) -> bool:
        """Whether there is a row more."""
        return any(leaf.rest is not None for leaf in self.leaves.values())


PLAIN = LeafMetric()
