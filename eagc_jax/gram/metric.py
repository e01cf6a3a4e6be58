"""In what metric inner products are taken: diagonal, by leaf."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class LeafMetric(NamedTuple):
    """In what metric one leaf's inner products are, and with what else."""

    # (*shape), >= 0: g_k . g_l is the sum of ``diagonal * g_k * g_l``; None for ones.
    diagonal: jax.Array | None = None
    # (*shape): one more column, the products of every row with it; None for none.
    rest: jax.Array | None = None
    # shape=(), bool: ones in place of ``diagonal``; None for never.
    plain: jax.Array | None = None

    def weigh(self, rows: jax.Array) -> jax.Array:
        """``(..., *shape)`` times the diagonal."""
        if self.diagonal is None:
            return rows
        lead = tuple(range(rows.ndim - self.diagonal.ndim))
        found = rows * jnp.expand_dims(self.diagonal.astype(rows.dtype), lead)
        # Not the diagonal is chosen, which compilers would write out, chosen.
        return found if self.plain is None else jnp.where(self.plain, rows, found)


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

    def without_rest(self) -> Metric:
        """The same without a row more."""
        leaves = {name: leaf._replace(rest=None) for name, leaf in self.leaves.items()}
        return self._replace(leaves=leaves)


PLAIN = LeafMetric()
