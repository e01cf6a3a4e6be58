"""From a weighting to an Optax transformation ``(K, ...) -> (...)``.

How to add a method that needs the Gram matrix alone, as ``aggregators/mymethod.py``:

1. A solve on a :class:`~eagc_jax.aggregators._weighting.Problem`. Work with
   ``problem.gram.cosines`` (unit diagonal) and ``problem.gram.norms`` (relative to the
   largest), never with an absolute epsilon; ``unscale(y, norms)`` turns weights of unit
   gradients into weights of gradients. Return weights, or (weights, SolveInfo)::

       def _solve(problem: Problem) -> tuple[jax.Array, SolveInfo]: ...

2. The pure weighting, ``mymethod_weights(gram, *, preference=None, ...) -> (K,)``:
   ``return _solve(problem_of(gram, preference))[0]``; listed in ``weightings.py`` as
   ``mymethod``. It must jit and vmap.
3. The factory ``mymethod(num_objectives, *, ..., **options: Unpack[GramOptions])``,
   decorated with ``shows_options``: ``return from_weighting(num_objectives,
   stateless("mymethod", "mean", _solve), **options)``; listed in
   ``aggregators/__init__.py``. The convention says what length the update has: "sum",
   "mean", "convex" or "unit".
4. A random method sets ``random=True`` and uses ``problem.key``; a stateful one is a
   ``Weighting`` with ``init`` and ``apply(problem, state) -> (weights, state, info)``;
   one that needs losses sets ``needs_values=True`` and uses ``problem.values``; one
   with a keyword argument of its own in ``update`` says in ``reads`` which field of the
   problem it becomes; one that doesn't look at the Gram matrix sets
   ``needs_gram=False``.
5. A row in the table of ``tests/aggregators/table.py``: which properties it has. An
   absent objective arrives with norm 0 and ``problem.active`` False, a zero gradient
   with norm 0; NaN may arrive in norms and must leave in the weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np
import optax

from eagc_jax import blocks as blocks_lib
from eagc_jax._checks import (
    DECAY,
    NONFINITE_POLICIES,
    check_choice,
    check_count,
    check_mask,
    check_num_objectives,
    check_number,
    check_objective_axis,
    check_preference,
    check_same_names,
    check_same_shapes,
)
from eagc_jax._shards import (
    AxisName,
    check_averaged,
    check_axis_name,
    max_leaves,
)
from eagc_jax._states import check_state
from eagc_jax._trees import compute_dtype, counted, named_leaves, select
from eagc_jax.aggregators._averages import (
    GramAverage,
    init_gram_average,
    init_weight_average,
    smooth_gram,
    smooth_weights,
)
from eagc_jax.aggregators._signature import shows_options_of
from eagc_jax.aggregators._weighting import (
    CONVENTIONS,
    Problem,
    Weighting,
    share,
    unscale,
)
from eagc_jax.blocks import GLOBAL, ByLeaf, Granularity, Layout
from eagc_jax.gram import Gram, check_gram_granularity, gram_blocks
from eagc_jax.gram.sums import weighted_blocks, weighted_leaf
from eagc_jax.objectives import finite_rows
from eagc_jax.solvers.entrywise import dot, matvec
from eagc_jax.solvers.nnqp import nnqp

RESCALES = ("native", "sum", "mean", "norm_of_mean")


class GramOptions(TypedDict, total=False):
    """The options that every aggregator built on a weighting takes."""

    preference: Sequence[float] | jax.typing.ArrayLike | None
    rescale: str
    granularity: Granularity
    weight_smoothing: float
    gram_smoothing: float
    recompute_every: int
    nonfinite: str
    certify: bool
    seed: int
    axis_name: AxisName


class AggregateState(NamedTuple):
    """What an aggregator decided last, and what it remembers."""

    # Granularity "global": shape=(K,), float32. Else by leaf, (K, *block).
    weights: jax.Array | ByLeaf
    residual: jax.Array  # shape=(), float32: of the last solve, the worst block's.
    iterations: jax.Array  # shape=(), int32: the same.
    fallbacks: jax.Array  # shape=(), int32: blocks in which ``certify`` stepped in.
    nonfinite_count: jax.Array  # shape=(K,), int32: steps with a NaN or an infinity.
    count: jax.Array  # shape=(), int32: steps that were not skipped.
    gram_average: Any  # GramAverage, or () without gram_smoothing.
    weight_average: Any  # WeightAverage, or () without weight_smoothing.
    method: Any  # the method's own state, a leading axis of blocks; or ().
    key: Any  # shape=(2,), uint32: PRNG key of a random method; or ().


class _Options(NamedTuple):
    number: int
    preference: jax.Array
    rescale: str
    granularity: Granularity
    weight_smoothing: Any
    gram_smoothing: Any
    recompute_every: int
    nonfinite: str
    certify: bool
    seed: Any
    names: tuple[str, ...]  # mesh axes over which shard_map may have split leaves.


def from_weighting(
    num_objectives: int,
    weighting: Weighting,
    *,
    preference: Sequence[float] | jax.typing.ArrayLike | None = None,
    rescale: str = "native",
    granularity: Granularity = "global",
    weight_smoothing: float = 0.0,
    gram_smoothing: float = 0.0,
    recompute_every: int = 1,
    nonfinite: str = "propagate",
    certify: bool = False,
    seed: int = 0,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    r"""An aggregator from a weighting: Gram matrix, weights, weighted sum.

    Every factory in :mod:`eagc_jax.aggregators` that works on the Gram matrix calls
    this and takes the same options:

    Args:
      num_objectives: K, a Python int.
      weighting: the method.
      preference: K numbers >= 0 in proportion to how much each objective counts, or
        None for equal ones. What it means is the method's: its docstring says.
      rescale: the length of the update. "native" is the method's own; "sum" and "mean"
        bring methods to that convention by a constant factor (K, or 1/K), so that
        the learning rate can stay when the method changes; methods whose length isn't
        the gradients' (Nash) are given the norm of the mean, times K for "sum".
        "norm_of_mean" gives every update the norm of the preference-weighted mean; an
        update that is 0 to rounding stays as it is.
      granularity: "global" (one set of weights), "tensor", "channel", or a function:
        weights per block, all solved in one batched call.
      weight_smoothing: decay in [0, 1) of a bias-corrected average of the weights.
      gram_smoothing: the same for the Gram matrix in front of the method.
      recompute_every: solve at every n-th step, apply the last weights in between.
      nonfinite: an objective with a NaN or an infinity in its gradient: "propagate" (the
        update is NaN everywhere, the state stays), "skip_objective" (it is left out of
        this step), "skip_update" (the update is 0, the state stays). Counted always.
      certify: check that the update conflicts with no objective, and where it does
        project it on the cone of those that don't; counted in ``fallbacks``.
      seed: of a random method's key.
      axis_name: inside ``jax.shard_map``, the mesh axis, or axes, over which parameters
        may be split: inner products are summed over their devices. Gradients are
        averaged over the axes that split the batch before they come here. Under ``jit``
        leave it None: the compiler does it.

    Returns:
      A transformation from leaves ``(K, *shape)`` to ``(*shape)``, in the leaves' own
      dtype; its state is an :class:`AggregateState`. ``update`` takes two more keyword
      arguments: ``active_mask``, ``(K,)`` bool, False for objectives that this batch
      doesn't have (weight 0, state kept, whatever their gradients hold); and ``value``,
      the ``(K,)`` losses, for methods that need them.

    Raises:
      ValueError: bad arguments (at once); updates that don't fit (when traced).
    """
    options = _Options(
        check_num_objectives(num_objectives),
        check_preference(preference, int(num_objectives)),
        rescale,
        granularity,
        weight_smoothing,
        gram_smoothing,
        recompute_every,
        nonfinite,
        certify,
        seed,
        check_axis_name(axis_name),
    )
    _check_options(options, weighting)

    def init_fn(params):
        return _initial_state(params, options, weighting)

    def update_fn(
        updates, state, params=None, *, active_mask=None, value=None, **extra_args
    ):
        check_objective_axis(updates, options.number, params)
        leaves = named_leaves(updates)
        if not leaves:  # an empty group of optax.partition
            return updates, state
        check_averaged(updates, params, options.names)
        layout = _layout(leaves, options)
        _check_state(layout, state, options.number)
        if weighting.needs_values and value is None:
            raise ValueError(
                f"{weighting.name} needs the losses: call update(..., value=losses) with "
                f"an array of shape ({options.number},)."
            )
        mask = check_mask(active_mask, options.number)
        extra = {"values": value, **weighting.reads(extra_args)}
        step = _Step(leaves, layout, mask, extra, options.names)
        if recompute_every == 1:
            decided = _decide(step, state, options, weighting)
        else:
            decided = jax.lax.cond(
                state.count % recompute_every == 0,
                lambda: _in_single(*_decide(step, state, options, weighting)),
                lambda: _repeat(step, state),
            )
        weights, finite, new_state = decided
        return _finish(updates, step, weights, finite, state, new_state, options)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


shows_options = shows_options_of(from_weighting)


# ---------------------------------------------------------------------------
# One step
# ---------------------------------------------------------------------------


class _Step(NamedTuple):
    leaves: dict[str, jax.Array]
    layout: Layout
    mask: jax.Array  # shape=(K,), bool.
    extra: dict[str, Any]  # fields of the problem that don't come from gradients.
    names: tuple[str, ...]


def _decide(
    step: _Step, state: AggregateState, options: _Options, weighting: Weighting
) -> tuple[jax.Array, jax.Array, AggregateState]:
    """Weights ``(B, K)`` from this step's gradients; who is finite; the state then."""
    gram, finite = _look(step, state, options, weighting)
    active = step.mask & finite
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
        weights = _rescaled(weights, problem, options.rescale, weighting.convention)
        return jnp.where(active, weights, 0.0), own, info

    weights, method, info = _over_blocks(solve, number_of_blocks)(
        gram, state.method, keys
    )
    weights, weight_average = smooth_weights(
        weights, state.weight_average, active, options.weight_smoothing
    )
    fallbacks = state.fallbacks
    if options.certify:
        weights, stepped_in = _over_blocks(_certified, number_of_blocks)(weights, gram)
        weights = jnp.where(active, weights, 0.0)
        fallbacks = counted(fallbacks, jnp.sum(stepped_in, dtype=jnp.int32))
    new_state = state._replace(
        weights=_as_shown(weights, step.layout),
        residual=jnp.max(info.residual, initial=0.0).astype(jnp.float32),
        iterations=jnp.max(info.iterations, initial=0).astype(jnp.int32),
        fallbacks=fallbacks,
        gram_average=gram_average,
        weight_average=weight_average,
        method=method,
        key=key,
    )
    return weights, finite, new_state


