"""One step's assessment: pure functions of gradients and what goes with them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from eagc_jax import blocks as blocks_lib
from eagc_jax._shards import max_leaves
from eagc_jax._trees import named_leaves
from eagc_jax.blocks import GLOBAL, ByLeaf, Granularity
from eagc_jax.energy.float32 import as_float32, bounded, square
from eagc_jax.energy.kinds import log_energy, shared_share
from eagc_jax.energy.options import Options
from eagc_jax.energy.statistics import Inputs, Step, kept, measure
from eagc_jax.objectives import AssessedUpdates, expand_to
from eagc_jax.typing import Updates


def assess_magnitude(
    updates: Updates,
    weights: jax.Array,
    granularity: Granularity,
    names: tuple[str, ...] = (),
    specs: dict[str, PartitionSpec] | None = None,
) -> AssessedUpdates:
    """The default assessment without a state, for ``soft_gate`` on its own."""
    options = Options(
        mixture={"magnitude": 1.0},
        granularity=granularity,
        scale="objective",
        weights=weights,
        alignment_floor=0.5,
        eps=1e-8,
        nonfinite="propagate",
        names=names,
        specs=specs,
    )
    return finish(updates, start(updates, options), options, Inputs())[0]


def start(updates: Updates, options: Options) -> Step:
    """Magnitudes first: they tell which objectives are finite, in the same pass."""
    leaves = named_leaves(updates)
    layout = layout_for(leaves, options)
    wide = {
        n: square(as_float32(x))
        for n, x in blocks_lib.packed(leaves, layout.packs).items()
    }
    squares = layout.block_means(wide)
    bad = [
        jnp.any(~jnp.isfinite(means), axis=tuple(range(1, means.ndim)))
        for means in squares.values()
    ]
    bad = [rows.astype(jnp.int32) for rows in bad]
    finite = max_leaves(bad, list(squares.values()), options.names) == 0
    if options.nonfinite == "skip_objective":
        keep, advance = finite, jnp.any(finite)
    else:
        advance = jnp.all(finite)
        keep = jnp.broadcast_to(advance, finite.shape)
    if options.nonfinite != "propagate":  # which leaves them to the gate's factor
        updates = jax.tree.map(
            lambda leaf: jnp.where(
                expand_to(keep, leaf.ndim), leaf, jnp.zeros((), leaf.dtype)
            ),
            updates,
        )
    leaf_squares = jnp.where(keep[:, None], layout.leaf_means(squares), 0.0)
    return Step(updates, kept(squares, keep), leaf_squares, finite, keep, advance)


def finish(
    updates: Updates, step: Step, options: Options, inputs: Inputs
) -> tuple[AssessedUpdates, ByLeaf, ByLeaf]:
    """Returns (updates with log energies, energies to show, gradient RMS to show)."""
    leaves = named_leaves(updates)
    layout = layout_for(leaves, options)
    statistics, by_leaf = measure(leaves, layout, step, options, inputs)
    takes_part = step.keep & step.advance & (options.weights > 0)
    active = {
        group: (means > 0) & expand_to(takes_part, means.ndim)
        for group, means in step.squares.items()
    }
    share = shared_share(by_leaf["magnitude"], takes_part, layout)
    references = {kind: jnp.sum(v * share[None], axis=1) for kind, v in by_leaf.items()}
    if options.granularity == GLOBAL:
        statistics = {
            kind: {GLOBAL: value[:, None]} for kind, value in references.items()
        }
        any_energy = statistics["magnitude"][GLOBAL] > 0
        active = {**active, GLOBAL: any_energy & takes_part[:, None]}
    log_energies = {
        group: jnp.where(
            active[group],
            log_energy(
                {kind: values[group] for kind, values in statistics.items()},
                references,
                takes_part,
                options,
            ),
            0.0,
        )
        for group in statistics["magnitude"]
    }
    energies = {
        group: jnp.where(active[group], bounded(jnp.exp(value)), 0.0)
        for group, value in log_energies.items()
    }
    factor = jnp.where(
        step.advance | (options.nonfinite != "propagate"), 1.0, jnp.nan
    ).astype(jnp.float32)
    assessed = AssessedUpdates(step.updates, log_energies, active, factor, step.advance)
    rms = layout.show_leaves(jnp.sqrt(by_leaf["magnitude"]))
    return assessed, layout.show(energies), rms


def layout_for(leaves: dict[str, jax.Array], options: Options) -> blocks_lib.Layout:
    """The blocks of these updates."""
    return blocks_lib.layout_of_updates(
        options.granularity, leaves, options.names, options.specs
    )
