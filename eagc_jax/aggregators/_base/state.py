"""What an aggregator remembers, and how weights by block are shown in it."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import check_same_names, check_same_shapes
from eagc_jax._states import check_state
from eagc_jax._trees import named_leaves
from eagc_jax.aggregators._base.averages import (
    GramAverage,
    WeightAverage,
    init_gram_average,
    init_weight_average,
)
from eagc_jax.aggregators._base.options import Options
from eagc_jax.aggregators._weighting import Weighting
from eagc_jax.blocks import GLOBAL, ByLeaf, Layout
from eagc_jax.typing import OptState, Params, PyTree


class AggregateState(NamedTuple):
    """What an aggregator decided last, and what it remembers."""

    # Granularity "global": shape=(K,), float32. Else by leaf, (K, *block).
    weights: jax.Array | ByLeaf
    residual: jax.Array  # shape=(), float32: of the last solve, the worst block's.
    iterations: jax.Array  # shape=(), int32: the same.
    # shape=(), int32: blocks in which ``certify`` stepped in, or in which weights added
    # for the rest of a step (``optimizer_aware``) were capped.
    fallbacks: jax.Array
    nonfinite_count: jax.Array  # shape=(K,), int32: steps with a NaN or an infinity.
    count: jax.Array  # shape=(), int32: steps that were not skipped.
    gram_average: GramAverage | tuple[()]  # () without gram_smoothing.
    weight_average: WeightAverage | tuple[()]  # () without weight_smoothing.
    method: OptState  # the method's own state, a leading axis of blocks; or ().
    key: PyTree  # shape=(2,), uint32: PRNG key of a random method; or ().


def initial_state(
    params: Params, options: Options, weighting: Weighting
) -> AggregateState:
    """Zeros, the method's own start in every block, and the key."""
    number = options.number
    leaves = named_leaves(params)
    layout = blocks_lib.layout_of_params(options.granularity, leaves)
    blocks = layout.number_of_blocks()
    weights: PyTree = jnp.zeros((number,), jnp.float32)
    if options.granularity != GLOBAL:
        zeros = jnp.zeros((blocks, number), jnp.float32)
        weights = layout.show(by_group(zeros, layout))
    method = jax.tree.map(
        lambda x: jnp.broadcast_to(x, (blocks, *jnp.shape(x))),
        weighting.init(number),
    )
    return AggregateState(
        weights=weights,
        residual=jnp.zeros([], jnp.float32),
        iterations=jnp.zeros([], jnp.int32),
        fallbacks=jnp.zeros([], jnp.int32),
        nonfinite_count=jnp.zeros((number,), jnp.int32),
        count=jnp.zeros([], jnp.int32),
        gram_average=init_gram_average(options.gram_smoothing, blocks, number),
        weight_average=init_weight_average(options.weight_smoothing, blocks, number),
        method=method,
        key=jax.random.PRNGKey(options.seed) if weighting.random else (),
    )


def as_shown(weights: jax.Array, layout: Layout) -> PyTree:
    """``(B, K)`` as the state holds it."""
    if layout.granularity == GLOBAL:
        return weights[0].astype(jnp.float32)
    return layout.show(by_group(weights.astype(jnp.float32), layout))


def from_shown(shown: PyTree, layout: Layout) -> jax.Array:
    """The inverse."""
    if layout.granularity == GLOBAL:
        return shown[None]
    parts = [group.reshape(group.shape[0], -1) for group in shown.groups]
    return jnp.concatenate(parts, axis=1).T


def by_group(weights: jax.Array, layout: Layout) -> dict[str, jax.Array]:
    """``(B, K)``, blocks in the layout's order, by group: ``(K, leaves, *block)``."""
    found, start = {}, 0
    for group, shape in layout.group_shapes().items():
        stop = start + math.prod(shape)
        found[group] = weights[start:stop].T.reshape(weights.shape[1], *shape)
        start = stop
    return found


def check_state_of(layout: Layout, state: AggregateState, number: int) -> None:
    """Raises ValueError for a state of another method, K, granularity or tree."""
    check_state(state, AggregateState, number, "nonfinite_count")
    shown_by_leaf = isinstance(state.weights, ByLeaf)
    if shown_by_leaf != (layout.granularity != GLOBAL):
        raise ValueError(
            f"this aggregator has granularity {layout.granularity!r}, but the state was "
            f"made for {'blocks of leaves' if shown_by_leaf else 'the whole tree'}: call "
            "init again."
        )
    if layout.granularity == GLOBAL:
        return
    shown, kept = dict(layout.shown_spec()), blocks_lib.spec_of(state.weights)
    check_same_names(shown, kept, "updates", "state")
    check_same_shapes(shown, kept, number)
    blocks_lib.check_places(state.weights, layout.places())
