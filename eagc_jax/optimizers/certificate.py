"""What the applied update does to every loss, and an update that raises none of them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax._trees import counted, named_leaves, widened
from eagc_jax.aggregators._weighting import unscale
from eagc_jax.blocks import GLOBAL, layout_of_updates
from eagc_jax.gram import Gram, metric_blocks, products_with_rest, whole
from eagc_jax.gram.sums import weighted_leaf
from eagc_jax.optimizers.probe import Gain, metric_of
from eagc_jax.solvers.nnqp import nnqp
from eagc_jax.typing import Updates


class Certificate(NamedTuple):
    """Of the last step."""

    # shape=(K,), float32: cosines of each loss's descent with the optimizer's update, in
    # the optimizer's metric; where one is negative, that update would have raised it.
    cosines: jax.Array
    corrections: jax.Array  # shape=(), int32: steps whose update was replaced.


def no_certificate(number: int) -> Certificate:
    """Before the first step."""
    return Certificate(jnp.zeros((number,), jnp.float32), jnp.zeros([], jnp.int32))


def certified(
    step: Updates,
    updates: Updates,
    gains: dict[str, Gain],
    active: jax.Array,
    last: Certificate,
    names: tuple[str, ...],
    seen: tuple[Gram, jax.Array] | None = None,
) -> tuple[Updates, Certificate]:
    r"""The update u, or the nearest one that raises no loss, in the optimizer's metric.

    With :math:`s_k = -\langle g_k, u \rangle` and :math:`H = J P J^\top` it is
    :math:`u - P J^\top x`, :math:`x = \arg\min_{x \ge 0} \frac12 x^\top H x + x^\top s`.
    There is always one, if only 0. Exact whatever the optimizer does: s is measured.

    Args:
      step: u, leaves ``(*shape)``.
      updates: J, leaves ``(K, *shape)``.
      gains: P, by leaf.
      active: ``(K,)`` bool.
      last: the certificate of the last step.
      names: mesh axes over which leaves may be split.
      seen: H of every block, and who is finite, where they are known.
    """
    leaves, steps = named_leaves(updates), named_leaves(step)
    gains = {name: gain.with_rest_of(steps[name]) for name, gain in gains.items()}
    metric = metric_of(gains, leaves)
    if seen is None:
        layout = layout_of_updates(GLOBAL, leaves, names)
        seen = metric_blocks(leaves, layout, active, names, metric.without_rest())[:2]
    gram, finite = whole(seen[0]), seen[1]
    slopes, size = products_with_rest(leaves, gram, metric, names)
    # What units gradients have, the step's size has too: only their ratio is looked at.
    scale = jnp.where(gram.scale > 0, gram.scale, 1)
    cosines = slopes * scale / jnp.where(size > 0, size, 1)
    kept = active & finite & (gram.norms > 0)
    cosines = jnp.where(kept, cosines, 0)
    rises = jnp.any(cosines < -8 * float(jnp.finfo(cosines.dtype).eps))

    def corrected():
        added, _ = nnqp(gram.cosines, jnp.where(kept, -slopes, 0))
        weights = jnp.where(kept, unscale(added, gram.norms), 0)

        def of_leaf(name, leaf, old):
            more = gains[name].step_of(weighted_leaf(leaf, weights, kept))
            return (widened(old) + more.astype(widened(old).dtype)).astype(old.dtype)

        return [of_leaf(name, leaf, steps[name]) for name, leaf in leaves.items()]

    found = jax.lax.cond(rises, corrected, lambda: list(steps.values()))
    certificate = Certificate(
        cosines.astype(jnp.float32), counted(last.corrections, rises)
    )
    return jax.tree.unflatten(jax.tree.structure(step), found), certificate
