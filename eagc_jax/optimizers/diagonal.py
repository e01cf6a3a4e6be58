"""A preconditioner that scales every entry by itself: that of Adam and its kin."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax.gram import LeafMetric, divided


class DiagonalGain(NamedTuple):
    r"""Of one leaf, the step as :math:`k (r + d)`, entry by entry, d the gradient."""

    factor: jax.Array  # k, (*shape): negative where the optimizer descends.
    size: jax.Array  # |k|, (*shape).
    # |k| r, (*shape), r what momentum and weight decay are as a gradient: products with
    # it are those with r in the metric, without a division by a small k.
    rest: jax.Array | None

    def metric(self) -> LeafMetric:
        """Products weighed by ``|k|``, and those with the rest, which is."""
        return LeafMetric(self.size, self.rest)

    def coordinates(self, leaf: jax.Array) -> jax.Array | None:
        """None: gradients stay as they are."""
        del leaf
        return None

    def with_rest_of(self, step: jax.Array) -> DiagonalGain:
        """With the gradient of which the optimizer would make this step as the rest."""
        return self._replace(rest=_downhill(self.factor, step))

    def step_of(self, gradient: jax.Array) -> jax.Array:
        """``k d``."""
        return self.factor * gradient.astype(self.factor.dtype)


def of_probe(
    gradient: jax.Array, alone: jax.Array, whole: jax.Array | None
) -> DiagonalGain:
    """From the steps of a gradient alone, and with momentum and weight decay."""
    factor = divided(alone, gradient)
    rest = None if whole is None else _downhill(factor, whole - alone)
    return DiagonalGain(factor, jnp.abs(factor), rest)


def _downhill(factor: jax.Array, step: jax.Array) -> jax.Array:
    """``|k| d`` of a step ``k d``; where k is 0, as where the optimizer descends."""
    step = step.astype(factor.dtype)
    return jnp.where(factor > 0, step, -step)
