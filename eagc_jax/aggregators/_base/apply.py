"""The weighted sum, and what the non-finite policy makes of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from eagc_jax._trees import counted, select
from eagc_jax.aggregators._base.decide import Decided, Step
from eagc_jax.aggregators._base.options import Options
from eagc_jax.aggregators._base.state import AggregateState, by_group
from eagc_jax.blocks import GLOBAL
from eagc_jax.gram.sums import weighted_blocks, weighted_leaf
from eagc_jax.typing import Updates


def applied(
    updates: Updates,
    step: Step,
    decided: Decided,
    state: AggregateState,
    options: Options,
) -> tuple[Updates, AggregateState]:
    """Applies the weights, and the non-finite policy to updates and state."""
    weights, finite, new_state, _ = decided
    all_finite = jnp.all(finite)
    if options.nonfinite == "skip_objective":
        advance = jnp.any(finite & step.mask) | ~jnp.any(step.mask)
        keep = step.mask & finite
    else:
        advance = all_finite
        keep = step.mask & (all_finite | (options.nonfinite == "propagate"))
    if options.nonfinite == "propagate":
        weights = jnp.where(all_finite, weights, jnp.nan)
        keep = step.mask | ~all_finite
    else:
        weights = jnp.where(advance, weights, 0.0)
    out = _weighted(step, weights, keep)
    new_state = new_state._replace(
        count=optax.safe_increment(state.count), nonfinite_count=state.nonfinite_count
    )
    new_state = select(advance, new_state, state)._replace(
        nonfinite_count=counted(state.nonfinite_count, ~finite)
    )
    return jax.tree.unflatten(
        jax.tree.structure(updates), list(out.values())
    ), new_state


def _weighted(step: Step, weights: jax.Array, keep: jax.Array) -> dict[str, jax.Array]:
    """``sum_k weights[b, k] leaf[k]`` of every leaf, b the block."""
    if step.layout.granularity == GLOBAL:
        return {n: weighted_leaf(x, weights[0], keep) for n, x in step.leaves.items()}
    factors = step.layout.scatter(by_group(weights, step.layout))
    return {
        n: weighted_blocks(leaf, factors[n], keep) for n, leaf in step.leaves.items()
    }
