"""What a projection remembers."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from eagc_jax import blocks as blocks_lib
from eagc_jax._trees import named_leaves, wide_zeros
from eagc_jax.blocks import GLOBAL, ByLeaf, Granularity
from eagc_jax.features.projection.options import Options
from eagc_jax.typing import Params, PyTree, Updates


class ElasticProjectionState(NamedTuple):
    """What was decided last, and the averages behind it."""

    weights: ByLeaf  # by leaf: w in force, shape=(K, *block), float32; 0 if supervised.
    energies: ByLeaf  # by leaf: e, shape=(K, *block), float32 in [0, 1]; 0 if unknown.
    # By group of blocks: biased average of the supervised objective's e, float32,
    # shape=(1, blocks). Empty unless energy="running".
    average: dict[str, jax.Array]
    visits: dict[str, jax.Array]  # shape=(1, blocks), int32: steps that fed it.
    direction: PyTree  # like params, at least float32: running mean of the supervised
    # gradient; () unless energy="running".
    count: jax.Array  # shape=(), int32: steps with finite gradients.


def initial_state(
    params: Params, number: int, granularity: Granularity, options: Options
) -> ElasticProjectionState:
    """Nothing decided; averages only where they are needed."""
    named = named_leaves(params)
    layout = blocks_lib.layout_of_params(
        granularity, named, options.names, options.specs
    )
    running = options.energy == "running"
    shown = layout.show(layout.zeros(named, number))
    one = layout.zeros(named, 1) if running else {}
    if running and granularity == GLOBAL:
        one = {GLOBAL: jnp.zeros((1, 1), jnp.float32)}
    return ElasticProjectionState(
        weights=shown,
        energies=jax.tree.map(jnp.zeros_like, shown),
        average=one,
        visits={g: jnp.zeros_like(x, dtype=jnp.int32) for g, x in one.items()},
        direction=wide_zeros(params) if running else (),
        count=jnp.zeros((), jnp.int32),
    )


def track(
    updates: Updates, direction: PyTree, advance: jax.Array, options: Options
) -> PyTree:
    """The supervised gradient's running mean, or () where none is kept."""
    if options.energy != "running":
        return ()

    def moved(old, leaf):
        decay = jnp.asarray(options.direction_decay).astype(old.real.dtype)
        new = decay * old + (1 - decay) * leaf[options.supervised].astype(old.dtype)
        return jnp.where(advance, new, old)

    return jax.tree.map(moved, direction, updates)