def _look(
    step: _Step, state: AggregateState, options: _Options, weighting: Weighting
) -> tuple[Gram, jax.Array]:
    """The Gram of every block, or a stand-in where nothing needs it; who is finite."""
    if (
        weighting.needs_gram
        or options.certify
        or options.rescale == "norm_of_mean"
        or isinstance(state.gram_average, GramAverage)
    ):
        return gram_blocks(step.leaves, step.layout, step.mask, step.names)
    finite = _finite_objectives(step)
    dtypes = [compute_dtype(leaf.real.dtype) for leaf in step.leaves.values()]
    blocks = step.layout.number_of_blocks()
    norms = (step.mask & finite).astype(functools.reduce(np.promote_types, dtypes))
    one = Gram(
        jnp.eye(options.number, dtype=norms.dtype), norms, jnp.ones([], norms.dtype)
    )
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (blocks, *x.shape)), one), finite


def _finite_objectives(step: _Step) -> jax.Array:
    """``(K,)`` bool: no NaN and no infinity in the gradient, or not active."""
    leaves = list(step.leaves.values())
    bad = [(~finite_rows(leaf)).astype(jnp.int32) for leaf in leaves]
    return (max_leaves(bad, leaves, step.names) == 0) | ~step.mask


def _layout(leaves: dict[str, jax.Array], options: _Options) -> Layout:
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


