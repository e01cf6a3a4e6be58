"""From one step's gradients to weights: look at them, solve, smooth, certify."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from eagc_jax import blocks as blocks_lib
from eagc_jax._shards import max_leaves
from eagc_jax._trees import compute_dtype, counted
from eagc_jax.aggregators._base.averages import GramAverage, smooth_gram, smooth_weights
from eagc_jax.aggregators._base.length import certified, cleared, rescaled
from eagc_jax.aggregators._base.options import Options
from eagc_jax.aggregators._base.state import AggregateState, as_shown, from_shown
from eagc_jax.aggregators._weighting import Problem, Weighting, share
from eagc_jax.blocks import Layout
from eagc_jax.gram import Gram, Metric, metric_blocks
from eagc_jax.objectives import finite_rows
from eagc_jax.typing import PyTree


class Step(NamedTuple):
    """What is given in one step."""

    leaves: dict[str, jax.Array]  # (K, *shape).
    layout: Layout
    mask: jax.Array  # shape=(K,), bool.
    extra: dict[str, PyTree]  # fields of the problem that don't come from gradients.
    names: tuple[str, ...]  # mesh axes over which shard_map may have split leaves.
    metric: Metric | None = None  # of inner products; its rest is that of the step.


class Decided(NamedTuple):
    """What a step came to."""

    weights: jax.Array  # shape=(B, K).
    finite: jax.Array  # shape=(K,), bool: or not active.
    state: AggregateState
    gram: Gram | None  # of every block, in this step; None where nothing needed it.


def decide(
    step: Step, state: AggregateState, options: Options, weighting: Weighting
) -> Decided:
    """Weights from this step's gradients."""
    looks = _looks(step, state, options, weighting)
    if looks:
        gram, finite, rest = metric_blocks(
            step.leaves, step.layout, step.mask, step.names, step.metric
        )
    else:
        gram, finite = _unseen(step, options)
        rest = None
    active, seen = step.mask & finite, gram
    gram, gram_average = smooth_gram(
        gram, state.gram_average, active, options.gram_smoothing
    )
    preference = share(options.preference, active).astype(gram.norms.dtype)
    key, keys = state.key, None
    number_of_blocks = gram.scale.shape[0]
    if weighting.random:
        key, this = jax.random.split(state.key)
        keys = jax.random.split(this, number_of_blocks)

    def solve(gram, own, key):
        problem = Problem(gram, preference, active, key, **step.extra)
        weights, own, info = weighting.apply(problem, own)
        weights = rescaled(weights, problem, options.rescale, weighting.convention)
        return jnp.where(active, weights, 0.0), own, info

    weights, method, info = _over_blocks(solve, number_of_blocks)(
        gram, state.method, keys
    )
    weights, weight_average = smooth_weights(
        weights, state.weight_average, active, options.weight_smoothing
    )
    fallbacks = state.fallbacks
    if options.certify:
        weights, stepped_in = _over_blocks(certified, number_of_blocks)(weights, gram)
        weights = jnp.where(active, weights, 0.0)
        fallbacks = counted(fallbacks, jnp.sum(stepped_in, dtype=jnp.int32))
    if rest is not None:
        weights, capped = _over_blocks(cleared, number_of_blocks)(weights, seen, rest)
        weights = jnp.where(active, weights, 0.0)
        fallbacks = counted(fallbacks, jnp.sum(capped, dtype=jnp.int32))
    new_state = state._replace(
        weights=as_shown(weights, step.layout),
        residual=jnp.max(info.residual, initial=0.0).astype(jnp.float32),
        iterations=jnp.max(info.iterations, initial=0).astype(jnp.int32),
        fallbacks=fallbacks,
        gram_average=gram_average,
        weight_average=weight_average,
        method=method,
        key=key,
    )
    return Decided(weights, finite, new_state, seen if looks else None)


def _looks(
    step: Step, state: AggregateState, options: Options, weighting: Weighting
) -> bool:
    """Whether anything needs the Gram."""
    return (
        weighting.needs_gram
        or options.certify
        or options.rescale == "norm_of_mean"
        or isinstance(state.gram_average, GramAverage)
        or (step.metric is not None and step.metric.has_rest)
    )


def _unseen(step: Step, options: Options) -> tuple[Gram, jax.Array]:
    """What stands for the Gram of every block where nothing needs it; who is finite."""
    finite = _finite_objectives(step)
    dtypes = [compute_dtype(leaf.real.dtype) for leaf in step.leaves.values()]
    blocks = step.layout.number_of_blocks()
    norms = (step.mask & finite).astype(functools.reduce(np.promote_types, dtypes))
    one = Gram(
        jnp.eye(options.number, dtype=norms.dtype), norms, jnp.ones([], norms.dtype)
    )
    gram = jax.tree.map(lambda x: jnp.broadcast_to(x, (blocks, *x.shape)), one)
    return gram, finite


def _finite_objectives(step: Step) -> jax.Array:
    """``(K,)`` bool: no NaN and no infinity in the gradient, or not active."""
    leaves = list(step.leaves.values())
    bad = [(~finite_rows(leaf)).astype(jnp.int32) for leaf in leaves]
    return (max_leaves(bad, leaves, step.names) == 0) | ~step.mask


def layout_for(leaves: dict[str, jax.Array], options: Options) -> Layout:
    """The blocks of these updates; ValueError where shard_map has split them apart."""
    layout = blocks_lib.layout_of_updates(options.granularity, leaves, options.names)
    for name, split in layout.splits.items():
        if split.across:
            raise ValueError(
                f"the blocks of leaf '{name}' are split over {split.across}; inside "
                "shard_map aggregators have weights for blocks that span their leaf: "
                f"use granularity 'global' or 'tensor', not {options.granularity!r}, or "
                "jit without shard_map."
            )
    return layout


def as_repeated(decided: Decided) -> Decided:
    """As :func:`repeat` returns it: weights as the state keeps them, and no Gram."""
    return decided._replace(weights=decided.weights.astype(jnp.float32), gram=None)


def repeat(step: Step, state: AggregateState) -> Decided:
    """The last step's weights; only who is finite is looked at."""
    finite = _finite_objectives(step)
    active = step.mask & finite
    weights = jnp.where(active, from_shown(state.weights, step.layout), 0.0)
    return Decided(weights, finite, state, None)


def _over_blocks(function: Callable[..., PyTree], number: int) -> Callable[..., PyTree]:
    """``function`` over a leading axis of blocks; not batched where there is one."""
    if number != 1:
        return jax.vmap(function)

    def single(*arguments: PyTree) -> PyTree:
        found = function(*jax.tree.map(lambda x: x[0], arguments))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], found)

    return single
