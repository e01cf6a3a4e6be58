"""How often another objective took the lead."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from eagc_jax.blocks import GLOBAL, ByLeaf, Layout
from eagc_jax.gating.state import BlockMemory, SoftGateState
from eagc_jax.objectives import reduce_objectives

# Logits closer than this have no order: rounding must not count as a switch.
_TIE = 1e-6


def count_switches(
    state: SoftGateState, memory: dict[str, BlockMemory], layout: Layout
) -> ByLeaf:
    """Adds, per leaf, in how many of its blocks another objective leads than before."""
    if not state.memory:
        return state.switches
    changed = {
        group: _changed(old, memory[group]).astype(jnp.int32)[None]
        for group, old in state.memory.items()
    }
    if layout.granularity == GLOBAL:
        sums = changed[GLOBAL][0]
    else:
        sums = layout.leaf_counts(changed)
    return jax.tree.map(lambda old: old + sums, state.switches)


def _changed(old: BlockMemory, new: BlockMemory) -> jax.Array:
    leader_old, decided_old = _leader(old.logits)
    leader_new, decided_new = _leader(new.logits)
    return (leader_old != leader_new) & decided_old & decided_new


def _leader(logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    top = reduce_objectives(jnp.maximum, logits)
    bottom = reduce_objectives(jnp.minimum, logits)
    leader = jnp.zeros(top.shape, jnp.int32)
    for k in range(1, logits.shape[0]):
        leader = jnp.where(logits[k] >= top, k, leader)
    return leader, top - bottom > _TIE