def _in_single(
    weights: jax.Array, finite: jax.Array, state: AggregateState
) -> tuple[jax.Array, jax.Array, AggregateState]:
    """Weights as the state keeps them, of float64 gradients too."""
    return weights.astype(jnp.float32), finite, state


def _repeat(
    step: _Step, state: AggregateState
) -> tuple[jax.Array, jax.Array, AggregateState]:
    """The last step's weights; only who is finite is looked at."""
    finite = _finite_objectives(step)
    active = step.mask & finite
    weights = jnp.where(active, _from_shown(state.weights, step.layout), 0.0)
    return weights, finite, state


def _finish(updates, step, weights, finite, state, new_state, options):
    """Applies the weights, and the non-finite policy to updates and state."""
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


def _weighted(step: _Step, weights: jax.Array, keep: jax.Array) -> dict[str, jax.Array]:
    """``sum_k weights[b, k] leaf[k]`` of every leaf, b the block."""
    if step.layout.granularity == GLOBAL:
        return {n: weighted_leaf(x, weights[0], keep) for n, x in step.leaves.items()}
    factors = step.layout.scatter(_by_group(weights, step.layout))
    return {
        n: weighted_blocks(leaf, factors[n], keep) for n, leaf in step.leaves.items()
    }


def _over_blocks(function, number: int):
    """``function`` over a leading axis of blocks; not batched where there is one."""
    if number != 1:
        return jax.vmap(function)

    def single(*arguments):
        found = function(*jax.tree.map(lambda x: x[0], arguments))
        return jax.tree.map(lambda x: jnp.asarray(x)[None], found)

    return single


