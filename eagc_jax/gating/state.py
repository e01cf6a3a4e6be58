"""What a gate remembers, and whether a state is this gate's."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import check_same_names, check_same_shapes
from eagc_jax._states import check_state
from eagc_jax._trees import named_leaves
from eagc_jax.blocks import GLOBAL, ByLeaf, Granularity, Layout
from eagc_jax.gating.options import Options
from eagc_jax.objectives import AssessedUpdates, expand_to
from eagc_jax.typing import Params


class BlockMemory(NamedTuple):
    """What the gate remembers of a group of blocks."""

    average: jax.Array  # shape=(K, leaves, *block), float32: biased mean of logits.
    visits: jax.Array  # shape=(K, leaves, *block), int32: steps that fed it.
    logits: jax.Array  # shape=(K, leaves, *block), float32: in force now.


class SoftGateState(NamedTuple):
    """What the gate decided last, and the averages behind it."""

    gates: ByLeaf
    # By leaf: the factors on each objective's gradient, shape=(K, *block), float32.
    # At granularity "element" their mean, (K,).
    switches: ByLeaf
    # By leaf, shape=(), int32: how often, over its blocks, another objective took the
    # lead. Stays 0 where nothing is remembered.
    memory: dict[str, BlockMemory]
    # By group of leaves whose blocks look alike; "global"; at granularity "element"
    # vectors of one length, (K, leaves, n), and each other leaf, (K, *shape), or nothing
    # for a gate without smoothing, hysteresis, slew.
    count: jax.Array  # shape=(), int32: steps gated; drives warm-up and schedules.


def initial_state(
    params: Params, options: Options, granularity: Granularity, keeps_memory: bool
) -> SoftGateState:
    """Gates at the weights, nothing remembered."""
    weights, number = options.weights, options.weights.shape[0]
    leaves = named_leaves(params)
    layout = blocks_lib.layout_of_params(
        granularity, leaves, options.names, options.specs
    )
    count = jnp.zeros([], jnp.int32)
    if not leaves:
        memory = blocks_lib.stand_in() if keeps_memory else {}
        empty = blocks_lib.stand_in(), blocks_lib.stand_in()
        return SoftGateState(*empty, memory, count)  # type: ignore[arg-type]
    zeros = layout.zeros(leaves, number)
    shown = layout.show(zeros)
    if granularity == GLOBAL:
        zeros = {GLOBAL: jnp.zeros((number, 1), jnp.float32)}
        switches = ByLeaf.of_leaves(jnp.zeros((1,), jnp.int32), (GLOBAL,))
    else:
        none = {group: value[:1].astype(jnp.int32) for group, value in zeros.items()}
        switches = layout.show_leaves(layout.leaf_counts(none))
    # Every leaf of the state owns its buffer: a shared one could not be donated.
    memory = {
        group: BlockMemory(
            average=jnp.zeros_like(value),
            visits=jnp.zeros_like(value, dtype=jnp.int32),
            logits=jnp.zeros_like(value),
        )
        for group, value in zeros.items()
    }
    return SoftGateState(
        gates=jax.tree.map(lambda x: x + expand_to(weights, x.ndim), shown),
        switches=switches,
        memory=memory if keeps_memory else {},
        count=count,
    )


def check_assessed(
    assessed: AssessedUpdates, state: SoftGateState, layout: Layout
) -> None:
    """Raises ValueError for energies of other blocks than the gate's."""
    expected = {GLOBAL: (1,)}
    if layout.granularity != GLOBAL:
        expected = layout.group_shapes()
    found = {group: value.shape[1:] for group, value in assessed.log_energies.items()}
    if found != expected:
        raise ValueError(
            f"soft_gate has granularity {layout.granularity!r}, blocks {expected}, but "
            f"the updates were assessed at another, blocks {found}: give assess_energy "
            "and soft_gate the same granularity."
        )
    number = assessed.log_energies[next(iter(found))].shape[0]
    check_state(state, SoftGateState, number, "gates")
    shown, kept = dict(layout.shown_spec()), blocks_lib.spec_of(state.gates)
    check_same_names(shown, kept, "updates", "state")
    check_same_shapes(shown, kept, number)
    blocks_lib.check_places(state.gates, layout.places())


def check_memory(
    state: SoftGateState, groups: dict[str, jax.Array], number: int, layout: Layout
) -> None:
    """Raises ValueError where the state remembers logits of other blocks."""
    kept = {name: memory.logits.shape[1:] for name, memory in state.memory.items()}
    found = {name: value.shape[1:] for name, value in groups.items()}
    if found and kept:
        _check_remembered(layout, kept, number)
    if set(found) != set(kept):
        raise ValueError(
            f"the state remembers logits of the blocks {sorted(kept)}, this gate those "
            f"of {sorted(found)}: it was made with another granularity, or with or "
            "without smoothing, hysteresis and slew. Call init again."
        )
    check_same_shapes(found, kept, number)


def _check_remembered(
    layout: Layout, kept: dict[str, tuple[int, ...]], number: int
) -> None:
    """Raises ValueError for a leaf whose blocks' shape is none of those remembered."""
    if layout.granularity == GLOBAL:
        return
    shapes = [(number, *(s if n in layout.shapes else s[1:])) for n, s in kept.items()]
    for name in layout.shapes:
        if not {name, layout.group_of(name)} & set(kept):
            raise ValueError(
                f"leaf '{name}' gives blocks of shape "
                f"{(number, *layout.own_shape(name))}, but the state remembers logits of "
                f"blocks of {sorted(set(shapes))} alone: init saw a parameter of another "
                "shape, or had another granularity, or the leaf lacks its objective "
                "axis, (K, *param.shape). Call init again."
            )
