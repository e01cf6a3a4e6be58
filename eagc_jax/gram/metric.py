"""In what metric inner products are taken: diagonal, by leaf."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax.blocks import are_placed, packed, packs_of


class LeafMetric(NamedTuple):
    """In what metric one leaf's inner products are, and with what else."""

    # (*shape), >= 0: g_k . g_l is the sum of ``diagonal * g_k * g_l``; None for ones.
    diagonal: jax.Array | None = None
    # (*shape): one more column, the plain products of every row with it; None for none.
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

    def square_of_rest(self) -> jax.Array:
        """Of the vector that the metric makes the rest of, its squared norm in it."""
        assert self.rest is not None
        if self.diagonal is None:
            return jnp.sum(self.rest * self.rest)
        return jnp.sum(self.rest * divided(self.rest, self.diagonal))


def divided(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """``numerator / denominator``, 0 where the denominator is."""
    some = denominator != 0
    numerator = numerator.astype(denominator.dtype)
    return jnp.where(some, numerator / jnp.where(some, denominator, 1), 0)


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


def in_packs(
    leaves: dict[str, jax.Array], metric: dict[str, LeafMetric]
) -> tuple[dict[str, jax.Array], dict[str, LeafMetric]]:
    """Leaves ``(K, *shape)`` and their metrics, vectors of one length as one leaf each.

    For sums over the whole tree, on accelerators: their compilers join the sums of a few
    vectors in one program, of others in every place, and a ViT's are two in three leaves.
    As they are where their types say where they lie.
    """
    shapes = {name: leaf.shape[1:] for name, leaf in leaves.items()}
    packs = packs_of(shapes)
    members = [name for names in packs.values() for name in names]
    own = [x for name in members for x in metric[name] if x is not None]
    # All with a diagonal or none, all with a rest or none; else they stay as they are.
    makes = {tuple(x is None for x in metric[name]) for name in members}
    if len(makes) != 1 or are_placed([*own, *(leaves[name] for name in members)]):
        return leaves, metric

    def of_field(field):
        found = {name: getattr(metric[name], field) for name in members}
        if any(value is None for value in found.values()):
            return dict.fromkeys(packs)
        joined = packed({name: x[None] for name, x in found.items()}, packs)
        return {key: value[0] for key, value in joined.items()}

    diagonals, rests = of_field("diagonal"), of_field("rest")
    found = {name: one for name, one in metric.items() if name not in members}
    found |= {key: LeafMetric(diagonals[key], rests[key]) for key in packs}
    return packed(leaves, packs), found