# ---------------------------------------------------------------------------
# Scale, certificate
# ---------------------------------------------------------------------------


def _rescaled(
    weights: jax.Array, problem: Problem, rescale: str, convention: str
) -> jax.Array:
    """Weights of the asked length from those of the method's own convention."""
    if rescale == "native":
        return weights
    number = jnp.sum(problem.active, dtype=jnp.int32).astype(weights.dtype)
    if rescale != "norm_of_mean" and convention != "unit":
        if (convention == "sum") == (rescale == "sum"):
            return weights
        return weights * (number if rescale == "sum" else 1 / jnp.maximum(number, 1))
    length = _length(weights, problem.gram)
    target = _length(problem.preference, problem.gram)
    # What is left where gradients cancel is rounding, and has no direction.
    size = jnp.sum(jnp.abs(weights) * problem.gram.norms)
    tiny = 4 * float(jnp.finfo(weights.dtype).eps) ** 0.5
    factor = jnp.where(length > tiny * size, target / length, 1.0)
    return weights * factor * (number if rescale == "sum" else 1.0)


def _length(weights: jax.Array, gram: Gram) -> jax.Array:
    """The norm of the weighted sum, over the scale."""
    scaled = weights * gram.norms
    product = matvec(gram.cosines, scaled)
    return jnp.sqrt(jnp.maximum(dot(scaled, product), 0.0))


def _certified(weights: jax.Array, gram: Gram) -> tuple[jax.Array, jax.Array]:
    """Weights whose update conflicts with no objective, and whether they are others."""
    scaled = weights * gram.norms
    slopes = matvec(gram.cosines, scaled)
    eps = float(jnp.finfo(weights.dtype).eps)
    allowed = 4 * eps * jnp.sum(jnp.abs(scaled))
    conflicts = jnp.any((slopes < -allowed) & (gram.norms > 0))
    added, _ = nnqp(gram.cosines, jnp.where(conflicts, -slopes, 0.0))
    return weights + unscale(added, gram.norms), conflicts


# ---------------------------------------------------------------------------
# State and arguments
# ---------------------------------------------------------------------------


def _initial_state(
    params: Any, options: _Options, weighting: Weighting
) -> AggregateState:
    number = options.number
    leaves = named_leaves(params)
    layout = blocks_lib.layout_of_params(options.granularity, leaves)
    blocks = layout.number_of_blocks()
    weights: Any = jnp.zeros((number,), jnp.float32)
    if options.granularity != GLOBAL:
        zeros = jnp.zeros((blocks, number), jnp.float32)
        weights = layout.show(_by_group(zeros, layout))
    method = jax.tree.map(
        lambda x: jnp.repeat(jnp.asarray(x)[None], blocks, axis=0),
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


def _as_shown(weights: jax.Array, layout: Layout) -> Any:
    """``(B, K)`` as the state holds it."""
    if layout.granularity == GLOBAL:
        return weights[0].astype(jnp.float32)
    return layout.show(_by_group(weights.astype(jnp.float32), layout))


def _from_shown(shown: Any, layout: Layout) -> jax.Array:
    """The inverse."""
    if layout.granularity == GLOBAL:
        return shown[None]
    parts = [group.reshape(group.shape[0], -1) for group in shown.groups]
    return jnp.concatenate(parts, axis=1).T


def _by_group(weights: jax.Array, layout: Layout) -> dict[str, jax.Array]:
    """``(B, K)``, blocks in the layout's order, by group: ``(K, leaves, *block)``."""
    found, start = {}, 0
    for group, shape in layout.group_shapes().items():
        stop = start + math.prod(shape)
        found[group] = weights[start:stop].T.reshape(weights.shape[1], *shape)
        start = stop
    return found


def _check_state(layout: Layout, state: AggregateState, number: int) -> None:
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


def _check_options(options: _Options, weighting: Weighting) -> None:
    check_gram_granularity(options.granularity)
    check_choice("a weighting's convention", weighting.convention, CONVENTIONS)
    check_choice("rescale", options.rescale, RESCALES)
    check_choice("nonfinite", options.nonfinite, NONFINITE_POLICIES)
    check_number("weight_smoothing", options.weight_smoothing, DECAY)
    check_number("gram_smoothing", options.gram_smoothing, DECAY)
    check_count(
        "recompute_every",
        options.recompute_every,
        1,
        " Under optax.inject_hyperparams, name it in static_args.",
    )
    if not isinstance(options.certify, bool):
        raise ValueError(f"certify must be True or False, got {options.certify!r}.")
